"""A node about to be executed, what it has in common with its neighbours, and what requests, tokens, costs and times it
takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Final

from flowllm.core.cancel import CancelToken
from flowllm.core.events import Event, NodeWaiting, RequestEnded, RequestSent
from flowllm.core.records import dataclass, field, replace
from flowllm.core.types import USAGE_FIELDS, Json, NodeId, Usage, WaitReason, add
from flowllm.language.workflow import Step
from flowllm.runtime.graph_state import CompiledGraph
from flowllm.steps.base import Bound, ItemPosition, Lazy
from flowllm.storage.base import NodeRecord


class NodeUsage:
    """Passes a node's events on and adds up its requests, those of its fallbacks too: a node that fails has no answer
    that would have the sums."""

    def __init__(self, emit: Callable[[Event], None], note_sent: Callable[[], None]) -> None:
        self._emit = emit
        self._note_sent = note_sent
        self._sent: list[RequestSent] = []
        self._ended: list[RequestEnded] = []
        self.waits: dict[str, float] = {}
        """Seconds that the node has waited so far, by reason."""
        self._waits_for: tuple[NodeId, WaitReason] | None = None
        """What was emitted last, of this node or one within it."""
        self._since = self._before = 0.0
        """When that began (wall clock), and what was waited in all before."""

    def __call__(self, event: Event) -> None:
        """Something happened to the node."""
        if isinstance(event, RequestSent):
            self._sent.append(event)
            self._waits_for = None
            self._note_sent()
        elif isinstance(event, RequestEnded):
            self._ended.append(event)
        elif isinstance(event, NodeWaiting):
            if self._waits_for == (event.node_id, event.reason):
                return
            self._waits_for = (event.node_id, event.reason)
            self._since, self._before = event.at, sum(self.waits.values())
        self._emit(event)

    def waits_at(self, now: float) -> dict[str, float]:
        """Seconds that the node has waited, by reason, with those of a wait that goes on at that wall clock time and was not
        counted meanwhile."""
        found = dict(self.waits)
        if self._waits_for is not None and sum(found.values()) == self._before:
            _, reason = self._waits_for
            found[reason] = found.get(reason, 0.0) + max(0.0, now - self._since)
        return found

    @property
    def in_flight(self) -> int:
        """Requests that are out."""
        return len(self._sent) - len(self._ended)

    def onto(self, record: NodeRecord) -> NodeRecord:
        """The row of a node that failed, with what was usage on it; one that sent nothing stays as it is."""
        if not self._sent:
            return record
        costs = [event.cost_usd for event in self._ended]
        return replace(
            record,
            attempts=len(self._sent),
            model=self._sent[-1].model,
            provider=self._sent[-1].provider,
            queue_s=sum(event.queue_s for event in self._sent),
            call_s=sum(event.call_s for event in self._ended),
            usage=sum((event.usage for event in self._ended), Usage()),
            cost_usd=None if None in costs else sum(cost for cost in costs if cost is not None),
        )


_COUNTS: Final = attrgetter(*USAGE_FIELDS)


class UsageTotals:
    """What the nodes within a node took, added up."""

    def __init__(self, parent: UsageTotals | None = None, on_missed: Callable[[], None] | None = None) -> None:
        """`on_missed` is called when it is known of a node within that something must really be done."""
        self.parent = parent
        self.on_missed = on_missed
        self.sent = 0
        """Requests that went out."""
        self.attempts = 0
        self.answered = 0
        """Nodes with an answer from the response cache."""
        self.counts: list[int | None] = [0] * len(USAGE_FIELDS)
        """Tokens, in the order of USAGE_FIELDS."""
        self.cost_usd: float | None = 0.0
        self.queue_s = 0.0
        self.call_s = 0.0

    @property
    def usage(self) -> Usage:
        """The same by name."""
        return Usage(**dict(zip(USAGE_FIELDS, self.counts, strict=True)))

    def with_those_around(self) -> Iterator[UsageTotals]:
        """These, and those of the nodes around."""
        totals: UsageTotals | None = self
        while totals is not None:
            yield totals
            totals = totals.parent

    def note_sent(self) -> None:
        """A request goes out."""
        for totals in self.with_those_around():
            totals.sent += 1

    def note_missed(self) -> None:
        """Nothing answers a node: something is done for it now."""
        for totals in self.with_those_around():
            if totals.on_missed is not None:
                totals.on_missed()

    def add(self, record: NodeRecord) -> None:
        """A node that does the work itself has ended."""
        if not (record.attempts or record.cached or record.cost_usd is None):
            return
        counts = _COUNTS(record.usage)
        for totals in self.with_those_around():
            totals.attempts += record.attempts
            totals.answered += record.cached
            pairs = zip(totals.counts, counts, strict=True)
            totals.counts = [None if one is None or more is None else one + more for one, more in pairs]
            unknown = totals.cost_usd is None or record.cost_usd is None
            totals.cost_usd = None if unknown else (totals.cost_usd or 0.0) + (record.cost_usd or 0.0)
            totals.queue_s += record.queue_s
            totals.call_s += record.call_s

    def take_back(self) -> None:
        """What it is within counts nothing of it, as it will be executed again, and added up then."""
        known = [-(count or 0) for count in self.counts]
        for around in () if self.parent is None else self.parent.with_those_around():
            around.attempts -= self.attempts
            around.answered -= self.answered
            around.counts = [*map(add, around.counts, known)]
            if around.cost_usd is not None and self.cost_usd is not None:
                around.cost_usd -= self.cost_usd
            around.queue_s -= self.queue_s
            around.call_s -= self.call_s

    def figures(self) -> dict[str, Json]:
        """The sums as fields of a node's record."""
        return {
            "attempts": self.attempts,
            "cached": self.attempts == 0 and self.answered > 0,
            "usage": self.usage,
            "cost_usd": self.cost_usd,
            "queue_s": self.queue_s,
            "call_s": self.call_s,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What templates look at of one foreach; None where nothing does."""

    output: list[Json] | None = None
    rows: Json = None
    lazy: Lazy | None = None


@dataclass(slots=True, kw_only=True)
class GraphScope:
    """Where a graph or a foreach stands within its run."""

    token: CancelToken
    totals: UsageTotals = field(default_factory=UsageTotals)
    fail_fast: bool = False
    """A failure in it ends the run."""
    done: int = 0
    total: int = 0
    """Nodes that have ended, and all of them; 0 where that is not known."""
    graph: CompiledGraph | None = None
    """The graph, or that of the foreach; None for the rows of `--over`."""
    results: dict[NodeId, Result] = field(default_factory=dict)
    """Of foreaches in the graph, from their end until the graph has taken note of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """What an earlier attempt left of a node, or this one if it was suspended."""

    record: NodeRecord
    within: Sequence[NodeRecord] | None = None
    """The nodes within it; None: to be looked up if need be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeInvocation:
    """One node to execute, with all that it needs to begin."""

    node_id: NodeId
    step: Step
    values: Mapping[str, Json]
    """What its templates see."""
    position: ItemPosition
    scope: GraphScope
    totals: UsageTotals
    """Where what it takes is added up."""
    before: Earlier | None = None
    waits: Mapping[str, float] | None = None
    """Seconds that it waited before it could begin."""
    bound: Bound | None = None
    """The step bound to the values, where that has been done."""

    @property
    def earlier(self) -> NodeRecord | None:
        """What was left of it before."""
        return None if self.before is None else self.before.record

    @property
    def is_row(self) -> bool:
        """It is a row of `--over`, or all of them: the item itself gives the inputs."""
        return self.scope.graph is None
