"""What a run attempt does in the background: the tasks of its nodes, and writes that nobody waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

from flowllm.core.tasks import start_task
from flowllm.storage.base import NodeRecord, NodeWrite, RunLease, Store

MOST_PENDING = 32
"""Writes that nobody waits for, at most, before `WriteQueue.wait` holds up who makes more of them."""


class TaskSet:
    """Tasks of one run attempt. Pass `on_error` what to do with an error that none of them handled."""

    def __init__(self, on_error: Callable[[BaseException], None]) -> None:
        self._on_error = on_error
        self._tasks: set[asyncio.Task[None]] = set()

    def __bool__(self) -> bool:
        return bool(self._tasks)

    def spawn(self, work: Coroutine[object, object, None], dropped: Callable[[], None]) -> None:
        """Start a task; `dropped` is called if it broke, or was cancelled before it began."""
        task = start_task(work)
        self._tasks.add(task)

        def done(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            error = None if task.cancelled() else task.exception()
            if error is not None:
                self._on_error(error)
            if error is not None or task.cancelled():
                dropped()

        task.add_done_callback(done)

    def cancel(self) -> None:
        """Cancel every task."""
        for task in list(self._tasks):
            task.cancel()

    async def wait(self) -> None:
        """Wait until no task is left."""
        while self._tasks:
            await asyncio.wait(self._tasks)


class WriteQueue:
    """Rows of nodes on their way to the store, under the lease of one run attempt."""

    def __init__(self, store: Store, lease: RunLease, on_error: Callable[[BaseException], None]) -> None:
        self._store = store
        self._lease = lease
        self._on_error = on_error
        self._pending: set[asyncio.Task[None]] = set()

    def __bool__(self) -> bool:
        return bool(self._pending)

    async def commit(self, record: NodeRecord) -> None:
        """Write a row and wait until it is durable, and all that were enqueued before it. Raises StoreError."""
        if self._pending:
            await asyncio.sleep(0)  # those tasks have not begun: their rows would be written behind this one
        await self._store.settle(nodes=(NodeWrite(fence=self._lease, node=record),))

    def enqueue(self, *records: NodeRecord) -> None:
        """Write rows with the next commit, without waiting for it; `on_error` gets the error if that fails."""
        writes = tuple(NodeWrite(fence=self._lease, node=record) for record in records)
        task = start_task(self._store.settle(nodes=writes))
        self._pending.add(task)
        task.add_done_callback(self._done)

    async def wait(self, most: int = MOST_PENDING) -> None:
        """Wait until at most `most` of the enqueued writes are pending."""
        while len(self._pending) > most:
            await asyncio.wait(self._pending, return_when=asyncio.FIRST_COMPLETED)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._pending.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._on_error(error)
