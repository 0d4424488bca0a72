"""Resumes that went wrong elsewhere; each test is named after that."""

from __future__ import annotations

from tests.support.project import Project, prompts
from tests.support.replies import ByPrompt, Reply, prompt_of
from tests.support.server import Server


def _mend(server: Server) -> None:
    assert isinstance(server.script, ByPrompt)
    server.script.mended = True
    server.requests.clear()


def _sent(server: Server) -> list[str]:
    return sorted(seen.prompt.split()[0] for seen in server.requests)


def test_only_the_first_of_two_failed_branches_was_resumed(project: Project, server: Server) -> None:
    file = project.flow(
        steps=prompts(one="one [status=400]", other="other [status=400]", join="join {{ one }} {{ other }}")
    )
    project.json("run", file, code=1)
    _mend(server)
    steps = project.json("resume")["steps"]
    assert {step["status"] for step in steps.values()} == {"succeeded"}
    assert _sent(server) == ["join", "one", "other"]


def test_success_was_recorded_though_a_branch_still_failed(project: Project, server: Server) -> None:
    file = project.flow(steps=prompts(one="one [status=400] [times=1]", other="other [status=400]"))
    project.json("run", file, code=1)
    assert project.json("resume", code=1)["status"] == "failed"
    assert project.json("show", "last")["status"] == "failed"


def test_a_stale_downstream_survived(project: Project, server: Server) -> None:
    """What was built on an answer that is no longer there is built again."""
    answers = {"root": "old"}
    plain = ByPrompt()
    server.script = lambda body, n: (
        Reply(text=answers["root"]) if prompt_of(body).startswith("root") else plain(body, n)
    )
    file = project.flow(
        steps={
            "root": {"prompt": "root", "cache": False},
            "below": {"prompt": "below {{ root }}"},
            "deeper": {"prompt": "deeper {{ below }}"},
            "bad": {"prompt": "bad [status=400]"},
        },
        outputs={"deeper": "{{ deeper }}"},
    )
    project.json("run", file, code=1)
    answers["root"] = "new"
    text = (project.folder / file).read_text()
    project.write(file, text.replace("prompt: root", "prompt: root anew").replace(" [status=400]", ""))
    server.requests.clear()
    steps = project.json("resume", "--file", file)["steps"]
    assert steps["root"]["output"] == "new"
    assert [seen.prompt for seen in server.requests if seen.prompt.startswith("below")] == ["below new"]
    assert _sent(server) == ["bad", "below", "deeper", "root"]


def test_an_empty_output_looked_unchanged(project: Project, server: Server) -> None:
    file = project.flow(steps={"root": {"shell": "printf ''"}, "below": {"prompt": "below: {{ root }}"}})
    run_id = project.json("run", file)["run_id"]
    project.write(file, (project.folder / file).read_text().replace("printf ''", "printf full"))
    server.requests.clear()
    project.json("resume", run_id, "--file", file)
    assert [seen.prompt for seen in server.requests] == ["below: full"]


def test_an_empty_output_is_a_result_that_resume_keeps(project: Project, server: Server) -> None:
    server.script = ByPrompt()
    file = project.flow(
        steps={
            "root": {"shell": "echo again >> times; printf ''"},
            "nil": {"value": []},
            "below": {"prompt": "below{{ root }}{{ nil }}", "cache": False},
            "bad": {"prompt": "bad [status=400]"},
        }
    )
    project.json("run", file, code=1)
    server.requests.clear()
    project.json("resume", code=1)
    assert _sent(server) == ["bad"]
    assert (project.folder / "times").read_text() == "again\n"


def test_a_join_ran_twice(project: Project, server: Server) -> None:
    """Two of its branches end in the same instant, in a resume too."""
    branches = {f"b{n}": f"b{n} [status=400]" for n in range(6)}
    joined = " ".join(f"{{{{ {name} }}}}" for name in branches)
    file = project.flow(steps=prompts(**branches, join=f"join {joined}", end="end {{ join }}"))
    project.json("run", file, code=1)
    _mend(server)
    server.hold = 6
    project.json("resume")
    assert _sent(server) == [*branches, "end", "join"]


def test_a_changed_graph_was_resumed_as_if_it_were_the_same(project: Project, server: Server) -> None:
    """The same steps, but one now reads another: it runs, though its own text looks as it did."""
    file = project.flow(
        steps={**prompts(a="a", b="b", c="c reads {{ x }}", bad="bad [status=400]"), "x": {"value": "{{ a }}"}}
    )
    project.json("run", file, code=1)
    project.write(file, (project.folder / file).read_text().replace("'{{ a }}'", "'{{ b }}'"))
    server.requests.clear()
    result = project.json("resume", "--file", file, code=1)
    assert _sent(server) == ["bad", "c"]
    assert result["steps"]["x"]["output"] == result["steps"]["b"]["output"]


def test_a_step_that_left_the_graph_is_no_part_of_the_run(project: Project, server: Server) -> None:
    file = project.flow(steps=prompts(a="a", gone="gone [status=400]"))
    project.json("run", file, code=1)
    project.write(file, project.folder.joinpath(file).read_text().split("  gone:")[0])
    result = project.json("resume", "--file", file)
    assert result["status"] == "succeeded"
    assert len(server.requests) == 2


def test_skipped_steps_stay_skipped_and_cost_nothing(project: Project, server: Server) -> None:
    file = project.flow(
        steps={
            "no": {"prompt": "no", "when": "{{ 1 > 2 }}"},
            "after": {"prompt": "after {{ no }}"},
            "other": {"prompt": "other {{ no | default('nothing') }}"},
            "bad": {"prompt": "bad [status=400]"},
        }
    )
    project.json("run", file, code=1)
    _mend(server)
    steps = project.json("resume")["steps"]
    assert {name: step["status"] for name, step in steps.items()} == {
        "no": "skipped",
        "after": "skipped",
        "other": "succeeded",
        "bad": "succeeded",
    }
    assert _sent(server) == ["bad"]
