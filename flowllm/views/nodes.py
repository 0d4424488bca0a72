"""The nodes of a run as they stand, those too that never ended: these have no sums of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from flowllm.core.records import replace
from flowllm.core.types import NODE_TERMINAL, Counts, NodeId, NodeStatus, RunStatus, StepKind
from flowllm.storage.base import NodeRecord, RunRecord, Store
from flowllm.views.standing import standing

MOST_COUNTED = 500
"""Nodes of one graph for which that is looked up; of more it stays unknown."""
NODE_UNENDED = frozenset({NodeStatus.PENDING, NodeStatus.RUNNING, NodeStatus.WAITING, NodeStatus.CANCELLED})
MOST_ITEMS = 1000
"""Items of a foreach's output that are shown, unless all are wanted."""


def all_nodes(run: RunRecord, nodes: Sequence[NodeRecord], kinds: Mapping[str, StepKind]) -> list[NodeRecord]:
    """The nodes of a run in the order of its file, with those that never ended: pending, or cancelled by its end.

    A run that succeeded without some of its steps was not asked for them.
    """
    status = NodeStatus.PENDING if run.going else NodeStatus.CANCELLED
    known = {node.node_id: replace(node, status=standing(node.status, going=run.going)) for node in nodes}
    found = []
    for step, kind in kinds.items():
        node = known.pop(NodeId(step), None)
        if node is None and run.status is not RunStatus.SUCCEEDED:
            node = NodeRecord(run_id=run.run_id, node_id=NodeId(step), kind=kind, status=status)
        if node is not None:
            found.append(node)
    return [*found, *known.values()]


async def counted(store: Store, nodes: Sequence[NodeRecord]) -> list[NodeRecord]:
    """Nodes, with what was usage by now on those that never ended: these have no sums of their own."""
    found, left = [], MOST_COUNTED
    for node in nodes:
        if node.status not in NODE_UNENDED or left <= 0:
            found.append(node)
            continue
        left -= 1
        spend = await store.spend(node.run_id, node.node_id)
        found.append(replace(node, attempts=spend.requests, usage=spend.usage, cost_usd=spend.cost_usd))
    return found


async def whole_nodes(store: Store, run: RunRecord, most: int | None = MOST_ITEMS) -> list[NodeRecord]:
    """The nodes at the top of a run; those with a foreach with the outputs of so many items (None: of all), and with
    their counts so far where they have not ended."""
    return [await with_items(store, node, most) for node in await store.nodes(run.run_id)]


async def with_items(store: Store, node: NodeRecord, most: int | None = MOST_ITEMS) -> NodeRecord:
    """A node as it is; one with a foreach with the outputs of so many items (None: of all), and its counts so far."""
    if node.counts is None:
        return node
    numbers = node.parts.get("chosen")
    outputs = store.outputs(node.run_id, node.node_id, numbers=numbers)
    shown = [] if most == 0 else await asyncio.to_thread(lambda: list(outputs[:most]))
    if node.status in NODE_TERMINAL:
        return replace(node, output=shown if node.status is NodeStatus.SUCCEEDED else None)
    return replace(node, output=shown, counts=await counts_so_far(store, node))


async def counts_so_far(store: Store, node: NodeRecord) -> Counts:
    """Of a foreach that has not ended; of all its items where they were counted, else of those that have begun."""
    found = await store.count_items(node.run_id, node.node_id)
    return Counts(
        total=max(sum(found.values()), 0 if node.counts is None else node.counts.total),
        succeeded=found.get(NodeStatus.SUCCEEDED, 0),
        failed=found.get(NodeStatus.FAILED, 0),
        skipped=found.get(NodeStatus.SKIPPED, 0),
    )
