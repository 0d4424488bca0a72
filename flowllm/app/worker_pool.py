"""Starting the workers of a run, and starting one again that has died: here as processes of this machine."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from flowllm.core.records import dataclass
from flowllm.core.streams import next_line
from flowllm.core.tasks import start_task
from flowllm.core.types import RunId

TRIES: Final = 4
"""How often a worker is started, at most, that dies each time."""
PAUSE: Final = 0.5
"""Seconds before it is started again, and each time as many more."""
PATIENCE: Final = 10.0
"""Seconds that a worker gets to end once nothing is left for it to do."""
WRONG_USAGE: Final = 2
"""The exit code of a worker that cannot work at this run: to start it again would change nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolEvents:
    """Whom a pool tells what."""

    tell: Callable[[str], None]
    """Something a person should know."""
    gone: Callable[[], None]
    """A worker has ended."""
    lost: Callable[[], None]
    """None is left, and none will be started any more."""


class WorkerPool(Protocol):
    """Starts workers, and sees that there are as many as are wanted."""

    @property
    def size(self) -> int:
        """How many that is."""
        ...

    async def open(self) -> None:
        """Find out what it depends on; `size` is known then. Raises RunStopped."""
        ...

    async def start(self, run_id: RunId, events: PoolEvents) -> None:
        """Start them for a run."""
        ...

    async def close(self, *, cancel: bool) -> None:
        """No more are wanted; `cancel`: what they have in flight is not wanted either. Returns when they have ended."""
        ...


class Workers:
    """Workers each of which is had anew, a few times, where it ends by itself; what they are is said by `_one` and `close`."""

    def __init__(self, size: int) -> None:
        self._size = self._left = size
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = asyncio.Event()
        self._told: set[str] = set()

    @property
    def size(self) -> int:
        """See `WorkerPool`."""
        return self._size

    async def open(self) -> None:
        """See `WorkerPool`."""

    async def start(self, run_id: RunId, events: PoolEvents) -> None:
        """See `WorkerPool`."""
        self._tasks = [start_task(self._keep(number, run_id, events)) for number in range(1, self._size + 1)]

    async def _keep(self, number: int, run_id: RunId, events: PoolEvents) -> None:
        """Have one worker, until no more are wanted or it cannot be had."""
        why = ""
        for tries in range(TRIES):
            if tries:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), tries * PAUSE)
            if self._closing.is_set():
                return
            code, said = await self._one(number, run_id, events)
            if self._closing.is_set():
                return
            if not code:
                why = "it was told to leave"
                break
            why = said or (f"it was killed by signal {-code}" if code < 0 else f"it ended with exit code {code}")
            if code == WRONG_USAGE:
                break
            if tries + 1 < TRIES:
                events.tell(f"worker {number} is started again: {why}")
        self._left -= 1
        events.tell(f"worker {number} is not started again: {why}")
        if not self._left:
            events.tell("no worker is left: this process executes the rest")
            events.lost()

    async def _one(self, number: int, run_id: RunId, events: PoolEvents) -> tuple[int, str]:
        """One worker from its start to its end: its exit code, and the last line that it wrote."""
        raise NotImplementedError

    def _say(self, number: int, line: str, events: PoolEvents) -> None:
        """A worker wrote a line; of several workers each may have the same to say."""
        if line not in self._told:
            self._told.add(line)
            events.tell(f"worker {number}: {line}")


class LocalWorkers(Workers):
    """Workers that are processes of this machine: `flowllm work`, each in a session of its own, so that Ctrl-C reaches the
    coordinator alone. A worker ends when its standard input does, also if this process is killed."""

    def __init__(self, size: int, environ: Mapping[str, str]) -> None:
        """By its environment a worker finds the database: others see the words of a command."""
        super().__init__(size)
        self._environ = environ
        self._processes: dict[int, asyncio.subprocess.Process] = {}

    async def close(self, *, cancel: bool) -> None:
        """See `WorkerPool`."""
        self._closing.set()
        for process in self._processes.values():
            if process.stdin is not None:
                process.stdin.close()
        if cancel:
            self._signal(signal.SIGTERM)
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._tasks and (await asyncio.wait(self._tasks, timeout=1.0 if cancel else PATIENCE))[1]:
                self._signal(number)
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    async def _one(self, number: int, run_id: RunId, events: PoolEvents) -> tuple[int, str]:
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "flowllm", "work", run_id, "--started"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                env=dict(self._environ),
                start_new_session=True,
            )
        except OSError as error:
            return 1, f"it cannot be started: {error.strerror or error}"
        self._processes[process.pid] = process
        if self._closing.is_set() and process.stdin is not None:
            process.stdin.close()
        said = ""
        try:
            assert process.stderr is not None  # noqa: S101 - it is a pipe
            while line := await next_line(process.stderr):
                said = line
                self._say(number, line, events)
            return await process.wait(), said
        finally:
            del self._processes[process.pid]
            events.gone()
