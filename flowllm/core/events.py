"""What happened in a run, in the past tense. Frozen, and emitted only after it is durable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flowllm.core.records import dataclass, field, fields
from flowllm.core.types import NO_USAGE, Json, NodeId, NodeStatus, RunId, RunStatus, StepKind, Usage, WaitReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """The base: which run, and when (wall clock, seconds since 1970 UTC)."""

    run_id: RunId
    at: float

    def as_dict(self) -> dict[str, Json]:
        """The event as a JSON object, its kind under `event`."""
        record: dict[str, Json] = {"event": type(self).__name__}
        for item in fields(self):
            value = getattr(self, item.name)
            record[item.name] = value.as_dict() if isinstance(value, Usage) else value
        return record


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(Event):
    """An attempt at a run began."""

    workflow: str
    provider: str
    """What the default provider was resolved to."""
    nodes: int
    """How many nodes the run has."""
    resumed: bool = False
    simulated: bool = False
    """No real model will be asked, though none was named: `auto` found no key."""
    over: str | None = None
    """The data set each of whose rows is one run of the graph; None: the graph is run once."""
    output: str | None = None
    """The file that takes what comes of the rows."""
    steps: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Its steps in the order of the file, those of graphs within them too (`post.headline`), and which others each needs."""
    budget_usd: float | None = None
    budget_tokens: int | None = None
    """What the run may spend with all its resumes; None: any amount."""
    spent_usd: float = 0.0
    spent_tokens: int = 0
    """What earlier attempts at it took, as far as that is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice(Event):
    """Something a person should know before the run goes on."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeEvent(Event):
    """Something happened to a node."""

    node_id: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStarted(NodeEvent):
    """Its inputs are there."""

    kind: StepKind
    parent: str = ""
    """The node that it is within, or an item of; empty at the top."""
    place: int | None = None
    """Of an item: its index, from 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FanOutStarted(NodeEvent):
    """A foreach begins to go through its items."""

    total: int | None
    """How many there are; None: its data is a stream, it is not known yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FanOutCounted(NodeEvent):
    """How many items a foreach over a file has was found out, while it goes through them."""

    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeEnded(NodeEvent):
    """It reached a terminal status; `done` of `total` nodes beside it have: steps of its graph, or items of its foreach."""

    status: NodeStatus
    done: int
    total: int
    """0: not known yet."""
    kind: StepKind
    cached: bool = False
    reused: bool = False
    """It stood already in this run's record."""
    reason: str = ""
    """Why it was skipped or blocked."""
    error: Mapping[str, Json] | None = None
    tolerated: bool = False
    """It failed under `on_error: continue`."""
    usage: Usage = NO_USAGE
    cost_usd: float | None = None
    saved_usd: float | None = 0.0
    """What its answers cost when they were asked for, where they came from the response cache."""
    queue_s: float = 0.0
    call_s: float = 0.0
    attempts: int = 0
    truncated: bool = False
    model: str = ""
    provider: str = ""
    elsewhere: bool = False
    """A worker executed it: its requests are in the figures of that."""
    parent: str = ""
    place: int | None = None
    """As in NodeStarted."""
    counts: Mapping[str, Json] | None = None
    """Of a foreach: what became of its items."""
    waits: Mapping[str, float] = field(default_factory=dict)
    """Seconds waited, by WaitReason, summed over its requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeWaiting(NodeEvent):
    """The node waits, and why; emitted once until the reason changes, and not for reads of the cache and commits."""

    reason: WaitReason
    until: float | None = None
    """About when it goes on, wall clock; None: when something else has ended."""
    leader_run: str = ""
    leader_node: str = ""
    """EQUAL_CALL: the node, maybe of another run, whose request is in flight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSuspended(NodeEvent):
    """The node waits for a value from outside, by now or still; it may start again, also in another attempt."""

    kind: str
    """What it waits for: `approval`, `batch`, …"""
    token: str
    """Under which the value is to be given."""
    due_at: float | None = None
    """When it goes on without a value, wall clock; None: never by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSent(NodeEvent):
    """A request of that node was admitted and recorded, and goes out now."""

    attempt: int
    model: str
    provider: str
    queue_s: float
    hedge: bool = False
    """A second attempt, beside the first one, which takes unusually long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestEnded(NodeEvent):
    """It came to an end; `error` is null if an answer came."""

    attempt: int
    model: str
    provider: str
    call_s: float
    error: Mapping[str, Json] | None = None
    usage: Usage = NO_USAGE
    cost_usd: float | None = None
    reserved_tokens: float = 0.0
    reserved_usd: float | None = 0.0
    """What was set aside for it; counts against budgets where tokens or cost are unknown."""
    saved_usd: float | None = 0.0
    """What the tokens that the provider read from its cache would have cost more, had it not kept them."""
    list_price: str = ""
    """The model whose list price the cost is reckoned by, where the server's own is not known: `openai/gpt-4o-mini`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestJoined(NodeEvent):
    """An equal request was in flight already; the node waits for its answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeHedged(NodeEvent):
    """A request of the node, or its attempt at work of its own, takes unusually long: this is the number of a second one
    beside it, of which the first answer counts."""

    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRetrying(NodeEvent):
    """An attempt failed, or its answer was invalid; another follows after `delay_s` seconds."""

    attempt: int
    delay_s: float
    error: Mapping[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class FallbackTaken(NodeEvent):
    """The model before it is given up; `model` is asked instead."""

    model: str
    error: Mapping[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class FailuresHigh(Event):
    """More than a few of the run's nodes have failed, after all their retries."""

    failed: int
    ended: int
    share: float
    """0 to 1."""
    items: int = 0
    """Of those that ended, so many are items of a foreach."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRequested(Event):
    """Nothing new is sent from now on; calls in flight may finish."""

    reason: str
    in_flight: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnded(Event):
    """An attempt at the run is over."""

    status: RunStatus
    duration_s: float
    outputs: Mapping[str, Json] | None = None
    error: Mapping[str, Json] | None = None
    stats: Mapping[str, Json] = field(default_factory=dict)
