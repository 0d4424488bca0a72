"""A run that failed goes on with what it has (P5)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.project import QUICK, Project, prompts
from tests.support.replies import ByPrompt, Reply, prompt_of
from tests.support.server import Server


def _mend(server: Server) -> None:
    assert isinstance(server.script, ByPrompt)
    server.script.mended = True
    server.requests.clear()


def _sent(server: Server) -> list[str]:
    """The first word of each prompt."""
    return sorted(seen.prompt.split()[0] for seen in server.requests)


TWO_BRANCHES = prompts(
    root="root",
    left="left [status=400]",
    after_left="after-left {{ left }}",
    middle="middle {{ root }}",
    right="right [status=400]",
    after_right="after-right {{ right }}",
)
OUTPUTS = {"left": "{{ after_left }}", "right": "{{ after_right }}", "middle": "{{ middle }}"}


def _two_branches(project: Project) -> str:
    return project.flow(
        inputs={"word": "none"}, steps={**TWO_BRANCHES, "named": {"prompt": "named {{ inputs.word }}"}}, outputs=OUTPUTS
    )


def test_two_failed_branches_are_both_named_and_all_else_finishes(server: Server, project: Project) -> None:
    outcome = project.cli("run", _two_branches(project))
    assert outcome.code == 1
    assert "ERROR     left " in outcome.err
    assert "ERROR     right " in outcome.err
    assert "answer " in outcome.out, "the output that there is was not shown"
    (run_id,) = project.run_ids()
    assert f"flowllm resume {run_id}" in outcome.err
    shown = project.json("show", run_id)
    assert {name: step["status"] for name, step in shown["steps"].items()} == {
        "root": "succeeded",
        "left": "failed",
        "after_left": "blocked",
        "middle": "succeeded",
        "right": "failed",
        "after_right": "blocked",
        "named": "succeeded",
    }
    for name in ("left", "right"):
        assert shown["steps"][name]["error"]["type"] == "RequestRejected"
        assert shown["steps"][name]["attempts"] == 1
    assert _sent(server) == ["left", "middle", "named", "right", "root"], "a 400 was sent again"


def test_resume_sends_what_failed_and_what_that_blocked(server: Server, project: Project) -> None:
    project.json("run", _two_branches(project), "-i", "word=given", code=1)
    _mend(server)
    result = project.json("resume")
    assert result["status"] == "succeeded"
    assert result["inputs"] == {"word": "given"}
    assert _sent(server) == ["after-left", "after-right", "left", "right"]
    assert all(value.startswith("answer ") for value in result["outputs"].values())

    server.requests.clear()
    again = project.cli("resume", result["run_id"])
    assert again.code == 0
    assert "has succeeded already" in again.err
    assert server.requests == []


def test_a_second_resume_keeps_what_the_first_one_did(server: Server, project: Project) -> None:
    """The server is mended for one branch, then for the other."""
    project.json("run", _two_branches(project), code=1)
    broken = ByPrompt()
    server.script = lambda body, n: Reply(text="mended") if prompt_of(body).startswith("left") else broken(body, n)
    server.requests.clear()
    assert project.json("resume", code=1)["steps"]["after_left"]["status"] == "succeeded"
    assert _sent(server) == ["after-left", "left", "right"]
    server.script = ByPrompt()
    _mend(server)
    assert project.json("resume")["status"] == "succeeded"
    assert _sent(server) == ["after-right", "right"]


def test_resume_needs_no_memo(server: Server, project: Project) -> None:
    """Results belong to the run: with the memo cleared, still only what failed is sent."""
    file = project.flow(steps={**TWO_BRANCHES, "plain": {"prompt": "plain", "cache": False}}, outputs=OUTPUTS)
    project.json("run", file, code=1)
    project.cli("cache", "clear", "--yes")
    _mend(server)
    assert project.json("resume")["status"] == "succeeded"
    assert _sent(server) == ["after-left", "after-right", "left", "right"]


def test_an_edited_file_is_told_with_the_command_that_takes_it(server: Server, project: Project) -> None:
    file = _two_branches(project)
    project.json("run", file, code=1)
    text = (project.folder / file).read_text()
    project.write(file, text.replace("left [status=400]", "port"))
    _mend(server)
    outcome = project.cli("resume")
    (run_id,) = project.run_ids()
    assert outcome.code == 0
    assert f"flowllm resume {run_id} --file " in outcome.err
    assert "left" in _sent(server), "the run did not go on with the workflow it began with"


def test_resume_takes_an_edited_file(server: Server, project: Project) -> None:
    file = _two_branches(project)
    project.json("run", file, "-i", "word=given", code=1)
    text = (project.folder / file).read_text()
    project.write(file, text.replace("left [status=400]", "port").replace("root\n", "trunk\n"))
    server.requests.clear()
    (run_id,) = project.run_ids()
    outcome = project.cli("resume", run_id, "--file", file)
    assert outcome.code == 1
    assert "--file" not in outcome.err.split("resume it with")[0]
    # root was edited, and middle is built on its answer; after_left was blocked; right is as it was
    assert _sent(server) == ["after-left", "middle", "port", "right", "trunk"]
    _mend(server)
    assert project.json("resume", run_id)["inputs"] == {"word": "given"}
    assert _sent(server) == ["after-right", "right"]


def test_a_step_that_was_added_is_all_that_is_sent(server: Server, project: Project) -> None:
    project.json("run", project.flow(steps=prompts(a="a", b="b {{ a }}")))
    server.requests.clear()
    file = project.flow(steps=prompts(a="a", b="b {{ a }}", c="c {{ b }}"))
    (run_id,) = project.run_ids()
    assert set(project.json("resume", run_id, "--file", file)["steps"]) == {"a", "b", "c"}
    assert _sent(server) == ["c"]


def test_auto_that_would_mean_another_provider_refuses_to_resume(server: Server, project: Project) -> None:
    file = project.flow(defaults={"provider": "auto", "model": "test-model", "retry": QUICK}, steps=TWO_BRANCHES)
    project.json("run", file, code=1)
    del project.environ["OPENAI_BASE_URL"]
    outcome = project.cli("resume")
    assert outcome.code == 2, outcome.said
    assert "openai" in outcome.err
    assert "simulated" in outcome.err


FORGIVEN = {
    "fails": {"prompt": "fails [status=400]", "on_error": "continue"},
    "uses": {"prompt": "uses {{ fails | default('nothing') }}"},
    "other": {"prompt": "other"},
    "last": {"prompt": "last [status=400]"},
}


def test_resume_lets_be_what_on_error_continue_let_pass(server: Server, project: Project) -> None:
    project.json("run", project.flow(steps=FORGIVEN), code=1)
    _mend(server)
    assert project.json("resume")["steps"]["fails"]["status"] == "failed"
    assert _sent(server) == ["last"]


def test_retry_failed_asks_that_too_and_what_depends_on_it(server: Server, project: Project) -> None:
    result = project.json("run", project.flow(steps={name: FORGIVEN[name] for name in FORGIVEN if name != "last"}))
    assert result["status"] == "succeeded"
    assert "nothing" in server.requests[-1].prompt
    _mend(server)
    again: dict[str, Any] = project.json("resume", result["run_id"], "--retry-failed")
    assert again["steps"]["fails"]["status"] == "succeeded"
    assert _sent(server) == ["fails", "uses"]


def test_fail_fast_stops_and_resume_completes(server: Server, project: Project) -> None:
    file = project.flow(steps=prompts(bad="bad [status=400]", slow="slow [sleep=0.3]", after="after {{ slow }}"))
    result = project.json("run", file, "--fail-fast", code=1)
    assert result["status"] == "failed"
    assert result["steps"]["slow"]["status"] == "succeeded", "what was in flight is paid for and kept"
    assert _sent(server) == ["bad", "slow"]
    _mend(server)
    assert project.json("resume")["status"] == "succeeded"
    assert "slow" not in _sent(server)


def test_an_input_file_changed_on_disk_does_not_change_the_run(server: Server, project: Project) -> None:
    project.write("words.txt", "first words")
    file = project.flow(inputs={"text": None}, steps=prompts(a="a [status=400] {{ inputs.text }}"))
    project.json("run", file, "-i", "text=@words.txt", code=1)
    project.write("words.txt", "other words")
    _mend(server)
    project.json("resume")
    assert [seen.prompt for seen in server.requests] == ["a [status=400] first words"]


@pytest.mark.parametrize("named", ["nothing-like-this", "last"])
def test_a_run_that_is_not_there_exits_2(named: str, project: Project) -> None:
    outcome = project.cli("resume", named)
    assert outcome.code == 2
    assert "Traceback" not in outcome.err
    assert outcome.err.startswith("error: ")
