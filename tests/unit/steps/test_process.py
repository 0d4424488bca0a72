from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flowllm.steps.shell.runner import KEPT_ERRORS, Ended, TooMuchOutput, run_command
from tests.support.project import until


async def ended(command: str, *, stdin: bytes = b"", most: int = 1 << 20, **env: str) -> Ended:
    return await run_command(command, stdin=stdin, env={**os.environ, **env}, most=most)


def run(command: str, *, stdin: bytes = b"", most: int = 1 << 20, **env: str) -> Ended:
    return asyncio.run(ended(command, stdin=stdin, most=most, **env))


def alive(pid: int) -> bool:
    """It runs; what has ended and waits for its parent to notice does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def number_in(path: Path) -> int:
    until(lambda: path.exists() and path.read_text().endswith("\n"), f"a number in {path.name}")
    return int(path.read_text())


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("true", 0),
        ("exit 3", 3),
        ("exit 255", 255),
        ("none-such", 127),
        ("kill -TERM $$", 143),
        ("kill -KILL $$", 137),
        ("kill -KILL 0", 137),
        ("kill -KILL $PPID; sleep 60", 137),
    ],
)
def test_how_it_ended(command: str, status: int) -> None:
    assert run(command).status == status


def test_what_it_reads_and_writes() -> None:
    assert run("tr a-z A-Z; echo oops >&2; exit 1", stdin=b"in") == Ended(output=b"IN", errors=b"oops\n", status=1)
    assert run("cat /dev/stdin", stdin=b"a file too").output == b"a file too"
    assert run("cat").output == b""
    assert run("cat", stdin=b"\0\xff").output == b"\0\xff"
    assert run('printf %s "$X"', X="; rm -rf / $(id)").output == b"; rm -rf / $(id)"


def test_more_than_a_pipe_holds_in_and_out_also_for_one_that_does_not_read() -> None:
    much = b"0123456789" * 100_000
    assert run("cat", stdin=much).output == much
    assert run("true", stdin=much).status == 0
    assert run("head -c 5", stdin=much).output == b"01234"
    assert run("exec <&-; echo closed", stdin=much).output == b"closed\n"


def test_one_that_writes_too_much_is_killed() -> None:
    with pytest.raises(TooMuchOutput):
        run("yes", most=100_000)
    assert len(run("head -c 100000 /dev/zero", most=100_000).output) == 100_000
    errors = run("head -c 1000000 /dev/zero >&2; echo end >&2").errors
    assert (len(errors), errors[-4:]) == (KEPT_ERRORS, b"end\n")


def test_what_it_leaves_in_the_background_ends_with_it(tmp_path: Path) -> None:
    """Also one that does not listen; and nobody waits for what it holds open."""
    told = tmp_path / "pid"
    began = time.monotonic()
    assert run(f"(trap '' TERM HUP INT; sleep 60) & echo $! >{told}; echo done").output == b"done\n"
    assert time.monotonic() - began < 30
    pid = number_in(told)
    until(lambda: not alive(pid), "the end of what was left")


def test_what_leaves_the_group_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowllm.steps.shell.runner.PATIENCE", 0.2)
    told = tmp_path / "pid"
    result = run(f"setsid sh -c 'echo $$ >{told}; exec sleep 60' & while [ ! -s {told} ]; do :; done; echo done")
    pid = number_in(told)
    assert alive(pid), "then the text that says that it gets away is wrong"
    os.kill(pid, signal.SIGKILL)
    assert result == Ended(output=b"done\n", errors=b"", status=0)


ALONE = """
import asyncio, pathlib, sys, time
from flowllm.steps.shell import runner as process

async def main(command, ready, patience, twice):
    process.PATIENCE = patience
    task = asyncio.create_task(process.run_command(command, stdin=b"", env={}, most=1000))
    while not (ready.exists() and ready.read_text().endswith("\\n")):
        await asyncio.sleep(0.005)
    began = time.monotonic()
    task.cancel()
    if twice:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        print(time.monotonic() - began)

asyncio.run(main(sys.argv[1], pathlib.Path(sys.argv[2]), float(sys.argv[3]), len(sys.argv) > 4))
"""


def cancelled(command: str, ready: Path, *, patience: float, twice: bool = False) -> float:
    """Cancel it once it is ready; how long it then took. In a process that has nothing else open."""
    words = [sys.executable, "-c", ALONE, command, str(ready), str(patience), *(["twice"] if twice else [])]
    return float(subprocess.run(words, capture_output=True, text=True, check=True, timeout=100).stdout)


def test_one_that_is_cancelled_may_tidy_up(tmp_path: Path) -> None:
    ready, tidied = tmp_path / "ready", tmp_path / "tidied"
    took = cancelled(f"trap 'echo yes >{tidied}; exit' TERM; echo $$ >{ready}; sleep 60 & wait", ready, patience=60)
    assert tidied.read_text() == "yes\n"
    assert took < 30
    assert not alive(number_in(ready))


@pytest.mark.parametrize("told", [1, 2])
def test_one_that_is_cancelled_while_it_is_still_being_started_may_tidy_up_too(
    told: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ErrorText twice, it is not waited for."""
    monkeypatch.setattr("flowllm.steps.shell.runner.PATIENCE", 60)
    ready, tidied = tmp_path / "ready", tmp_path / "tidied"
    trap = f"trap 'echo yes >{tidied}; exit' TERM" if told == 1 else "trap '' TERM"

    async def main() -> None:
        loop, started = asyncio.get_running_loop(), asyncio.Event()
        start = loop.subprocess_exec

        async def start_slowly(*words: object, **options: object) -> object:
            found = await start(*words, **options)
            await started.wait()
            return found

        monkeypatch.setattr(loop, "subprocess_exec", start_slowly)
        task = asyncio.create_task(ended(f"{trap}; echo $$ >{ready}; sleep 60 & wait; sleep 60"))
        while not ready.exists():
            await asyncio.sleep(0.005)
        for _ in range(told):
            task.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        started.set()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 30)

    asyncio.run(main())
    assert tidied.exists() == (told == 1)


def test_one_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    took = cancelled(f"trap '' TERM; sleep 60 & echo $! >{ready}; wait; sleep 60", ready, patience=0.3)
    assert took >= 0.3
    pid = number_in(ready)
    until(lambda: not alive(pid), "its end")
    ready.unlink()
    took = cancelled(f"trap '' TERM; sleep 60 & echo $! >{ready}; wait; sleep 60", ready, patience=60, twice=True)
    assert took < 30
    pid = number_in(ready)
    until(lambda: not alive(pid), "its end")


def test_one_that_is_cancelled_while_it_starts_leaves_nothing() -> None:
    async def main() -> None:
        for turns in range(12):
            task = asyncio.create_task(ended("sleep 61.7531"))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    def left() -> list[str]:
        lines = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                lines.append(path.read_text(errors="replace"))
        return [line for line in lines if "61.7531" in line]

    asyncio.run(main())
    until(lambda: not left(), "the end of all of them")


def test_it_costs_little_and_leaves_nothing_open() -> None:
    async def main() -> tuple[float, int]:
        await ended("true")
        before, times = open_files(), []
        for _ in range(20):
            began = time.monotonic()
            await ended("true", stdin=b"x")
            times.append(time.monotonic() - began)
        return sorted(times)[10], open_files() - before

    median, more = asyncio.run(main())
    assert more <= 0
    assert median < 1, "it takes 3 ms where nothing else runs"
