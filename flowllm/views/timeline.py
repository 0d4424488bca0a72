"""What nodes of a run did when: a bar each, with waiting apart from calling, and attempts at their true times."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TypeAlias

from flowllm.core.errors import UsageError
from flowllm.core.records import dataclass, field, replace
from flowllm.core.types import AttemptStatus, Json, NodeId, NodeStatus, StepId, StepKind, child_id, step_path
from flowllm.explain.graph import Graph
from flowllm.reporting.text import duration, error_text
from flowllm.storage.base import AttemptRecord, NodeRecord, RunRecord, Store
from flowllm.storage.timeline import RUN_ATTEMPTS, Activity
from flowllm.views.graph import (
    critical_path,
    durations,
    end_of,
    foreach_counts,
    graph_of_run,
    graph_within,
    last_moment,
)
from flowllm.views.segments import SHORTEST, BarAttempt, WaitSegment, so_far, wait_segments, with_hedges
from flowllm.views.standing import as_seen, standing_nodes

RunAttempt: TypeAlias = tuple[float, float | None]
"""When one began and ended."""
MOST_BARS = 1000
"""Bars that are given at once."""
SPANS = 120
"""Into so many spans the time of a foreach in one attempt at the run is cut."""
MOST_EARLIER = 20
"""Earlier attempts of which that is looked at."""
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
    activity: tuple[Activity, ...] = ()
    """Of a foreach, for each attempt at the run in which items began or ended; of a graph for those before its own."""
    place: int | None = None
    change_no: int = 0

    def as_dict(self) -> dict[str, Json]:
        """As JSON."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        return {
            **plain,
            "waits": {reason: round(seconds, 4) for reason, seconds in self.waits.items()},
            "segments": [[one.reason, one.started_at, one.finished_at] for one in self.segments],
            "attempts": [{name: getattr(one, name) for name in one.__slots__} for one in self.attempts],
            "counts": dict(self.counts),
            "activity": [{name: getattr(one, name) for name in one.__slots__} for one in self.activity],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Bars in the order in which their nodes began, then those that have not; items in the order of their places."""

    bars: tuple[Bar, ...]
    changes: int
    """The number of the run's newest change that is in it."""
    more: bool = False
    """There are further items behind the last one."""
    attempts: tuple[RunAttempt, ...] = ()
    """Those at the run."""

    def as_dict(self, since: int = 0) -> dict[str, Json]:
        """As JSON; of what has changed since the change of that number, and of what goes on. The critical path is told whole:
        it moves on to bars that have not changed."""
        going = (NodeStatus.RUNNING, NodeStatus.WAITING)
        bars = [bar.as_dict() for bar in self.bars if not since or bar.change_no > since or bar.status in going]
        path: list[Json] = [bar.id for bar in self.bars if bar.critical]
        attempts: list[Json] = [list(one) for one in self.attempts]
        return {
            "bars": bars,
            "critical_path": path,
            "changes": self.changes,
            "more": self.more,
            "run_attempts": attempts,
        }


