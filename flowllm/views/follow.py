"""A run of another process, followed by what changes on its record: told as the events that its own observers hear."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from typing import Final

from flowllm.core.events import Event, FanOutCounted, FanOutStarted, NodeEnded, NodeStarted, NodeSuspended, RunEnded
from flowllm.core.types import NODE_TERMINAL, Json, NodeId, NodeStatus, StepKind
from flowllm.reporting.base import AccountState
from flowllm.reporting.followed import ItemsRead, SpendRead
from flowllm.reporting.progress import MOST_ITEM_ERRORS
from flowllm.storage.base import RunRecord, Store
from flowllm.storage.following import ItemChange, NodeBrief
from flowllm.views.gauges import FRESH, MINUTE, account_name, together
from flowllm.views.within import StepsWithin

MOST: Final = 2000
"""Rows that are read at a time."""
_CODES: Final = {status: code for code, status in enumerate(NodeStatus, start=1)}
_ENDED: Final = frozenset(_CODES[status] for status in NODE_TERMINAL)


class _Items:
    """The items of one foreach: a byte for each, since an item of an earlier attempt may end once more."""

    def __init__(self) -> None:
        self.statuses = bytearray()
        self.ended = self.failed = self.skipped = self.worked = 0
        self.errors: deque[tuple[NodeId, Mapping[str, Json]]] = deque(maxlen=MOST_ITEM_ERRORS)
        """The newest that were not told yet."""

    def change(self, change: ItemChange) -> None:
        short = change.place + 1 - len(self.statuses)
        if short > 0:
            self.statuses.extend(bytes(max(short, len(self.statuses) // 8)))
        before, now = self.statuses[change.place], _CODES[change.status]
        self.statuses[change.place] = now
        self.ended += (now in _ENDED) - (before in _ENDED)
        self.failed += (now == _CODES[NodeStatus.FAILED]) - (before == _CODES[NodeStatus.FAILED])
        self.skipped += (now == _CODES[NodeStatus.SKIPPED]) - (before == _CODES[NodeStatus.SKIPPED])
        self.worked += now in _ENDED and change.worked
        if change.error is not None:
            self.errors.append((change.node_id, change.error))


class RunFollower:
    """Reads what changed since it last did. Times are wall clock seconds."""

    def __init__(self, store: Store, run: RunRecord, steps: Collection[str]) -> None:
        """`steps` as in `RunStarted`."""
        self._store, self._run, self._steps = store, run, steps
        self._top = sum("." not in step for step in steps)
        self._within = StepsWithin(store, run.run_id, steps)
        self._since = 0
        self._items: dict[str, _Items] = {}
        self._begun: dict[str, int] = {}
        """The foreaches that were told of, with their totals."""
        self._done: set[str] = set()
        self._first = True

    async def events(self, run: RunRecord, now: float) -> list[Event]:
        """What the record says by now, in order; `run` is the run as it is. Ends with a RunEnded once it is over."""
        found: list[Event] = []
        upto = run.totals.changes
        if upto > self._since:
            for brief in await self._briefs(upto):
                found += await self._told(brief, now)
            found += await self._items_since(upto, now)
            self._since = upto
        for foreach in self._begun:
            found += await self._within.read(foreach, now, over=foreach in self._done or not run.going)
        spend, tokens = run.totals.spend, run.totals.spend.known_input + run.totals.spend.known_output
        found.append(
            SpendRead(run_id=run.run_id, at=now, usd=spend.known_usd, tokens=tokens, exact=spend.cost_usd is not None)
        )
        self._first = False
        if not run.going:
            found.append(_ended(run, run.finished_at or await self._store.last_sign(run.run_id) or run.started_at))
        return found

    async def accounts(self, now: float) -> dict[str, AccountState]:
        """How the accounts of the run's process stand, by their names, with what all processes do; none of a process that does
        not say."""
        owner = self._run.owner
        if owner is None:
            return {}
        gauges = await self._store.gauges(since=now - FRESH)
        states = {
            gauge.account: AccountState(
                address=account_name(gauge.account),
                requests_per_minute=None if gauge.rate is None else gauge.rate * MINUTE,
                tokens_per_minute=gauge.tokens_per_minute,
                pause_s=gauge.pause_s,
            )
            for gauge in gauges
            if gauge.process == owner.process
        }
        return {account: together(state, gauges, account=account) for account, state in states.items()}

    async def _briefs(self, upto: int) -> list[NodeBrief]:
        found: list[NodeBrief] = []
        since = self._since
        while since < upto:
            page = await self._store.briefs(self._run.run_id, since=since, limit=MOST)
            found += [brief for brief in page if brief.change_no <= upto]
            since = page[-1].change_no if len(page) == MOST else upto
        return found

    async def _items_since(self, upto: int, now: float) -> list[Event]:
        since, changed = self._since, set()
        while since < upto:
            page = await self._store.item_changes(self._run.run_id, since=since, limit=MOST)
            for change in page:
                if change.change_no > upto:
                    break
                self._items.setdefault(change.parent, _Items()).change(change)
                changed.add(change.parent)
            since = page[-1].change_no if len(page) == MOST else upto
        return [event for parent in changed for event in self._progress(parent, now)]

    def _progress(self, parent: str, now: float) -> list[Event]:
        if parent in self._done:
            return []
        begun = self._begin(parent, 0, now)
        items = self._items[parent]
        worked, items.worked = (0 if self._first else items.worked), 0
        errors, items.errors = tuple(items.errors), deque(maxlen=MOST_ITEM_ERRORS)
        return [
            *begun,
            ItemsRead(
                run_id=self._run.run_id,
                at=now,
                node_id=NodeId(parent),
                ended=items.ended,
                failed=items.failed,
                skipped=items.skipped,
                worked=worked,
                errors=errors,
            ),
        ]

    def _begin(self, foreach: str, total: int, at: float) -> list[Event]:
        known, node, run_id = self._begun.get(foreach), NodeId(foreach), self._run.run_id
        self._begun[foreach] = total or known or 0
        if known is None:
            return [FanOutStarted(run_id=run_id, at=at, node_id=node, total=total or None)]
        return [FanOutCounted(run_id=run_id, at=at, node_id=node, total=total)] if total and total != known else []

    async def _told(self, brief: NodeBrief, now: float) -> list[Event]:
        run_id, node, kind = self._run.run_id, brief.node_id, StepKind(brief.kind)
        at = brief.started_at or now
        if brief.status is NodeStatus.RUNNING:
            if brief.counts is not None:
                return self._begin(node, brief.counts.total, at)
            return [NodeStarted(run_id=run_id, at=at, node_id=node, kind=kind, parent=brief.parent)]
        if brief.status is NodeStatus.WAITING:
            waits = await self._store.waits(run_id=run_id)
            return [
                NodeSuspended(run_id=run_id, at=now, node_id=node, kind=wait.kind, token=wait.token, due_at=wait.due_at)
                for wait in waits
                if wait.node_id == node
            ]
        if brief.status not in NODE_TERMINAL:
            return []
        self._done.add(node)
        if brief.counts is not None:
            self._begun.setdefault(node, brief.counts.total)
        begun = (
            [NodeStarted(run_id=run_id, at=at, node_id=node, kind=kind, parent=brief.parent)]
            if brief.started_at
            else []
        )
        return [*begun, self._end(brief, kind, now)]

    def _end(self, brief: NodeBrief, kind: StepKind, now: float) -> NodeEnded:
        return NodeEnded(
            run_id=self._run.run_id,
            at=brief.finished_at or now,
            node_id=brief.node_id,
            status=brief.status,
            done=sum("." not in name for name in self._done),
            total=self._top,
            kind=kind,
            cached=brief.cached,
            reused=brief.reused,
            error=brief.error,
            usage=brief.usage,
            cost_usd=brief.cost_usd,
            queue_s=brief.queue_s,
            call_s=brief.call_s,
            attempts=brief.attempts,
            model=brief.model,
            parent=brief.parent,
            counts=None if brief.counts is None else brief.counts.as_dict(),
            waits=brief.waits,
        )


def _ended(run: RunRecord, at: float) -> RunEnded:
    """Of one whose process is gone the time is that from its beginning to its last sign of life."""
    stats: Mapping[str, object] = run.stats
    took, began = stats.get("duration_s"), run.started_at if run.owner is None else run.owner.since
    return RunEnded(
        run_id=run.run_id,
        at=at,
        status=run.status,
        duration_s=float(took) if isinstance(took, int | float) else max(0.0, at - began),
        error=run.error,
        stats=run.stats,
    )
