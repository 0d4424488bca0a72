"""When the items at work will be done, for who follows a run: as fast as in the last half minute."""

from __future__ import annotations

from collections.abc import Iterable

from flowllm.core.records import dataclass, field
from flowllm.core.types import NODE_TERMINAL, NodeId, NodeStatus, RunId
from flowllm.reporting.rates import WINDOW, SlidingRate
from flowllm.storage.base import Store
from flowllm.storage.following import NodeBrief

_EVERY = 1.0
"""Seconds between counts, which go through all items."""
_SPANS = 30


@dataclass(slots=True)
class _Foreach:
    rate: SlidingRate
    total: int | None
    ended: int


@dataclass(slots=True)
class Ahead:
    """The foreaches of one run that are at work. Times are wall clock seconds."""

    run_id: RunId
    _foreaches: dict[NodeId, _Foreach] = field(default_factory=dict)
    _counted: float = 0.0
    _left: float | None = None

    async def left(self, store: Store, changed: Iterable[NodeBrief], *, now: float) -> float | None:
        """Seconds until the last of them is done, with what changed of the run's nodes since; None: not known, or none is at work."""
        for node in changed:
            if node.counts is None:
                continue
            if node.status is not NodeStatus.RUNNING:
                self._foreaches.pop(node.node_id, None)
            elif known := self._foreaches.get(node.node_id):
                known.total = node.counts.total or known.total
            else:
                self._foreaches[node.node_id] = await self._begun(store, node, now)
        if not 0.0 <= now - self._counted < _EVERY:
            self._counted = now
            for name, foreach in self._foreaches.items():
                await self._count(store, name, foreach, now)
            self._left = _longest([_left(foreach, now) for foreach in self._foreaches.values()])
        return self._left if self._foreaches else None

    async def _begun(self, store: Store, node: NodeBrief, now: float) -> _Foreach:
        """What is on record of its last half minute counts too."""
        since = max(node.started_at or now, now - WINDOW)
        found = _Foreach(rate=SlidingRate(since), total=node.counts.total or None if node.counts else None, ended=0)
        (past,) = await store.activity(self.run_id, node.node_id, [(since, max(now, since + 1.0))], spans=_SPANS)
        for number, ended in enumerate(map(sum, zip(past.succeeded, past.failed, past.others, strict=True))):
            found.rate.add(past.begin + number * past.width, ended)
        found.ended = await self._ended(store, node.node_id)
        return found

    async def _count(self, store: Store, name: NodeId, foreach: _Foreach, now: float) -> None:
        ended = await self._ended(store, name)
        foreach.rate.add(now, max(0, ended - foreach.ended))
        foreach.ended = ended

    async def _ended(self, store: Store, name: NodeId) -> int:
        counts = await store.count_items(self.run_id, name)
        return sum(count for status, count in counts.items() if status in NODE_TERMINAL)


def _left(foreach: _Foreach, now: float) -> float | None:
    speed = foreach.rate.per_second(now)
    return None if not speed or foreach.total is None else max(0, foreach.total - foreach.ended) / speed


def _longest(left: list[float | None]) -> float | None:
    known = [one for one in left if one is not None]
    return max(known) if known and len(known) == len(left) else None
