"""An event loop whose time is virtual: it jumps to the next timer instead of waiting for it."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
from collections.abc import Coroutine, Iterator
from contextvars import Context
from typing import Any, TypeVar

T = TypeVar("T")
STRAY = 0.5
"""Seconds for a thread that nobody waits for any more; then all have come to rest."""


class Timer(asyncio.TimerHandle):
    """Of those that are due at the same time, the one that was set first goes first."""

    number = 0

    def __lt__(self, other: Timer) -> bool:
        return (self._when, self.number) < (other._when, other.number)


class VirtualLoop(asyncio.SelectorEventLoop):
    """For code that waits only on timers and on other tasks, and for threads where it says so: no sockets."""

    timer: type[Timer] = Timer

    def __init__(self) -> None:
        super().__init__()
        self._virtual_now = 0.0
        self._outside = 0
        self._timers = itertools.count()

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> asyncio.TimerHandle:
        timer = self.timer(when, callback, args, self, context)
        timer.number = next(self._timers)
        timer._scheduled = True
        heapq.heappush(self._scheduled, timer)
        return timer

    @contextlib.contextmanager
    def outside(self) -> Iterator[None]:
        """Time stands still: what is waited for comes from a thread."""
        self._outside += 1
        try:
            yield
        finally:
            self._outside -= 1

    def time(self) -> float:
        return self._virtual_now

    def run_in_executor(self, *work: Any) -> asyncio.Future[Any]:
        self._outside += 1
        done = Context().run(super().run_in_executor, *work)  # also when nothing moves any more where it is waited for
        done.add_done_callback(lambda _: self._back(), context=Context())
        return done

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        with self.outside():
            await super().shutdown_default_executor()

    def _back(self) -> None:
        self._outside -= 1

    def _run_once(self) -> None:
        while self._scheduled and self._scheduled[0].cancelled():
            heapq.heappop(self._scheduled)._scheduled = False
            self._timer_cancelled_count -= 1
        if not self._ready and not self._stopping and not self._outside:
            if not self._scheduled:
                self._process_events(self._selector.select(STRAY))
            if not self._scheduled and not self._ready:
                raise RuntimeError("deadlock: everyone waits and nothing will ever happen")
            if not self._ready:
                self._virtual_now = max(self._virtual_now, self._scheduled[0].when())
        super()._run_once()


class LoopClock:
    """The clock of the running loop; the wall clock starts at a fixed day."""

    def __init__(self, epoch: float = 1_800_000_000.0) -> None:
        self.epoch = epoch

    def now(self) -> float:
        return self.epoch + self.monotonic()

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))


def run_virtual(main: Coroutine[object, object, T]) -> T:
    """The result of a coroutine, in no more real time than its computing takes."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
