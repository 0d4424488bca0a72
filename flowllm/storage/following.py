"""Reading a run while it goes on: what changed since, without what was sent and what came back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from flowllm.core.records import dataclass, field
from flowllm.core.types import Counts, Json, NodeId, NodeStatus, RunId, RunStatus, Usage
from flowllm.storage.monitoring import RunTotals


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeBrief:
    """A node without its texts: what a list of many shows. Fields as in `NodeRecord`."""

    node_id: NodeId
    kind: str
    status: NodeStatus
    parent: str
    place: int | None
    started_at: float | None
    finished_at: float | None
    queue_s: float
    call_s: float
    cached: bool
    reused: bool
    attempts: int
    model: str
    cost_usd: float | None
    usage: Usage
    error: Mapping[str, Json] | None
    counts: Counts | None
    waits: Mapping[str, float] = field(default_factory=dict)
    change_no: int


class ItemChange(NamedTuple):
    """An item of a foreach, as it stands now."""

    parent: str
    place: int
    status: NodeStatus
    change_no: int
    worked: bool = True
    """It was carried out, not taken from the cache or from an earlier attempt at the run."""
    node_id: NodeId = NodeId("")
    error: Mapping[str, Json] | None = None
    """These two of items that failed alone."""


class Within(NamedTuple):
    """A step of the graph that a foreach runs for each item, over all items so far; of one that is a foreach itself its items."""

    path: str
    """Below that of the outer foreach."""
    ended: int
    failed: int
    skipped: int
    """Or blocked."""
    worked: int
    """Ended, and neither cached nor reused."""
    begun: int
    """Items of the outer foreach in which it has begun; of a foreach those in which it is known"""
    total: int | None
    """how many items it has: together so many; None: it is no foreach."""
    alike: bool
    """All have as many."""


class Past(NamedTuple):
    """A run that ended, as one of the last ones of its workflow."""

    seq: int
    seconds: float
    """That its last attempt took."""
    status: RunStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowSums:
    """Runs of one workflow and status together."""

    workflow: str
    status: RunStatus
    runs: int
    totals: RunTotals


class Following(Protocol):
    """The verbs of `Store` by which a run is followed."""

    async def briefs(
        self, run_id: RunId, *, parent: str | None = None, since: int = 0, limit: int = 2000
    ) -> list[NodeBrief]:
        """Nodes whose `change_no` is above `since`, in its order, never items: those within `parent` ("": at the top), or, with
        None, all but those within items."""
        ...

    async def item_changes(self, run_id: RunId, *, since: int = 0, limit: int = 2000) -> list[ItemChange]:
        """Items whose `change_no` is above `since`, in its order, but those within other items."""
        ...

    async def within(self, run_id: RunId, foreach: NodeId) -> list[Within]:
        """What has become of the nodes within the items of a foreach; goes through all of them."""
        ...

    async def last_sign(self, run_id: RunId) -> float | None:
        """About when something of the run was last put on record, wall clock; None: nothing was."""
        ...

    async def recent(self, workflow: str, *, upto: int, limit: int) -> list[Past]:
        """The newest runs of a workflow that ended, up to the one with the `seq` `upto`, the oldest first."""
        ...

    async def sums(self) -> list[WorkflowSums]:
        """What all runs took together, for each workflow and each status of its runs; one whose process is gone counts as
        running."""
        ...
