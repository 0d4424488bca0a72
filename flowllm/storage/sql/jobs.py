"""What a writer was given to write, and those who wait for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

from flowllm.storage.sql.statements import Unit


class Job:
    """A unit, who waits for it, and what became of it."""

    __slots__ = ("done", "error", "future", "loop", "passed", "result", "unit")

    def __init__(self, unit: Unit, loop: asyncio.AbstractEventLoop) -> None:
        self.unit = unit
        self.loop = loop
        self.future: asyncio.Future[None] = loop.create_future()
        self.done = False
        self.reset()

    def reset(self) -> None:
        """It was not carried out after all."""
        self.result: Any = None
        self.error: BaseException | None = None
        self.passed = False
        """Its rows are not written: another process has begun the same."""


async def outlast(job: Job) -> None:
    """Wait until a job is done, through any further cancellation."""
    while not job.done:
        job.future = job.loop.create_future()
        try:
            await job.future
        except asyncio.CancelledError:
            continue


def wake(jobs: Sequence[Job]) -> None:
    """Tell those who wait that these are done; from the writer's thread."""
    with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
        jobs[0].loop.call_soon_threadsafe(_deliver, jobs)


def _deliver(jobs: Iterable[Job]) -> None:
    """In the waiters' loop: every future of these jobs is theirs alone."""
    for job in jobs:
        job.done = True
        if not job.future.done():
            job.future.set_result(None)
