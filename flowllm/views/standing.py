"""How nodes and requests of a run stand: what its rows have as going on was cut off, once no process goes on with the run."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from flowllm.core.records import replace
from flowllm.core.types import AttemptStatus, NodeStatus, Usage
from flowllm.storage.base import AttemptRecord, NodeRecord, RunRecord


def standing(status: NodeStatus, *, going: bool) -> NodeStatus:
    """Where a node stands whose row has that status; `going`: a process goes on with its run."""
    return NodeStatus.CANCELLED if status is NodeStatus.RUNNING and not going else status


def standing_nodes(run: RunRecord, nodes: Iterable[NodeRecord]) -> list[NodeRecord]:
    """The nodes as they stand; of those that were cut off nobody knows when."""
    cut = NodeStatus.CANCELLED
    return [
        node if run.going or node.status is not NodeStatus.RUNNING else replace(node, status=cut, finished_at=None)
        for node in nodes
    ]


def stored(statuses: Collection[NodeStatus], *, going: bool) -> Collection[NodeStatus]:
    """The statuses of rows whose nodes stand so, empty for all; nothing is in the database as pending."""
    if going or not statuses:
        return statuses
    found = set(statuses) - {NodeStatus.RUNNING}
    return found | {NodeStatus.RUNNING if NodeStatus.CANCELLED in found else NodeStatus.PENDING}


def as_seen(attempt: AttemptRecord, run: RunRecord) -> AttemptRecord:
    """A request that was in flight when its process ended may have been paid for: its usage is unknown."""
    if attempt.status is AttemptStatus.SENT and not run.going:
        free = attempt.reserved_usd == 0
        return replace(attempt, status=AttemptStatus.UNKNOWN, usage=Usage.unknown(), cost_usd=0.0 if free else None)
    return attempt