def run_attempts(run: RunRecord, now: float) -> tuple[RunAttempt, ...]:
    """When each attempt at a run began and ended (None: it goes on), wall clock seconds; what was before it was known how
    attempts are told apart is one. `now` is its last moment."""
    *before, last = run.stats.get(RUN_ATTEMPTS) or [{"started_at": run.started_at}]
    end = None if run.going else max(now, last["started_at"])
    return (*((one["started_at"], one["finished_at"]) for one in before), (last["started_at"], end))


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
    """The bar of a node that is on record."""
    drawn = with_hedges(attempts)
    finished_at = end_of(node)
    begin, end = node.started_at, now if finished_at is None else finished_at
    segments: tuple[WaitSegment, ...] = ()
    if begin is not None:
        last = [one for one in drawn if one.started_at >= begin]  # not those of earlier attempts at the run
        segments = wait_segments(node.waits, last, begin, end)
        if node.status is NodeStatus.RUNNING and node.counts is None:
            segments = so_far(segments, last, begin, end)
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
        line = await _drawn(store, run, standing_nodes(run, items[:limit]), now=now)
        return replace(line, more=len(items) > limit)
    if node is not None and node.kind != StepKind.WORKFLOW:
        raise UsageError(
            f"{parent} has no nodes within it", hint="only steps of kind `workflow`, and foreaches, have some"
        )
    inner = graph_within(above, parent)
    nodes = standing_nodes(run, await store.nodes(run.run_id, parent))
    line = await _drawn(store, run, nodes, now=now)
    now = last_moment(run, nodes, now)
    path = set(critical_path(inner, parent, durations(nodes, now)))
    counts = await foreach_counts(store, run.run_id, inner, nodes)
    bars = [
        await _as_step(store, run, inner, bar, counts.get(bar.id, {}), attempts=line.attempts, now=now)
        for bar in line.bars
    ]
    begun = sorted(bars, key=lambda bar: (bar.started_at is None, bar.started_at or 0.0))
    whole = (*begun, *_pending(inner, parent, {bar.id for bar in bars}))
    return replace(line, bars=tuple(replace(bar, critical=bar.id in path) for bar in whole))


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
    store: Store,
    run: RunRecord,
    graph: Graph,
    bar: Bar,
    counts: Mapping[NodeStatus, int],
    *,
    attempts: Sequence[RunAttempt],
    now: float,
) -> Bar:
    """With what is within it: of a foreach the counts of its items, and when they began and ended."""
    step = StepId(bar.id.rpartition(".")[2])
    foreach = step in graph.foreach
    activity: tuple[Activity, ...] = ()
    if bar.started_at is not None and (foreach or step in graph.inner):
        ended = (now if bar.finished_at is None else bar.finished_at) + SHORTEST
        windows = [(begin, end) for begin, end in attempts if end is not None and end <= bar.started_at][-MOST_EARLIER:]
        earlier = len(windows)
        if foreach:
            windows.append((bar.started_at, max(ended, bar.started_at)))
        found = await store.activity(run.run_id, NodeId(bar.id), windows, spans=SPANS) if windows else []
        activity = (*(_from_the_first(one) for one in found[:earlier] if _any(one)), *found[earlier:])
    return replace(
        bar,
        foreach=foreach,
        inner=step in graph.inner,
        counts={status.value: count for status, count in counts.items()},
        activity=activity,
        segments=() if foreach else bar.segments,
    )


def _any(activity: Activity) -> bool:
    return any(activity.started) or any(activity.succeeded) or any(activity.failed) or any(activity.others)


def _from_the_first(activity: Activity) -> Activity:
    """Without the spans before the first one began: what these are within had not."""
    of = {name: getattr(activity, name) for name in ("started", "succeeded", "failed", "others")}
    first = next(span for span, counts in enumerate(zip(*of.values(), strict=True)) if any(counts))
    begin = activity.begin + first * activity.width
    return Activity(begin=begin, width=activity.width, **{name: counts[first:] for name, counts in of.items()})


async def _drawn(store: Store, run: RunRecord, nodes: Sequence[NodeRecord], *, now: float) -> Timeline:
    now = last_moment(run, nodes, now)
    tries = run_attempts(run, now)
    sent = await store.attempts_of(run.run_id, [node.node_id for node in nodes if node.counts is None])
    like: dict[tuple[str, str, str], list[float]] = {}
    found: list[Bar] = []
    for node in nodes:
        attempts = [_ended(as_seen(one, run), tries) for one in sent.get(node.node_id, ())]
        bar = bar_of(node, attempts, now=now)
        if node.status is NodeStatus.RUNNING and _silent(attempts, now) >= QUIET_FROM:
            last = attempts[-1]
            kind = (last.provider, last.model, "" if last.model else step_path(node.node_id))
            if kind not in like:
                like[kind] = await store.latencies(last)
            bar = replace(bar, quiet=quiet_text(last.started_at, now, like[kind]))
        found.append(bar)
    return Timeline(bars=tuple(found), changes=run.totals.changes, attempts=tries)


def _ended(attempt: AttemptRecord, tries: Sequence[RunAttempt]) -> AttemptRecord:
    """One that was on its way when its process ended went on no longer than the attempt at the run did."""
    if attempt.status is AttemptStatus.SENT or attempt.finished_at is not None:
        return attempt
    ends = (end for begin, end in tries if end is not None and begin <= attempt.started_at <= end)
    return replace(attempt, finished_at=next(ends, attempt.started_at))


def _silent(attempts: Sequence[AttemptRecord], now: float) -> float:
    """Seconds for which the last one has been on its way."""
    waiting = attempts and attempts[-1].status is AttemptStatus.SENT
    return now - attempts[-1].started_at if waiting else 0.0
