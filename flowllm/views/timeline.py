"""What nodes of a run did when: a bar each, with waiting apart from calling, and attempts at their true times."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

from flowllm.core.errors import UsageError
from flowllm.core.records import dataclass, field, replace
from flowllm.core.types import (
    AttemptStatus,
    Json,
    NodeId,
    NodeStatus,
    StepId,
    StepKind,
    WaitReason,
    child_id,
    step_path,
)
from flowllm.explain.graph import Graph
from flowllm.reporting.text import duration, error_text
from flowllm.storage.base import AttemptRecord, NodeRecord, RunRecord, Store
from flowllm.storage.timeline import Activity
from flowllm.views.graph import (
    critical_path,
    durations,
    end_of,
    foreach_counts,
    graph_of_run,
    graph_within,
    last_moment,
)
from flowllm.views.standing import standing_nodes

MOST_BARS = 1000
"""Bars that are given at once."""
SPANS = 120
"""Into so many spans the time of a foreach is cut."""
LEAST_LIKE = 5
"""Requests that must have been answered before anything is known of how long their like take."""
USUAL = 0.95
"""The share of its like that was answered sooner than what is usual."""
QUIET_TIMES = 3.0
"""So many times what is usual is too long,"""
QUIET_FROM = 10.0
"""but nothing below so many seconds;"""
QUIET_UNKNOWN = 60.0
"""and where nothing is known of its like, so many."""
SHORTEST = 0.0005
"""Seconds below which a wait is not drawn."""
BETWEEN = frozenset({WaitReason.BACKOFF, WaitReason.BREAKER})
"""Reasons that come of an attempt that failed, so that these waits stand behind one wherever there is room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BarAttempt:
    """One attempt on the wire. Times are wall clock seconds."""

    number: int
    started_at: float
    finished_at: float | None
    status: str
    hedge: bool
    """It was sent beside an earlier one that was not answered yet."""
    error_type: str
    """Empty for one that succeeded; `Abandoned`: another one was answered first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitSegment:
    """A wait as it is drawn: how long it was is on record, when it was within its node is not."""

    reason: str
    started_at: float
    finished_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One node."""

    id: str
    kind: str
    status: str
    started_at: float | None
    finished_at: float | None
    waits: Mapping[str, float] = field(default_factory=dict)
    """Seconds by reason, as on record; `dependency` is before the bar begins."""
    segments: tuple[WaitSegment, ...] = ()
    attempts: tuple[BarAttempt, ...] = ()
    quiet: str = ""
    """Why it is marked as quiet for too long, in words; empty: it is not."""
    critical: bool = False
    cached: bool = False
    reused: bool = False
    error: str = ""
    foreach: bool = False
    inner: bool = False
    """There are nodes within it, which can be opened."""
    counts: Mapping[str, int] = field(default_factory=dict)
    activity: Activity | None = None
    place: int | None = None
    change_no: int = 0

    def as_dict(self) -> dict[str, Json]:
        """As JSON."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        activity = self.activity
        return {
            **plain,
            "waits": {reason: round(seconds, 4) for reason, seconds in self.waits.items()},
            "segments": [[one.reason, one.started_at, one.finished_at] for one in self.segments],
            "attempts": [{name: getattr(one, name) for name in one.__slots__} for one in self.attempts],
            "counts": dict(self.counts),
            "activity": None if activity is None else {name: getattr(activity, name) for name in activity.__slots__},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Bars in the order in which their nodes began, then those that have not; items in the order of their places."""

    bars: tuple[Bar, ...]
    changes: int
    """The number of the run's newest change that is in it."""
    more: bool = False
    """There are further items behind the last one."""

    def as_dict(self, since: int = 0) -> dict[str, Json]:
        """As JSON; of what has changed since the change of that number, and of what goes on. The critical path is told whole:
        it moves on to bars that have not changed."""
        going = (NodeStatus.RUNNING, NodeStatus.WAITING)
        bars = [bar.as_dict() for bar in self.bars if not since or bar.change_no > since or bar.status in going]
        path: list[Json] = [bar.id for bar in self.bars if bar.critical]
        return {"bars": bars, "critical_path": path, "changes": self.changes, "more": self.more}


