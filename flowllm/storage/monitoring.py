"""What readers of a run watch while it goes on: its totals, what waits, and how the limiters stand; what was learned."""

from __future__ import annotations

from collections.abc import Mapping

from flowllm.core.money import Spend
from flowllm.core.records import dataclass, field
from flowllm.core.types import Json, NodeId, NodeStatus, RunId

SUSPENDED = "suspended"
"""The entry in the parts of a suspended node that says what it waits for: `kind`, `token` and `due_at`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTotals:
    """Sums over what is on record of a run, of all its attempts; each commit brings them up to date."""

    changes: int = 0
    """The newest `NodeRecord.change_no`."""
    last_seq: int = 0
    """The highest `NodeRecord.seq`."""
    nodes: Mapping[NodeStatus, int] = field(default_factory=dict)
    """How many nodes have each status, items too; those that left the data since are counted."""
    spend: Spend = field(default_factory=Spend)
    """As `Store.spend` of the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspensionRecord:
    """What a suspended node waits for: a value that somebody gives under its token."""

    run_id: RunId
    node_id: NodeId
    kind: str
    """What whoever wakes it has to know: `approval`, `batch`, …"""
    token: str
    """Unique in the database."""
    due_at: float | None = None
    """When it is to be looked at again, wall clock seconds; None: never by itself."""
    payload: Json = None
    woken: bool = False
    value: Json = None
    """What it was woken with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauge:
    """How an account's limiter stood at one moment."""

    process: str
    """Which process: `HOST:PID`."""
    account: str
    """Kept as it is given: it must not hold a secret."""
    at: float
    """Wall clock seconds."""
    in_flight: int
    waiting: int
    max_concurrent: int = 0
    """Requests that may be in flight now."""
    rate: float | None = None
    """Requests a second that are allowed now; None: not limited."""
    requests_sent: int = 0
    """In the last minute."""
    tokens_per_minute: float | None = None
    """The limit; None: there is none."""
    tokens: float | None = None
    """Tokens a minute that are left now; None: not limited."""
    tokens_used: int = 0
    """By requests that were answered in the last minute."""
    refused: int = 0
    """Requests that the server refused with a 429 in the last minute."""
    pause_s: float = 0.0
    """Seconds until the server's pause is over."""
    waits: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """How many requests wait for which `WaitReason` at which `Priority`; together with those that were admitted and may not go
    out yet."""

    @property
    def reasons(self) -> dict[str, int]:
        """How many wait for which reason."""
        return {reason: sum(counts.values()) for reason, counts in self.waits.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """Something that was learned of one model of an account, for later runs to begin with."""

    account: str
    """The account with the model; kept as it is given: it must not hold a secret."""
    name: str
    """What it is: see `Trait`."""
    value: float
    """A number from 0."""
    at: float
    """When, wall clock seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoStats:
    """The memo as a whole. Sizes in bytes, times in wall clock seconds."""

    entries: int
    bytes: int
    oldest: float | None
    newest: float | None
    models: Mapping[str, int]
    """Entries of each model."""
