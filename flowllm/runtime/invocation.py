"""A node about to be executed, what it has in common with its neighbours, and what requests, tokens, costs and times it
takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from flowllm.core.cancel import CancelToken
from flowllm.core.events import Event, NodeWaiting, RequestEnded, RequestSent
from flowllm.core.types import Json, NodeId, Usage, WaitReason
from flowllm.language.workflow import Step
from flowllm.runtime.graph_state import CompiledGraph
from flowllm.steps.base import ItemPosition
from flowllm.steps.lazy import Lazy
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
        """What was told last, of this node or one within it."""

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
        self._emit(event)

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


class UsageTotals:
    """What the nodes within a node took, added up."""

    def __init__(self, parent: UsageTotals | None = None) -> None:
        self._parent = parent
        self.sent = 0
        """Requests that went out."""
        self.attempts = 0
        self.answered = 0
        """Nodes with an answer from the response cache."""
        self.usage = Usage()
        self.cost_usd: float | None = 0.0
        self.queue_s = 0.0
        self.call_s = 0.0

    def note_sent(self) -> None:
        """A request goes out."""
        totals: UsageTotals | None = self
        while totals is not None:
            totals.sent += 1
            totals = totals._parent  # noqa: SLF001 - another one of this class

    def add(self, record: NodeRecord) -> None:
        """A node that does the work itself has ended."""
        if not (record.attempts or record.cached or record.cost_usd is None):
            return
        totals: UsageTotals | None = self
        while totals is not None:
            totals.attempts += record.attempts
            totals.answered += record.cached
            totals.usage += record.usage
            unknown = totals.cost_usd is None or record.cost_usd is None
            totals.cost_usd = None if unknown else (totals.cost_usd or 0.0) + (record.cost_usd or 0.0)
            totals.queue_s += record.queue_s
            totals.call_s += record.call_s
            totals = totals._parent  # noqa: SLF001

    def take_back(self) -> None:
        """What it is within counts nothing of it, as it will be executed again, and added up then."""
        known = {name: -count for name, count in self.usage.as_dict().items() if count is not None}
        around = self._parent
        while around is not None:
            around.attempts -= self.attempts
            around.answered -= self.answered
            around.usage += Usage(**known)
            if around.cost_usd is not None and self.cost_usd is not None:
                around.cost_usd -= self.cost_usd
            around.queue_s -= self.queue_s
            around.call_s -= self.call_s
            around = around._parent  # noqa: SLF001

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
class Scope:
    """Where a graph or a foreach stands within its run."""

    token: CancelToken
    totals: UsageTotals = field(default_factory=UsageTotals)
    fail_fast: bool = False
    """A failure in it ends the run."""
    done: int = 0
    total: int = 0
    """Nodes that have ended, and all of them; 0 where that is not known."""
    missed: Callable[[], None] | None = None
    """To be called when it is known of a node in it that something must really be done."""
    results: dict[NodeId, Result] = field(default_factory=dict)
    """Of foreaches in the graph, from their end until the graph has taken note of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeInvocation:
    """One node to execute, with all that it needs to begin."""

    node_id: NodeId
    step: Step
    values: Mapping[str, Json]
    """What its templates see."""
    position: ItemPosition
    scope: Scope
    totals: UsageTotals
    """Where what it takes is added up."""
    earlier: NodeRecord | None = None
    """What an earlier attempt left of it."""
    within: Sequence[NodeRecord] | None = None
    """The nodes within it that an earlier attempt left; None: not looked up yet."""
    missed: Callable[[], None] | None = None
    """To be called when it is known that something must really be done."""
    is_row: bool = False
    """It is a row of `--over`: the item itself gives the inputs."""
    many: bool = True
    """Its step's `foreach` is still to be gone through; False for one item of it."""
    graph: CompiledGraph | None = None
    """The graph that it belongs to; None for a row of `--over`."""
    waits: Mapping[str, float] | None = None
    """Seconds that it waited before it could begin."""
