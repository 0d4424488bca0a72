"""The command that a failed run names does something: what failed is carried out again, or a mended file is taken."""

from __future__ import annotations

import contextlib
import re
import shlex
import sqlite3
from typing import Any

import pytest

from tests.support.project import Outcome, Project

TOOLS = """
    import pathlib

    def fails(x=0):
        with open("calls", "a") as file:
            file.write("x")
        if not pathlib.Path("mended").exists():
            raise ValueError("no")
        return x
    """
ONCE: dict[str, Any] = {"retry": {"max_attempts": 1}}
FAILS: dict[str, Any] = {"python": "./tools.py:fails", **ONCE}
EACH = {**FAILS, "foreach": "{{ [1, 2] }}", "with": {"x": "{{ item }}"}}
LET_PASS = {"steps": {"each": {**EACH, "on_error": "continue"}}, "outputs": {"r": "{{ each }}"}}


def _commands(project: Project, outcome: Outcome) -> list[list[str]]:
    """What the summary and `show` name."""
    shown = project.cli("show", "last").out
    found = [re.findall(r"^resume it with: flowllm (.*)$", text, re.MULTILINE) for text in (outcome.err, shown)]
    return [shlex.split(command) for commands in found for command in commands]


@pytest.mark.parametrize(
    "steps",
    [
        {"a": FAILS},
        {"a": EACH},
        {"a": {**EACH, "on_error": "continue"}},
        {"a": {**EACH, "on_error": "continue", "max_failed": 1}},
        {"a": {"workflow": LET_PASS}},
        {"a": {"workflow": LET_PASS, "foreach": "{{ [1, 2] }}"}},
        {"a": {"workflow": {"steps": {"b": {"workflow": LET_PASS}}}, "foreach": "{{ [1, 2] }}"}},
    ],
    ids=["step", "items", "all let pass", "too many let pass", "within a graph", "within graphs", "deeper"],
)
def test_what_failed_is_carried_out_again(steps: dict[str, Any], project: Project) -> None:
    project.write("tools.py", TOOLS)
    outcome = project.cli("run", project.flow(steps=steps))
    assert outcome.code == 1, outcome.said
    calls = (project.folder / "calls").stat().st_size
    commands = _commands(project, outcome)
    assert len(commands) == 2
    assert commands[0] == commands[1]
    (project.folder / "mended").touch()
    again = project.cli(*commands[0])
    assert again.code == 0, again.said
    assert (project.folder / "calls").stat().st_size == 2 * calls


def test_rows_that_failed_are_carried_out_again(project: Project) -> None:
    project.write("tools.py", TOOLS)
    project.write("rows.jsonl", '{"x": 1}\n{"x": 2}\n')
    file = project.flow(inputs={"x": 1}, steps={"a": {"workflow": LET_PASS}}, outputs={"a": "{{ a }}"})
    outcome = project.cli("run", file, "--over", "rows.jsonl", "--output", "out.jsonl")
    (project.folder / "mended").touch()
    commands = _commands(project, outcome)
    assert commands[0] == commands[1]
    assert project.cli(*commands[0]).code == 0
    assert len((project.folder / "out.jsonl").read_text().splitlines()) == 2


def test_a_template_that_fails_is_mended_in_its_file(project: Project) -> None:
    project.write("tools.py", TOOLS)
    (project.folder / "mended").touch()
    steps = {"a": FAILS, "b": {"value": "{{ [1][a + 3] }}"}}
    outcome = project.cli("run", project.flow(steps=steps))
    assert outcome.code == 1, outcome.said
    project.flow(steps={**steps, "b": {"value": "{{ a }}"}})
    for command in _commands(project, outcome)[1:]:
        assert command[2:] == ["--file", str(project.folder / "flow.yaml")]
        assert project.cli(*command).code == 0
    assert (project.folder / "calls").stat().st_size == 1


def test_a_step_behind_a_failure_that_was_let_pass(project: Project) -> None:
    project.write("tools.py", TOOLS)
    steps = {
        "a": {**FAILS, "on_error": "continue"},
        "b": {"value": "{{ 1 // (1 if steps.a.status == 'succeeded' else 0) }}"},
    }
    outcome = project.cli("run", project.flow(steps=steps))
    assert outcome.code == 1, outcome.said
    (project.folder / "mended").touch()
    assert project.cli(*_commands(project, outcome)[0]).code == 0


