"""What is told of a run of another process in place of the events that only that process has: sums, read from its record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flowllm.core.events import Event, NodeEvent
from flowllm.core.records import dataclass
from flowllm.core.types import Json, NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemsRead(NodeEvent):
    """How far the items of a foreach have come."""

    ended: int
    failed: int
    skipped: int
    worked: int
    """Items that were carried out since this was told last: those count towards the rate."""
    errors: Sequence[tuple[NodeId, Mapping[str, Json]]] = ()
    """The newest of items that failed since."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRead(NodeEvent):
    """How far a step within the items of a foreach has come; `node_id` is its path, without their numbers."""

    ended: int
    failed: int
    skipped: int
    worked: int
    """As in ItemsRead."""
    begun: int
    total: int | None
    alike: bool
    """As in `storage.following.Within`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendRead(Event):
    """What the run took so far, as far as that is known."""

    usd: float
    tokens: int
    exact: bool
    """No cost is unknown."""


READ = (ItemsRead, StepRead, SpendRead)
