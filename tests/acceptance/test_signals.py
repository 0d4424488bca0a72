"""A run that is told to stop stops gracefully (P7)."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from flowllm.cli import signals
from tests.support.project import Outcome, Project, killed_at_exit, prompts, until
from tests.support.replies import echo
from tests.support.server import Server

CHAIN = prompts(a="a [text=one]", b="b [text=two]", after="after {{ a }} and {{ b }}")
HASTE = {"BEAT": "0.05"}
"""For a loop that never answers again: it need not be waited for as long as for one that a slow machine holds up."""


def _signalled(
    project: Project,
    *words: object,
    at: Callable[[], object],
    numbers: Sequence[int],
    answering: Server | None = None,
    **environ: str,
) -> Outcome:
    """Start, wait for the moment, and send the signals; when the first was told, have that server answer and send the
    second."""
    process = project.start(*words, **environ)
    said = ""
    with killed_at_exit(process):
        until(at, "the moment to stop", of=process)
        process.send_signal(numbers[0])
        while (answering or numbers[1:]) and "nothing new is sent" not in said:
            assert process.stderr is not None
            line = process.stderr.readline()
            assert line, said
            said += line
        if answering is not None:
            answering.hold = 0
        for number in numbers[1:]:
            process.send_signal(number)
        outcome = project.finish(process)
    return Outcome(code=outcome.code, out=outcome.out, err=said + outcome.err)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_the_first_signal_lets_calls_in_flight_finish(number: int, code: int, project: Project, server: Server) -> None:
    file = project.flow(steps=CHAIN, outputs={"after": "{{ after }}"})
    server.hold = 3
    outcome = _signalled(project, "run", file, at=lambda: len(server.requests) == 2, numbers=[number], answering=server)
    assert outcome.code == code, outcome.said
    assert len(server.requests) == 2, "something was sent after the signal"
    (run_id,) = project.run_ids()
    shown = project.json("show", run_id)
    assert shown["status"] == "interrupted"
    outputs = {name: step["output"] for name, step in shown["steps"].items()}
    assert outputs == {"a": "one", "b": "two", "after": None}
    assert shown["steps"]["after"]["status"] == "cancelled"
    (command,) = re.findall(r"^resume it with: (.*)$", outcome.err, re.MULTILINE)
    program, *words = shlex.split(command)
    assert program == "flowllm"
    resumed = project.cli(*words)
    assert resumed.code == 0, resumed.said
    assert [seen.prompt for seen in server.requests[2:]] == ["after one and two"]
    assert "answer " in resumed.out


def test_the_printed_command_carries_the_database_and_the_config(project: Project, server: Server) -> None:
    project.write("my settings/flowllm.yaml", "limits: {max_concurrent: 3}\n")
    place = ("--db", "data base/runs.db", "--config", "my settings/flowllm.yaml")
    file = project.flow(steps=CHAIN)
    (project.folder / "data base").mkdir()
    server.hold = 3
    in_flight = lambda: len(server.requests) == 2  # noqa: E731
    outcome = _signalled(project, "run", file, *place, at=in_flight, numbers=[signal.SIGINT], answering=server)
    assert outcome.code == 130, outcome.said
    (command,) = re.findall(r"^resume it with: (.*)$", outcome.err, re.MULTILINE)
    resumed = project.cli(*shlex.split(command)[1:])
    assert resumed.code == 0, resumed.said
    assert len(server.requests) == 3


def test_the_second_signal_cancels_and_keeps_what_is_finished(project: Project, server: Server) -> None:
    file = project.flow(steps=prompts(quick="quick [text=done]", slow="slow [sleep=30]", after="after {{ slow }}"))

    def quick_is_done() -> bool:
        return (
            len(server.requests) == 2
            and server.in_flight == 1
            and bool(project.rows("SELECT 1 FROM nodes WHERE node_id = 'quick'"))
        )

    outcome = _signalled(project, "run", file, at=quick_is_done, numbers=[signal.SIGINT, signal.SIGINT])
    assert outcome.code == 130, outcome.said
    assert "stopping at once" in outcome.err
    (run_id,) = project.run_ids()
    shown = project.json("show", run_id)
    assert shown["status"] == "interrupted"
    assert shown["steps"]["quick"]["output"] == "done"
    assert project.rows("SELECT status FROM attempts WHERE node_id = 'slow'") == [("unknown",)]


def test_of_items_that_a_stop_cancelled_all_that_is_on_record_is_shown(project: Project, server: Server) -> None:
    topics = ["[text=done]", *(f"{n} [sleep=30]" for n in range(4))]
    steps = {"posts": {"prompt": "of {{ item }}", "foreach": topics}, "after": {"prompt": "{{ posts[0] }}"}}
    file = project.flow(steps=steps, limits={"max_concurrent": 2})

    def one_is_done() -> bool:
        return server.in_flight == 2 and bool(project.rows("SELECT 1 FROM nodes WHERE node_id = 'posts[0]'"))

    outcome = _signalled(project, "run", file, at=one_is_done, numbers=[signal.SIGINT, signal.SIGINT])
    assert outcome.code == 130, outcome.said
    counts = {"total": 5, "succeeded": 1, "failed": 0, "skipped": 0, "accepted": 0, "not_sent": 0}
    assert project.json("show", "last")["steps"]["posts"]["counts"] == counts
    posts = project.json("show", "last", "posts")
    assert (posts["counts"], posts["status"], len(posts["items"])) == (counts, "cancelled", 5)
    assert "foreach 5: 1 ok, 4 cancelled\n" in project.cli("show", "last").out
    assert "items        5: 1 ok, 4 cancelled\n" in project.cli("show", "last", "posts").out
    assert "null" not in project.cli("show", "last", "posts[4]").out
    (run_id,) = project.run_ids()
    ended = f"as the run was interrupted; `flowllm resume {run_id}` goes on with it."
    for node, text in {
        "posts[1]": "was cancelled after a request and before an answer was on record, ",
        "posts[4]": "was cancelled before it was sent, ",
        "after": "never began, ",
    }.items():
        why = project.json("why", "last", node)
        assert (why["status"], why["text"]) == ("cancelled", f"{node} {text}{ended}")
    unknown = project.cli("why", "last", "posts[7]")
    assert (unknown.code, "no record of a step `posts[7]`" in unknown.err) == (2, True)


def test_grace_bounds_the_wait_for_calls_in_flight(project: Project, server: Server) -> None:
    file = project.flow(steps=prompts(slow="slow [sleep=50]"))
    outcome = _signalled(
        project, *("run", file, "--grace", "100ms"), at=lambda: len(server.requests) == 1, numbers=[signal.SIGTERM]
    )
    assert outcome.code == 143, outcome.said
    assert project.rows("SELECT status FROM attempts") == [("unknown",)]


def test_a_signal_ends_the_wait_of_a_backoff(project: Project, server: Server) -> None:
    """A step that waits twenty minutes for its next attempt has nothing in flight."""
    retry = {"initial_delay": "20m", "max_delay": "20m", "jitter": "none"}
    file = project.flow(defaults={"model": "test-model", "retry": retry}, steps=prompts(a="a [status=500]", b="b"))

    def waits() -> bool:
        return len(server.requests) == 2 and project.rows("SELECT count(*) FROM attempts WHERE status != 'sent'") == [
            (2,)
        ]

    outcome = _signalled(project, "run", file, at=waits, numbers=[signal.SIGINT])
    assert outcome.code == 130, outcome.said
    assert len(server.requests) == 2
    server.script = echo
    assert project.json("resume")["steps"]["a"]["status"] == "succeeded"
    assert len(server.requests) == 3


BLOCKING = """
import asyncio, re, time
from pathlib import Path

