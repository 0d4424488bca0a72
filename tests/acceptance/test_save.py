"""`save` within runs: each file once, only what is durable, and nothing is paid for again."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.project import Project, prompts
from tests.support.server import Server
from tests.support.warm import DIES

ITEMS = "{{ ['one', 'two', 'three'] }}"


def texts(folder: Path) -> dict[str, str]:
    """What is in the folder `out`."""
    out = folder / "out"
    return {str(path.relative_to(out)): path.read_text() for path in out.rglob("*") if path.is_file()}


def test_each_item_has_its_file_and_a_text_is_not_quoted(project: Project) -> None:
    step = {"foreach": ITEMS, "prompt": "[text=said {{ item }}]", "save": "out/{{ index }}/{{ item | slug }}.md"}
    project.json("run", project.flow(steps={"posts": step}))
    assert texts(project.folder) == {"0/one.md": "said one", "1/two.md": "said two", "2/three.md": "said three"}


def test_a_path_may_depend_on_the_output(project: Project) -> None:
    step = {"value": {"name": "a b", "n": 1}, "save": "out/{{ output.name | slug }}.json"}
    project.json("run", project.flow(steps={"a": step}))
    assert {name: json.loads(text) for name, text in texts(project.folder).items()} == {
        "a-b.json": {"name": "a b", "n": 1}
    }


def test_what_comes_from_the_memo_is_saved_too(project: Project, server: Server) -> None:
    file = project.flow(steps={"a": {"prompt": "[text=said]", "save": "out/a"}})
    project.json("run", file)
    (project.folder / "out" / "a").unlink()
    project.json("run", file)
    assert texts(project.folder) == {"a": "said"}
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("save", "said"),
    [("../a", "outside"), ("/etc/a", "outside"), ("out", "it is a folder"), ("x\ny", "no file's name")],
)
def test_a_path_that_cannot_be_right_is_found_before_anything_is_sent(
    save: str, said: str, project: Project, server: Server
) -> None:
    (project.folder / "out").mkdir()
    steps = {"a": {"prompt": "a", "save": "{{ inputs.x }}"}}
    outcome = project.json("run", project.flow(inputs={"x": ""}, steps=steps), "-i", f"x={save}", code=1)
    error = outcome["steps"]["a"]["error"]
    assert error["type"] == "SaveFailed"
    assert said in error["message"]
    assert server.requests == []


def test_one_path_twice_is_the_second_ones_failure(project: Project, server: Server) -> None:
    steps = {
        "a": {"prompt": "[text=a]", "save": "out/x"},
        "b": {"prompt": "[text=b] {{ a }}", "save": "out/../{{ inputs.folder }}/x"},
    }
    outcome = project.json("run", project.flow(inputs={"folder": "out"}, steps=steps), code=1)
    assert "for b and for a too" in outcome["steps"]["b"]["error"]["message"]
    assert texts(project.folder) == {"x": "a"}
    assert len(server.requests) == 1
    (project.folder / "out" / "x").unlink()
    step = {"foreach": ITEMS, "value": "{{ item }}", "save": "out/same"}
    outcome = project.json("run", project.flow(steps={"it": step}), code=1)
    assert outcome["steps"]["it"]["counts"]["succeeded"] == 1
    assert texts(project.folder)["same"] in {"one", "two", "three"}


def unwritable(project: Project, output: str) -> tuple[dict[str, Any], str]:
    """A step that is paid for, and whose file is to go where a file stands for a folder; its resumption."""
    steps = {**prompts(a=f"a [text={output}]"), "b": {"value": "{{ a }} below"}}
    steps["a"] |= {"save": "{{ output | replace(' ', '/') }}"}
    file = project.flow(steps=steps, outputs={"b": "{{ b }}"})
    return project.json("run", file, code=1), file


def test_a_result_that_cannot_be_saved_is_kept_and_a_resumption_only_saves(project: Project, server: Server) -> None:
    (project.folder / "out").write_text("in the way")
    outcome, _ = unwritable(project, "out a.md")
    step = outcome["steps"]["a"]
    assert (step["status"], step["output"]) == ("failed", "out a.md")
    assert step["error"]["type"] == "SaveFailed"
    assert outcome["steps"]["b"]["status"] == "blocked"
    assert len(server.requests) == 1
    again = project.json("resume", code=1)
    assert again["steps"]["a"]["error"]["type"] == "SaveFailed"
    (project.folder / "out").unlink()
    resumed = project.json("resume")
    assert resumed["outputs"] == {"b": "out a.md below"}
    assert resumed["steps"]["a"]["error"] is None
    assert texts(project.folder) == {"a.md": "out a.md"}
    assert len(server.requests) == 1, "it was paid for again"


def test_a_folder_that_cannot_be_written_to(project: Project, server: Server) -> None:
    (project.folder / "out").mkdir(0o500)
    file = project.flow(steps={"a": {"prompt": "[text=said]", "save": "out/a"}})
    outcome = project.finish(project.start("run", file, "--json", humble=True))
    assert outcome.code == 1, outcome.said
    assert outcome.json["steps"]["a"]["error"]["message"].endswith("Permission denied")
    (project.folder / "out").chmod(0o700)
    project.json("resume")
    assert texts(project.folder) == {"a": "said"}
    assert len(server.requests) == 1


def test_under_continue_the_others_go_on_and_a_resumption_saves(project: Project, server: Server) -> None:
    (project.folder / "out").mkdir()
    (project.folder / "out" / "1").write_text("in the way")
    step = {
        "foreach": ITEMS,
        "prompt": "[text=said/{{ item }}]",
        "save": "out/{{ index }}/{{ output }}",
        "on_error": "continue",
    }
    other = {"prompt": "never [status=400]", "needs": ["posts"]}
    project.json("run", project.flow(steps={"posts": step, "other": other}), code=1)
    assert texts(project.folder) == {"0/said/one": "said/one", "1": "in the way", "2/said/three": "said/three"}
    (project.folder / "out" / "1").unlink()
    project.json("resume", code=1)
    assert texts(project.folder)["1/said/two"] == "said/two"
    assert sum("said/" in seen.prompt for seen in server.requests) == 3


def test_what_a_resumption_finds_missing_or_changed_is_saved_again(project: Project) -> None:
    steps = {
        "a": {"value": "a", "save": "out/a"},
        "b": {"value": "b", "save": "out/b"},
        "c": {"shell": "test -e go", "needs": ["a", "b"]},
    }
    file = project.flow(steps=steps)
    project.json("run", file, code=1)
    (project.folder / "out" / "a").unlink()
    (project.folder / "out" / "b").write_text("another's")
    (project.folder / "go").touch()
    project.json("resume")
    assert texts(project.folder) == {"a": "a", "b": "b"}


@pytest.mark.parametrize(("moment", "there"), [("before", "old"), ("after", "said 2")])
def test_killed_at_the_rename_the_file_is_whole_and_a_resume_saves_the_rest(
    moment: str, there: str, project: Project, server: Server
) -> None:
    project.write("out/2", "old")
    step = {
        "foreach": "{{ range(5) | list }}",
        "prompt": "[text=said {{ item }}]",
        "save": "out/{{ item }}",
        "max_concurrent": 1,
    }
    outcome = project.run("run", project.flow(steps={"a": step}), **{DIES: f"{moment}-rename:3"})
    assert outcome.code == -signal.SIGKILL, outcome.said
    assert (project.folder / "out" / "2").read_text() == there
    assert project.cli("resume").code == 0
    assert texts(project.folder) == {str(number): f"said {number}" for number in range(5)}
    assert len(server.requests) == 5