@pytest.mark.parametrize("on_exceed", ["pause", "fail"])
def test_a_budget_that_is_too_small(on_exceed: str, project: Project) -> None:
    file = project.flow(
        budget={"tokens": 300, "on_exceed": on_exceed},
        defaults={"provider": "simulated", "model": "m", "max_tokens": 250},
        steps={"a": {"prompt": "hi"}, "b": {"prompt": "{{ a }}"}},
    )
    outcome = project.cli("run", file)
    assert outcome.code in {1, 3}, outcome.said
    for command in _commands(project, outcome)[:1]:
        assert "--budget" in command
        again = project.cli(*command)
        assert again.code == 0, again.said


def test_a_record_that_was_damaged_is_made_anew(project: Project) -> None:
    project.write("tools.py", TOOLS)
    (project.folder / "mended").touch()
    assert project.cli("run", project.flow(steps={"a": FAILS, "b": {"value": "{{ a }}"}})).code == 0
    with contextlib.closing(sqlite3.connect(project.database)) as connection, connection:
        connection.execute("UPDATE nodes SET output = '7' WHERE node_id = 'a'")
    assert "Resume the run" in project.cli("show", "last", "a").out
    again = project.cli("resume", "last")
    assert again.code == 0, again.said
    assert (project.folder / "calls").stat().st_size == 2
    assert "damaged" not in project.cli("show", "last", "a").out


def test_a_command_that_is_named_may_be_pasted_whatever_is_in_its_paths(project: Project) -> None:
    project.write("my flows/tools.py", TOOLS)
    file = project.flow(name="my flows/it's.yaml", steps={"a": EACH})
    outcome = project.cli("run", file)
    (shows,) = re.findall(r"`flowllm (show [^`]*)`", outcome.err)
    assert shlex.split(shows) == ["show", *project.run_ids(), "a[0]"]
    assert project.cli(*shlex.split(shows)).code == 0
    text = (project.folder / file).read_text()
    (project.folder / file).write_text(text + "\n")
    (command,) = re.findall(r"To take what is on disk: flowllm (.*)$", project.cli("resume").err, re.MULTILINE)
    assert shlex.split(command)[-2:] == ["--file", str(project.folder / file)]
    assert "changed since this run began" not in project.cli(*shlex.split(command)).err


def test_every_command_that_is_named_looks_where_this_one_did(project: Project) -> None:
    project.write("tools.py", TOOLS)
    place = ("--db", "other data.db")
    each = {**EACH, "on_error": "continue", "max_failed": 1}
    file = project.flow(
        defaults={"provider": "simulated", "model": "m"},
        providers={"down": {"type": "simulated", "error_rate": "100%"}},
        steps={"a": EACH, "each": each, "asked": {"prompt": "[text=no] x", "output": "json", **ONCE}},
    )
    told = [project.cli("run", file, *place).err]
    project.flow(steps={"a": FAILS})
    told.append(project.cli("resume", *place).err)
    assert "To take what is on disk: flowllm resume" in told[-1]
    for words in (("show", "last"), ("show", "last", "asked"), ("why", "last", "a"), ("show", "last", "a.x")):
        outcome = project.cli(*words, *place)
        told.append(outcome.out + outcome.err)
    found = {one for text in told for one in re.findall(r"(?:`|: )flowllm ([^`\n]*)", text)}
    assert {"resume", "failed", "show", "why"} <= {command.split()[0] for command in found}, told
    (project.folder / "mended").touch()
    for command in found:
        outcome = project.cli(*shlex.split(command))
        assert "--db 'other data.db'" in command, told
        assert outcome.code in {0, 1}, (command, outcome.said)
        assert not outcome.err.startswith(("error:", "Usage")), (command, outcome.said)


def test_options_are_shown_as_they_were_given(project: Project) -> None:
    project.write("flowllm.yaml", "limits: {max_concurrent: 3}\n")
    project.write("tools.py", TOOLS)
    project.write("mended", "")
    file = project.flow(steps={"a": {"python": "./tools.py:fails"}})
    plain = project.cli("run", file)
    assert plain.code == 0, plain.said
    shown = project.cli("show", "last").out
    assert f"config       {project.folder / 'flowllm.yaml'}\n" in shown
    assert "\n  options " not in shown
    words = [
        "--set",
        "a.timeout=5s",
        "--no-cache",
        "--refresh",
        "a",
        "--limit",
        "7",
        "--budget",
        "usd=5",
        "--grace",
        "90s",
    ]
    assert project.cli("run", file, *words).code == 0
    (given,) = re.findall(r"^  options +(.*)$", project.cli("show", "last").out, re.MULTILINE)
    assert sorted(shlex.split(given)) == sorted(words)
