"""`shell` steps: values go in and come out, and nothing of them outlives the run (faults 27)."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.author import Author
from tests.support.project import QUICK, Project, as_yaml, killed_at_exit, until


def flow(command: str, **options: Any) -> str:
    inputs = {"x": {"type": "string", "default": ""}}
    step = {"shell": command, **options}
    return as_yaml({"inputs": inputs, "steps": {"it": step}, "outputs": {"it": "{{ it }}"}})


def alive(pid: int) -> bool:
    """It runs; what has ended and waits for its parent to notice does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def numbers_in(folder: Path, count: int) -> list[int]:
    """Process numbers that commands left in files called *.pid."""

    def told() -> list[str]:
        return [text for text in (path.read_text() for path in folder.glob("*.pid")) if text.endswith("\n")]

    until(lambda: len(told()) == count, f"{count} commands")
    return [int(text) for text in told()]


HOSTILE = "$(touch owned) `touch owned`; touch owned\n| touch owned & 'x\" \\ {{ 7 * 7 }} *"


def test_values_are_inert_by_standard_input_and_environment(author: Author) -> None:
    text = flow('cat; printf "|%s|%s" "$X" "$Y"', stdin="{{ inputs.x }}", env={"X": "{{ inputs.x }}", "Y": "z"})
    assert author.outputs(text, x=HOSTILE) == {"it": f"{HOSTILE}|{HOSTILE}|z"}
    assert not (author.folder / "owned").exists()


def test_one_newline_at_the_end_is_dropped_and_the_rest_kept(author: Author) -> None:
    assert author.outputs(flow("printf 'a\\n\\n'"))["it"] == "a\n"
    assert author.outputs(flow("printf ' a\\0b '"))["it"] == " a\0b "
    assert author.outputs(flow("true"))["it"] == ""


def test_much_goes_in_and_out(author: Author) -> None:
    much = "ä" * 500_000
    assert author.outputs(flow("cat", stdin="{{ inputs.x }}"), x=much)["it"] == much
    assert author.outputs(flow("echo unread", stdin="{{ inputs.x }}"), x=much)["it"] == "unread"
    error = author.error(flow("true", env={"X": "{{ inputs.x }}"}), x=much)
    assert error["type"] == "ShellFailed"
    assert "`stdin`" in error["hint"]


def test_values_that_no_environment_holds(author: Author) -> None:
    error = author.error(flow("true", env={"X": "{{ inputs.x }}"}), x="a\0b")
    assert (error["type"], "`env.X`" in error["message"]) == ("TemplateFailed", True)
    error = author.error(flow("true", env={"X": "{{ inputs.x }}"}), x="\ud800")
    assert (error["type"], "`env.X`" in error["message"]) == ("TemplateFailed", True)
    assert author.outputs(flow("wc -c | tr -d ' '", stdin="{{ inputs.x }}"), x="a\0\ud800")["it"] == "5"


@pytest.mark.parametrize(
    ("command", "said", "answer"),
    [
        ("echo first >&2; echo last >&2; exit 3", "ended with status 3: last", "first\nlast"),
        ("exit 255", "ended with status 255", None),
        ("kill -SEGV $$", "status 139 (killed by SIGSEGV)", "Segmentation fault"),
        ("none-such-command", "ended with status 127", "none-such-command: not found"),
        ("printf '\\303\\050'; true", "is not UTF-8 (byte 1)", None),
        ("yes", "wrote more than 16 MiB", None),
        ("printf '\\377' >&2; exit 1", "status 1: \ufffd", "\ufffd"),
        ("head -c 100000 /dev/zero | tr '\\0' x >&2; exit 1", "ended with status 1: xxx", "x" * 4096),
    ],
)
def test_how_it_fails(command: str, said: str, answer: str | None, author: Author) -> None:
    error = author.error(flow(command))
    assert error["type"] == "ShellFailed"
    assert said in error["message"]
    assert len(error["message"]) < 500
    if answer is None:
        assert "answer" not in error
    else:
        assert answer in error["answer"]
        assert len(error["answer"]) <= 4096


def test_it_is_run_again_only_if_told(author: Author) -> None:
    command = "echo x >>runs; test $(wc -l <runs) -ge 3 && echo made it"
    assert author.error(flow(command))["type"] == "ShellFailed"
    (author.folder / "runs").unlink()
    outputs = author.outputs(flow(command, retry={"max_attempts": 3, **QUICK}))
    assert outputs == {"it": "made it"}


