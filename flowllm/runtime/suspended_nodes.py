"""Nodes of a run attempt that wait for the world: how to start them again, and which of them can go on."""

from __future__ import annotations

from collections.abc import Callable

from flowllm.core.clock import Clock
from flowllm.core.types import NodeId, RunId
from flowllm.storage.base import Store
from flowllm.storage.live import WaitRecord

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
        self._ready: dict[NodeId, WaitRecord] = {}
        self._restarts: dict[NodeId, Callable[[], None]] = {}

    def add(self, node: NodeId, restart: Callable[[], None]) -> None:
        """A node was suspended; `restart` is called once it, or a suspended node within it, can go on."""
        self._restarts[node] = restart

    def forget(self, node: NodeId) -> None:
        """What the node is within has ended."""
        self._restarts.pop(node, None)

    def take(self, node: NodeId) -> WaitRecord | None:
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
            if node is not None:
                self._ready[wait.node_id] = wait
                woken[node] = asleep[node]
        for node, restart in woken.items():
            del self._restarts[node]
            restart()
        return bool(woken)

    async def _find(self) -> list[WaitRecord]:
        return await self._store.waits(run_id=self._run_id, ready_at=self._clock.now(), limit=MOST_READY)
