"""What a drawing of a run over time asks of the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from flowllm.core.records import dataclass
from flowllm.core.types import Json, NodeId, NodeStatus, RunId, StepId
from flowllm.storage.records import AttemptRecord, Owner

RUN_ATTEMPTS = "run_attempts"
"""The entry in the figures of a run that has when each attempt at it began and ended, and its process: see `begun`."""


def begun(owner: Owner, at: float) -> dict[str, Json]:
    """An attempt at a run that begins at that wall clock time; the next one says when it ended, or the run when the last did."""
    return {"started_at": at, "finished_at": None, "process": owner.process}


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """How many items of a foreach, or steps of a graph, began and ended in each of equal spans of time, the first beginning
    at `begin`."""

    begin: float
    """Wall clock seconds."""
    width: float
    """Seconds of a span."""
    started: Sequence[int] = ()
    succeeded: Sequence[int] = ()
    failed: Sequence[int] = ()
    others: Sequence[int] = ()
    """Those that were skipped, blocked or cancelled."""


class TimelineReads(Protocol):
    """Verbs of `Store`."""

    async def attempts_of(self, run_id: RunId, nodes: Sequence[NodeId]) -> Mapping[NodeId, list[AttemptRecord]]:
        """As `attempts` for many nodes at once; a node without attempts is left out."""
        ...

    async def activity(
        self, run_id: RunId, parent: NodeId, windows: Sequence[tuple[float, float]], *, spans: int
    ) -> list[Activity]:
        """When items of a foreach, or steps of a graph, began and ended in each of these times (begin, end; none overlaps
        another), in that many spans; what is outside is left out. Items of earlier attempts at the run that have left the
        data since are counted."""
        ...

    async def count_within(self, run_id: RunId, foreach: NodeId) -> Mapping[StepId, Mapping[NodeStatus, int]]:
        """For each step of the graph that a foreach runs for each item: how many items have it in each status."""
        ...

    async def latencies(self, like: AttemptRecord) -> list[float]:
        """Seconds that answered requests to its provider and model took, as far as they are among the newest attempts, the
        oldest first; of steps that do their work themselves, those of the same step in runs of the same workflow."""
        ...