def with_hedges(attempts: Iterable[AttemptRecord]) -> tuple[BarAttempt, ...]:
    """Attempts in the order in which they were sent; one that was sent before an earlier one had ended is a hedge."""
    found: list[BarAttempt] = []
    busy = -math.inf
    for attempt in sorted(attempts, key=lambda one: one.started_at):
        end = math.inf if attempt.finished_at is None else attempt.finished_at
        found.append(
            BarAttempt(
                number=attempt.number,
                started_at=attempt.started_at,
                finished_at=attempt.finished_at,
                status=attempt.status.value,
                hedge=attempt.started_at < busy,
                error_type=str((attempt.error or {}).get("type", "")),
            )
        )
        busy = max(busy, end)
    return tuple(found)


def wait_segments(
    waits: Mapping[str, float], attempts: Sequence[BarAttempt], started_at: float, finished_at: float
) -> tuple[WaitSegment, ...]:
    """Lay waits, of which only the sums are known, into the time of a node in which no attempt was on the wire.

    What comes of a failed attempt is laid behind one as long as there is room, all else from the beginning, the longest
    first. What finds no room, as it went on beside an attempt, is not drawn.
    """
    gaps = _gaps(attempts, started_at, finished_at)
    first = attempts[0].started_at if attempts else finished_at
    known = sorted(
        ((reason, seconds) for reason, seconds in waits.items() if reason != WaitReason.DEPENDENCY),
        key=lambda one: (one[0] not in BETWEEN, -one[1]),
    )
    found: list[WaitSegment] = []
    for reason, seconds in known:
        left = seconds
        for number in sorted(range(len(gaps)), key=lambda n: reason in BETWEEN and gaps[n][0] < first):
            begin, end = gaps[number]
            took = min(left, end - begin)
            if took >= SHORTEST:
                found.append(WaitSegment(reason=reason, started_at=begin, finished_at=begin + took))
                gaps[number] = (begin + took, end)
                left -= took
    return tuple(sorted(found, key=lambda one: one.started_at))


def _gaps(attempts: Sequence[BarAttempt], begin: float, end: float) -> list[tuple[float, float]]:
    """The time from `begin` to `end` in which no attempt was on the wire."""
    found, at = [], begin
    for attempt in attempts:
        if attempt.started_at > at:
            found.append((at, min(attempt.started_at, end)))
        at = max(at, end if attempt.finished_at is None else attempt.finished_at)
    return [*found, (at, end)] if at < end else found


def quiet_after(like: Collection[float]) -> float:
    """Seconds without an answer after which a request is quiet for too long, from those that its like took: three times what
    95 % of them stay below, at least 10 s; 60 s where fewer than five are known."""
    if len(like) < LEAST_LIKE:
        return QUIET_UNKNOWN
    return max(QUIET_FROM, QUIET_TIMES * sorted(like)[math.ceil(USUAL * len(like)) - 1])


def quiet_text(since: float, now: float, like: Collection[float]) -> str:
    """Why a request that is on its way since then is marked; empty: it is not."""
    silent = now - since
    if silent < quiet_after(like):
        return ""
    known = (
        f"its like took {duration(max(like))} at most" if len(like) >= LEAST_LIKE else "nothing is known of its like"
    )
    return f"no answer for {duration(silent)}; {known}"


def bar_of(node: NodeRecord, attempts: Sequence[AttemptRecord], *, now: float) -> Bar:
    """The bar of a node that is on record. While it runs, what it waits for is not, and the gaps have no reason."""
    drawn = with_hedges(attempts)
    finished_at = end_of(node)
    begin, end = node.started_at, now if finished_at is None else finished_at
    segments: tuple[WaitSegment, ...] = ()
    if begin is not None and node.status is NodeStatus.RUNNING and node.counts is None:
        gaps = _gaps(drawn, begin, end)
        segments = tuple(WaitSegment(reason="", started_at=one, finished_at=other) for one, other in gaps)
    elif begin is not None:
        segments = wait_segments(node.waits, drawn, begin, end)
    return Bar(
        id=node.node_id,
        kind=node.kind.value,
        status=node.status.value,
        started_at=begin,
        finished_at=finished_at,
        waits=node.waits,
        segments=segments,
        attempts=drawn,
        cached=node.cached,
        reused=node.reused,
        error=error_text(node.error) if node.error else "",
        place=node.place,
        change_no=node.change_no,
        inner=node.kind == StepKind.WORKFLOW,
    )