async def sleep():
    await begun()
    time.sleep(600)

async def match():
    await begun()
    re.match("(a+)+$", "a" * 40 + "b")  # which gives no other thread a turn, for years

async def begun():
    Path("called").touch()
    while not Path("go").exists():
        await asyncio.sleep(0.01)
    Path("begun").touch()

async def slow_to_leave():
    await begun()
    try:
        await asyncio.sleep(600)
    finally:
        await asyncio.sleep(LONG)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("function", ["sleep", "match"])
@pytest.mark.parametrize("heard", [False, True])
def test_the_second_signal_ends_a_process_whose_loop_stands_still(
    function: str, number: signal.Signals, heard: bool, project: Project
) -> None:
    """Whether it stood still before the first one or only after it."""
    project.write("steps.py", BLOCKING)
    go, begun, called = (project.folder / name for name in ("go", "begun", "called"))
    process = project.start("run", project.flow(steps={"a": {"python": f"./steps.py:{function}"}}), **HASTE)
    with killed_at_exit(process):
        assert process.stderr is not None
        until(lambda: "RUN" in process.stderr.readline(), "the step", of=process)
        until(called.exists, "the step", of=process)
        if not heard:
            go.touch()
            until(begun.exists, "the step to stand still", of=process)
        process.send_signal(number)
        if heard:
            until(lambda: "nothing new is sent" in process.stderr.readline(), "the first signal", of=process)
            go.touch()
            until(begun.exists, "the step to stand still", of=process)
            if function == "sleep":  # nothing but its guard ends a process in which no thread gets a turn
                os.kill(_guard(process.pid), signal.SIGKILL)
        else:
            until(lambda: _delivered(process.pid), "the first signal to be delivered", of=process)
        process.send_signal(number)
        outcome = project.finish(process)
    expected = {128 + number} if heard and function == "sleep" else {-number, 128 + number}
    assert outcome.code in expected, outcome.said


