"""A run at one moment, as values: what the live model gives, and what draws it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from flowllm.core.records import dataclass, field
from flowllm.core.types import NodeStatus, RunStatus, WaitReason

CACHED: Final = "cached"
REUSED: Final = "reused"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSnapshot:
    """One step as it stands; of a foreach all its items, of a step within one all nodes that it has become."""

    name: str
    depth: int
    status: NodeStatus
    source: str = ""
    """CACHED or REUSED, where it was not carried out."""
    many: bool = False
    """It has items, or is within such a step: the numbers count."""
    total: int | None = None
    """Items; None: not known yet."""
    ended: int = 0
    failed: int = 0
    skipped: int = 0
    retried: int = 0
    in_flight: int = 0
    """Its requests."""
    waits: Mapping[WaitReason, int] = field(default_factory=dict)
    """Its nodes that wait, by reason."""
    needs: tuple[str, ...] = ()
    """The steps that it waits for before it can begin."""
    per_second: float | None = None
    left_s: float | None = None
    """Seconds until its items are done, as fast as in the last half minute."""
    elapsed_s: float | None = None
    usd: float = 0.0
    tokens: int = 0
    note: str = ""
    """Why it was skipped or blocked, what it waits for, or its error; harmless on a terminal, as all texts here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """Something a minute, and what the accounts allow; None: not limited, or not known."""

    per_minute: float = 0.0
    limit: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """The last error: of which node, and what."""

    text: str
    retried: bool = False
    """Its request is sent again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveSnapshot:
    """A run at one moment. Money in US dollars, as far as it is known."""

    run_id: str
    workflow: str
    provider: str
    simulated: bool
    resumed: bool
    status: RunStatus
    stopping: bool
    elapsed_s: float
    steps: tuple[StepSnapshot, ...]
    done: int
    """Steps at the top that have ended."""
    count: int
    """Steps at the top."""
    in_flight: int
    waits: Mapping[WaitReason, int]
    requests: Throughput
    tokens: Throughput
    usd: float
    usd_exact: bool
    budget_usd: float | None
    tokens_used: int
    budget_tokens: int | None
    left_s: float | None
    """Seconds until the items of the steps at work are done; None: unknown."""
    more_follows: bool
    """Other steps come after those."""
    pause_s: float
    """Seconds for which a server wants no requests."""
    quiet: str
    """The request that has been out longest, if that is long."""
    last_error: Trouble | None