def test_one_that_takes_too_long_is_ended(author: Author) -> None:
    command = "echo $$ >it.pid; sleep 60 & echo $! >child.pid; wait"
    error = author.error(flow(command, timeout="300ms"))
    assert error["type"] == "NodeTimedOut"
    assert "did not end within 0.3 s" in error["message"]
    told = [path.read_text() for path in author.folder.glob("*.pid")]  # both, unless it had no time to
    until(lambda: not any(alive(int(text)) for text in told if text.endswith("\n")), "the end of all")


def test_with_a_cache_it_runs_once(author: Author) -> None:
    author.keep()
    step = {"shell": "echo x >>runs; cat", "stdin": "in", "cache": True}
    text = as_yaml({"steps": {"a": step, "b": step, "c": step}, "outputs": {"c": "{{ c }}"}})
    assert author.outputs(text) == author.outputs(text) == {"c": "in"}
    assert (author.folder / "runs").read_text() == "x\n"


def test_not_all_at_once(author: Author) -> None:
    """At most two a processor; each notes how many there are beside it."""
    command = "touch now.$$; sleep 0.02; ls now.* | wc -l | tr -d ' '; rm now.$$"
    count = 6 * (os.cpu_count() or 1)
    text = as_yaml(
        {
            "steps": {"it": {"foreach": f"{{{{ range({count}) | list }}}}", "max_concurrent": count, "shell": command}},
            "outputs": {"it": "{{ it | map('int') | max }}"},
        }
    )
    assert author.outputs(text)["it"] <= 2 * (os.cpu_count() or 1)


LASTING = "echo $$ >{{name}}.pid; sleep 60 & echo $! >{{name}}2.pid; wait"


def started(project: Project, *names: str) -> str:
    """A workflow of commands that go on for ever, each with a child in the background."""
    steps = {name: {"shell": LASTING.replace("{{name}}", name)} for name in names}
    return project.flow(steps={**steps, "after": {"value": "{{ a }}"}})


def test_a_run_that_is_killed_leaves_nothing(project: Project) -> None:
    process = project.start("run", started(project, "a", "b"))
    with killed_at_exit(process):
        numbers = numbers_in(project.folder, 4)
        assert all(map(alive, numbers))
        process.kill()
        until(lambda: not any(map(alive, numbers)), "the end of all")


@pytest.mark.parametrize("signals", [[signal.SIGINT, signal.SIGINT], [signal.SIGTERM, signal.SIGTERM]])
def test_a_run_that_is_told_twice_to_stop_leaves_nothing(signals: Sequence[int], project: Project) -> None:
    process = project.start("run", started(project, "a"))
    with killed_at_exit(process):
        numbers = numbers_in(project.folder, 2)
        process.send_signal(signals[0])
        assert process.stderr is not None
        while "nothing new is sent" not in process.stderr.readline():
            assert process.poll() is None
        assert all(map(alive, numbers)), "the first signal lets it finish"
        process.send_signal(signals[1])
        assert project.finish(process).code == 128 + signals[0]
        until(lambda: not any(map(alive, numbers)), "the end of all")


def test_a_run_that_is_told_once_to_stop_waits_for_the_command(project: Project) -> None:
    command = "echo $$ >a.pid; while [ ! -e go ]; do sleep 0.01; done; echo finished"
    file = project.flow(steps={"a": {"shell": command}, "b": {"shell": "echo b >ran", "needs": ["a"]}})
    process = project.start("run", file)
    with killed_at_exit(process):
        numbers_in(project.folder, 1)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        while "nothing new is sent" not in process.stderr.readline():
            assert process.poll() is None
        (project.folder / "go").touch()
        assert project.finish(process).code == 130
    assert not (project.folder / "ran").exists()
    resumed = project.json("resume")
    assert resumed["steps"]["a"]["output"] == "finished"
    assert (project.folder / "ran").exists()


def test_what_a_successful_command_leaves_behind_ends_with_it(author: Author) -> None:
    began = time.monotonic()
    assert author.outputs(flow("sleep 60 & echo $! >it.pid; echo done")) == {"it": "done"}
    assert time.monotonic() - began < 30
    (number,) = numbers_in(author.folder, 1)
    until(lambda: not alive(number), "the end of what was left")