async def read_timeline(
    store: Store, run: RunRecord, graph: Graph, parent: str = "", *, after: int = -1, limit: int = MOST_BARS, now: float
) -> Timeline:
    """The nodes within `parent`, or at the top; of a foreach `limit` of its items behind the place `after`.

    `graph` is the workflow's. Bars of a run that is over end with it.
    """
    above = graph_of_run(graph, run)
    node = await store.node(run.run_id, NodeId(parent)) if parent else None
    if parent and not parent.endswith("]") and StepId(parent.rpartition(".")[2]) in _around(above, parent).foreach:
        items = await store.items(run.run_id, NodeId(parent), after=after, limit=limit + 1)
        shown = standing_nodes(run, items[:limit])
        bars = await _bars(store, run, shown, now=last_moment(run, shown, now))
        return Timeline(bars=tuple(bars), changes=run.totals.changes, more=len(items) > limit)
    if node is not None and node.kind != StepKind.WORKFLOW:
        raise UsageError(
            f"{parent} has no nodes within it", hint="only steps of kind `workflow`, and foreaches, have some"
        )
    inner = graph_within(above, parent)
    nodes = standing_nodes(run, await store.nodes(run.run_id, parent))
    now = last_moment(run, nodes, now)
    bars = await _bars(store, run, nodes, now=now)
    path = set(critical_path(inner, parent, durations(nodes, now)))
    counts = await foreach_counts(store, run.run_id, inner, nodes)
    bars = [await _as_step(store, run, inner, bar, counts.get(bar.id, {}), now=now) for bar in bars]
    known = {bar.id for bar in bars}
    begun = sorted(bars, key=lambda bar: (bar.started_at is None, bar.started_at or 0.0))
    return Timeline(
        bars=tuple(replace(bar, critical=bar.id in path) for bar in (*begun, *_pending(inner, parent, known))),
        changes=run.totals.changes,
    )


def _around(graph: Graph, node: str) -> Graph:
    """The graph that has the step of this node."""
    return graph_within(graph, step_path(node).rpartition(".")[0])


def _pending(graph: Graph, parent: str, known: Collection[str]) -> Iterable[Bar]:
    for step in graph.steps:
        if (node := child_id(parent, step)) not in known:
            yield Bar(
                id=node,
                kind=graph.kinds[step].value,
                status=NodeStatus.PENDING.value,
                started_at=None,
                finished_at=None,
                foreach=step in graph.foreach,
                inner=step in graph.inner,
            )


async def _as_step(
    store: Store, run: RunRecord, graph: Graph, bar: Bar, counts: Mapping[NodeStatus, int], *, now: float
) -> Bar:
    """With what is within it: of a foreach the counts of its items, and when they began and ended."""
    step = StepId(bar.id.rpartition(".")[2])
    foreach = step in graph.foreach
    activity = None
    if foreach and bar.started_at is not None:
        end = now if bar.finished_at is None else bar.finished_at
        activity = await store.activity(
            run.run_id, NodeId(bar.id), begin=bar.started_at, end=max(end, bar.started_at) + SHORTEST, spans=SPANS
        )
    return replace(
        bar,
        foreach=foreach,
        inner=step in graph.inner,
        counts={status.value: count for status, count in counts.items()},
        activity=activity,
        segments=() if foreach else bar.segments,
    )


async def _bars(store: Store, run: RunRecord, nodes: Sequence[NodeRecord], *, now: float) -> list[Bar]:
    attempts = await store.attempts_of(run.run_id, [node.node_id for node in nodes if node.counts is None])
    like: dict[tuple[str, str, str], list[float]] = {}
    found: list[Bar] = []
    for node in nodes:
        sent = attempts.get(node.node_id, [])
        bar = bar_of(node, sent, now=now)
        if node.status is NodeStatus.RUNNING and run.going and _silent(sent, now) >= QUIET_FROM:
            last = sent[-1]
            kind = (last.provider, last.model, "" if last.model else step_path(node.node_id))
            if kind not in like:
                like[kind] = await store.latencies(last)
            bar = replace(bar, quiet=quiet_text(last.started_at, now, like[kind]))
        found.append(bar)
    return found


def _silent(attempts: Sequence[AttemptRecord], now: float) -> float:
    """Seconds for which the last one has been on its way."""
    waiting = attempts and attempts[-1].status is AttemptStatus.SENT
    return now - attempts[-1].started_at if waiting else 0.0
