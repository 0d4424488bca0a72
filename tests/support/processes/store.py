"""The store of one of several processes: the real one, but its writer is a task, and its time that of the loop."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from flowllm.core.errors import StorageFailed
from flowllm.core.tasks import start_task
from flowllm.storage.base import Owner
from flowllm.storage.liveness import ProcessRecord
from flowllm.storage.sql.jobs import Job, _deliver
from flowllm.storage.sql.store import SqlStore
from flowllm.storage.sql.writer import Writer
from tests.support.processes.databases import EPOCH

if TYPE_CHECKING:
    from tests.support.processes.world import Process, World


class Machine:
    """What one machine knows of its processes."""

    def __init__(self, world: World, name: str) -> None:
        self.name = name
        self._world = world

    def has(self, process: ProcessRecord) -> bool | None:
        return process.pid in self._world.alive if process.machine == self.name else None

    def had(self, pid: int, host: str, since: float) -> bool:
        return False


class ProcessStore(SqlStore):
    """Its reads take no time; what it writes is durable, and heard of, after a while."""

    def __init__(self, process: Process) -> None:
        self._process = process
        engine = process.world.database.engine
        super().__init__(engine, owner=Owner(pid=process.number, host=process.machine.name, since=process.clock.now()))
        self._writer = ProcessWriter(engine, process)
        self._lost = self._writer.loss
        self._machine = self.presence.machine = process.machine
        self.presence.pid = process.number

    async def _in_thread(self, read: Callable[[], Any]) -> Any:
        self._process.check()
        self._process.world.database.tick()
        return read()

    def discard(self) -> None:
        """Close what a process left open that was killed."""
        for connection in self._connections:
            connection.close()
        self._writer._disconnect()
        self._writer._spill.close()


class ProcessWriter(Writer):
    """Commits in groups, in virtual time. Its process can be killed before a commit, and behind it before anybody hears."""

    def __init__(self, engine: Any, process: Process) -> None:
        super().__init__(engine)
        self._process = process
        self._given: deque[list[Job] | None] = deque()
        self._more = asyncio.Event()
        self._queue = self
        self._going: asyncio.Task[None] | None = None

    def loss(self) -> StorageFailed | None:
        return None if self._lost is None else self._lost.error()

    def put(self, jobs: list[Job] | None) -> None:
        self._given.append(jobs)
        self._more.set()

    def _hand_over(self, *, riders: bool = False) -> None:
        if self._thread is None and (self._fresh or riders):
            self._thread = object()
            self._going = start_task(self._write())
        super()._hand_over(riders=riders)

    async def close(self) -> None:
        self._closed = True
        self._hand_over()
        if self._going is not None:
            self.put(None)
            await self._going
        self.presence.forget()

    async def _write(self) -> None:
        while (jobs := await self._next()) is not None:
            if jobs:
                await self._write_group(jobs)
            elif self.presence.due and not self._process.buried:
                self._process.world.database.tick()
                self._keep(self.presence.beat)
        if not self._process.buried:
            self._process.world.database.tick()
            self._keep(self.presence.leave)
        self._disconnect()
        self._spill.close()

    async def _write_group(self, jobs: list[Job]) -> None:
        draw = self._process.world.draw
        await asyncio.sleep(draw.random() / 50)
        try:
            self._process.check()
            self._process.world.database.tick()
            with self._process.world.writing(self._process, jobs):
                self._carry_out(jobs)
        except StorageFailed as error:
            for job in jobs:
                job.error = error
        await asyncio.sleep(draw.random() / 100)
        _deliver(jobs)

    async def _next(self) -> list[Job] | None:
        """What was handed over; nothing if a heartbeat is due first; None at the end."""
        if not self._given:
            self._more.clear()
            with contextlib.suppress(TimeoutError):
                beats = None if self._process.buried else self.presence.wait()
                await asyncio.wait_for(self._more.wait(), beats)
        jobs: list[Job] = []
        while self._given and self._given[0] is not None:
            jobs += self._given.popleft()
        return None if not jobs and self._given else jobs


class _LoopTime:
    """The module `time`, with the loop's."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.monotonic = loop.time

    def time(self) -> float:
        return EPOCH + self.monotonic()

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


@contextlib.contextmanager
def loop_time() -> Iterator[None]:
    """What the store measures without a clock of its own, it measures by the running loop."""
    loop_time = _LoopTime(asyncio.get_running_loop())
    with contextlib.ExitStack() as stack:
        for name, module in list(sys.modules.items()):
            if name.startswith("flowllm.storage") and getattr(module, "time", None) is time:
                stack.enter_context(patch.object(module, "time", loop_time))
        yield
