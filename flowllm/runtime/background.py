"""What a run attempt has besides its runners: the tasks of its nodes, writes that nobody waits for, and suspended nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

from flowllm.core.clock import Clock
from flowllm.core.tasks import start_task
from flowllm.core.types import NodeId, RunId
from flowllm.storage.base import NodeRecord, NodeWrite, RunLease, Store
from flowllm.storage.monitoring import SuspensionRecord

MOST_PENDING = 2000
"""Rows that nobody waits for, at most, before `WriteQueue.wait` holds up who makes more of them."""


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
        self._rows: list[NodeWrite] = []
        """Those of this turn of the event loop, for a task that has not begun."""
        self._pending: dict[asyncio.Task[None], int] = {}
        """Tasks that write, and how many rows each, once it has begun."""

    def __bool__(self) -> bool:
        return bool(self._pending)

    async def commit(self, record: NodeRecord) -> None:
        """Write a row and wait until it is durable, and all that were enqueued before it. Raises StoreError."""
        if self._pending:
            await asyncio.sleep(0)  # the last task has not begun: its rows would be written behind this one
        await self._store.commit(nodes=(NodeWrite(lease=self._lease, node=record),))

    def enqueue(self, *records: NodeRecord) -> None:
        """Write rows with the next commit, without waiting for it; `on_error` gets the error if that fails."""
        if not self._rows:
            task = start_task(self._write())
            self._pending[task] = 0
            task.add_done_callback(self._done)
        self._rows += [NodeWrite(lease=self._lease, node=record) for record in records]

    async def _write(self) -> None:
        rows, self._rows = self._rows, []
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - it is only called as one
        self._pending[task] = len(rows)
        await self._store.commit(nodes=rows)

    async def wait(self, most: int = MOST_PENDING) -> None:
        """Wait until at most `most` of the enqueued rows are pending."""
        while sum(self._pending.values(), len(self._rows)) > most:
            await asyncio.wait(self._pending, return_when=asyncio.FIRST_COMPLETED)

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._pending[task]
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._on_error(error)


MOST_READY = 1_000_000
"""Woken nodes that are looked up at a time."""


def nodes_around(node: str) -> list[NodeId]:
    """The nodes that a node is within: `posts`, `posts[1]`, `posts[1].body` of `posts[1].body.lines`."""
    ends = [at for at, mark in enumerate(node) if mark in ".["]
    return [NodeId(node[:end]) for end in ends]


class SuspendedNodes:
    """A graph or a foreach that goes on besides can start a suspended node of its own again. One that has nothing else to
    do ends, suspended too, and is started again by what it is within."""

    def __init__(self, store: Store, run_id: RunId, clock: Clock) -> None:
        self._store = store
        self._run_id = run_id
        self._clock = clock
        self._ready: dict[NodeId, SuspensionRecord] = {}
        self._restarts: dict[NodeId, Callable[[], None]] = {}

    def add(self, node: NodeId, restart: Callable[[], None]) -> None:
        """A node was suspended; `restart` is called once it, or a suspended node within it, can go on."""
        self._restarts[node] = restart

    def forget(self, node: NodeId) -> None:
        """What the node is within has ended."""
        self._restarts.pop(node, None)

    def take(self, node: NodeId) -> SuspensionRecord | None:
        """What the node waited for, if it can go on; once."""
        return self._ready.pop(node, None)

    async def load(self) -> None:
        """Find what came while no attempt was under way. Raises StoreError."""
        self._ready = {wait.node_id: wait for wait in await self._find()}

    async def look(self) -> bool:
        """Start the nodes again for which something has come; whether there were any. Raises StoreError."""
        if not self._restarts:
            return False
        before = dict(self._restarts)
        waits = await self._find()
        asleep = {node: restart for node, restart in self._restarts.items() if before.get(node) is restart}
        woken: dict[NodeId, Callable[[], None]] = {}
        for wait in waits:
            node = next((one for one in (wait.node_id, *nodes_around(wait.node_id)) if one in asleep), None)
            if node is not None and wait.node_id not in self._ready:  # one that was not taken is not needed any more
                self._ready[wait.node_id] = wait
                woken[node] = asleep[node]
        for node, restart in woken.items():
            del self._restarts[node]
            restart()
        return bool(woken)

    async def _find(self) -> list[SuspensionRecord]:
        return await self._store.waits(run_id=self._run_id, ready_at=self._clock.now(), limit=MOST_READY)
