"""What is kept, as values: runs, nodes, attempts at requests, and stored answers."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from flowllm.core.errors import DatabaseCorrupt
from flowllm.core.records import dataclass, field
from flowllm.core.types import AttemptStatus, Counts, Json, NodeId, NodeStatus, RunId, RunStatus, StepKind, Usage
from flowllm.storage.monitoring import RunTotals


class Elsewhere(StrEnum):
    """Why a request was not begun: another process has an equal one."""

    SENT = "sent"  # it is on its way, and its process is alive
    ANSWERED = "answered"  # the response cache has its answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The process that has a run."""

    pid: int
    host: str
    since: float
    """Wall clock, seconds since 1970 UTC."""

    @property
    def process(self) -> str:
        """As gauges name it."""
        return f"{self.host}:{self.pid}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLease:
    """Proof of ownership. Every write of a run carries it; a stale epoch writes nothing."""

    run_id: RunId
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One run. Times are wall clock seconds since 1970 UTC."""

    run_id: RunId
    workflow: str
    path: str
    """The workflow file, absolute."""
    status: RunStatus
    started_at: float
    seq: int = 0
    """Order of creation, given by the store; clocks may jump, this does not."""
    finished_at: float | None = None
    provider: str = ""
    """What the default provider was resolved to."""
    inputs: Mapping[str, Json] = field(default_factory=dict)
    options: Mapping[str, Json] = field(default_factory=dict)
    """The options of the command line that a resume repeats."""
    snapshot: Mapping[str, str] = field(default_factory=dict)
    """Path to text of the workflow and every file it reads."""
    outputs: Mapping[str, Json] | None = None
    error: Mapping[str, Json] | None = None
    stats: Mapping[str, Json] = field(default_factory=dict)
    tenant: str = ""
    tags: tuple[str, ...] = ()
    """Given with `run --tag`, sorted."""
    epoch: int = 1
    owner: Owner | None = None
    output_offset: int | None = None
    """Bytes of the `--output` file that are known to be on disk; None: it was not begun."""
    totals: RunTotals = field(default_factory=RunTotals, compare=False)
    """Kept by the store, whatever is written here."""

    @property
    def going(self) -> bool:
        """A process goes on with it."""
        return self.status is RunStatus.RUNNING


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRecord:
    """One node of a run, as it ended or stands. Written over by a later attempt at the same node."""

    run_id: RunId
    node_id: NodeId
    kind: StepKind
    status: NodeStatus
    key: str = ""
    """Fingerprint of what the node would send or compute; empty if it never came to that."""
    parts: Mapping[str, Json] = field(default_factory=dict)
    """What the key was computed from, for `show` and `why`; secrets masked."""
    output: Json = None
    error: Mapping[str, Json] | None = None
    model: str = ""
    provider: str = ""
    cached: bool = False
    reused: bool = False
    """Taken over from an earlier attempt at the run."""
    attempts: int = 0
    truncated: bool = False
    usage: Usage = field(default_factory=Usage)
    cost_usd: float | None = None
    saved_usd: float | None = field(default=0.0, compare=False)
    """What its answers cost when they were asked for, where they came from the response cache; not kept."""
    queue_s: float = 0.0
    call_s: float = 0.0
    started_at: float | None = None
    finished_at: float | None = None
    seq: int = 0
    """Order of completion among the nodes that one process executes of the run, from 1; 0 for one that has not ended. Nodes that
    several workers execute may share one."""
    parent: str = ""
    """The node that it is an item of, or a step within; empty at the top."""
    place: int | None = None
    """The index of an item in its data, from 0; None for what is not an item."""
    item: Json = None
    """The item's value."""
    content: str = ""
    """Hash of `item`, by which it is found again when the data has moved."""
    counts: Counts | None = None
    """Of a foreach: what became of its items."""
    epoch: int = 1
    """The attempt at the run that wrote the row, or took it over."""
    change_no: int = field(default=0, compare=False)
    """The number of the last change of this row among all of its run, given by the store."""
    waits: Mapping[str, float] = field(default_factory=dict)
    """Seconds that it waited before its row was made, by `WaitReason`, summed over its requests."""

    @property
    def damaged(self) -> bool:
        """What is stored is not what was written; it has to be made anew."""
        return (self.error or {}).get("type") == DatabaseCorrupt.__name__


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemKey:
    """An item that a resumed foreach has pulled from its data."""

    place: int
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchedItem:
    """What the store knows of such an item."""

    number: int
    """The number in the item's name: an item keeps its name in a run, also when its place changes."""
    node: NodeRecord | None = None
    """The item as an earlier attempt at the run left it, at its new place and in this attempt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """One request on the wire, or one attempt at the work of a step that does it itself."""

    attempt_id: str
    """Unique; made by the caller, so that a repeated write changes nothing."""
    run_id: RunId
    node_id: NodeId
    key: str
    number: int
    """1 for the first request of the node in this attempt at the run."""
    provider: str
    """For a step that does its work itself: its kind."""
    model: str
    """Empty for a step that does its work itself: its attempts are no requests, and cost nothing."""
    started_at: float
    status: AttemptStatus = AttemptStatus.SENT
    finished_at: float | None = None
    error: Mapping[str, Json] | None = None
    usage: Usage = field(default_factory=Usage)
    cost_usd: float | None = None
    reserved_tokens: float = 0.0
    """What was set aside for it before it was sent: the most that it may take."""
    reserved_usd: float | None = 0.0
    """The same in dollars, None if the price is unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoRecord:
    """One valid answer under its request's key."""

    key: str
    provider: str
    model: str
    answer: Json
    """{"value", "model", "provider", "usage", "cost_usd", "truncated"}"""
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeWrite:
    """A node's row and the right to write it."""

    lease: RunLease
    node: NodeRecord