AT_THE_END_OF_A_GUARD = """
async def at_the_end_of_a_guard():
    import os
    os.waitpid = lambda *_: re.match("(a+)+$", "a" * 40 + "b")
    await begun()
    await asyncio.sleep(600)
"""


def test_the_second_signal_ends_a_process_that_takes_the_interpreter_from_its_answer(project: Project) -> None:
    """A step that never gives it back gets it when the thread that answers waits for a guard's end."""
    project.write("steps.py", BLOCKING + AT_THE_END_OF_A_GUARD)
    (project.folder / "go").touch()
    file = project.flow(steps={"a": {"python": "./steps.py:at_the_end_of_a_guard"}})
    begun = project.folder / "begun"
    outcome = _signalled(project, "run", file, at=begun.exists, numbers=[signal.SIGTERM, signal.SIGTERM], **HASTE)
    assert outcome.code in {-signal.SIGTERM, 128 + signal.SIGTERM}, outcome.said


def test_what_is_cancelled_may_take_its_time_while_the_loop_turns(project: Project) -> None:
    long = (signals.MISSED + 3) * signals.BEAT
    project.write("steps.py", BLOCKING.replace("LONG", str(long)))
    (project.folder / "go").touch()
    file = project.flow(steps={"a": {"python": "./steps.py:slow_to_leave"}})
    begun = project.folder / "begun"
    outcome = _signalled(project, "run", file, at=begun.exists, numbers=[signal.SIGTERM, signal.SIGTERM])
    assert outcome.code == 143, outcome.said
    assert "resume it with" in outcome.err


def _guard(pid: int) -> int:
    """The one that a first signal has started: the last child of a process."""
    children = "".join(file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/children")).split()
    return max(map(int, children))


def _delivered(pid: int) -> bool:
    """No signal is on its way to the process, or it has gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True
    return "ShdPnd:\t0000000000000000" in status


def test_a_run_whose_hang_up_signal_is_ignored_outlives_its_terminal(project: Project, server: Server) -> None:
    file = project.flow(steps=prompts(a="a"))
    server.hold = 2
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = project.start("run", file)
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    with killed_at_exit(process):
        until(lambda: len(server.requests) == 1, "the request", of=process)
        process.send_signal(signal.SIGHUP)
        until(lambda: _delivered(process.pid), "the signal to be delivered")
        server.hold = 0
        outcome = project.finish(process)
    assert outcome.code == 0, outcome.said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_wait_for_a_locked_database(number: signal.Signals, project: Project) -> None:
    file = project.flow(steps={"a": {"value": 1}})
    assert project.cli("run", file).code == 0
    with contextlib.closing(sqlite3.connect(project.database, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        other.execute("CREATE TABLE held (a)")
        process = project.start("run", file)
        with killed_at_exit(process):
            until(lambda: _waits_for(project.database, process.pid), "the wait", of=process)
            process.send_signal(number)
            outcome = project.finish(process)
    assert outcome.code in {-number, 128 + number}, outcome.said


def _waits_for(file: Path, pid: int) -> bool:
    with contextlib.suppress(OSError):
        return file in [found.readlink() for found in Path(f"/proc/{pid}/fd").iterdir()]
    return False


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize("held", ["time.sleep(60)", "lock(mutex)"])
def test_the_grace_also_ends_a_run_whose_loop_is_held(held: str, resumed: bool, project: Project) -> None:
    """By a call that lets other threads go on, and by one in C that does not."""
    project.write(
        "tools.py",
        f"""
        import ctypes, pathlib, time
        lock, mutex = ctypes.PyDLL(None).pthread_mutex_lock, ctypes.create_string_buffer(64)
        async def hold():
            lock(mutex)  # for the first time it is free
            pathlib.Path("begun").touch()
            {held}
        """,
    )
    file = project.flow(steps={"a": {"prompt": "a [text=one]"}, "b": {"python": "./tools.py:hold", "needs": ["a"]}})
    words = ["run", file, "--grace", "0s"]
    if resumed:
        assert project.cli(*words, "--until", "a").code == 0
        words = ["resume"]
    begun = project.folder / "begun"
    outcome = _signalled(project, *words, at=begun.exists, numbers=[signal.SIGTERM], **HASTE)
    assert outcome.code in {143, -signal.SIGTERM}, outcome.said
    shown = project.json("show", "last")
    assert (shown["status"], shown["steps"]["a"]["output"]) == ("interrupted", "one")
