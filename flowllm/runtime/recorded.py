"""What is on record of a run's nodes, with the items of their foreaches."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

from flowllm.core.types import NODE_TERMINAL, Counts, Json, NodeStatus
from flowllm.storage.base import NodeRecord, RunRecord, Store

COUNTED = "steps_in_all"
"""The entry of a run's figures that has the number of its workflow's steps; where it is, the figures are whole."""
LAST_ATTEMPT = "since_resumed"
"""The entry that has what the last attempt took, of a run that was resumed."""
MOST_COUNTED = 500
"""Nodes of one graph for which that is looked up; of more it stays unknown."""
_UNENDED = frozenset({NodeStatus.PENDING, NodeStatus.RUNNING, NodeStatus.WAITING, NodeStatus.CANCELLED})
MOST_ITEMS = 1000
"""Items of a foreach's output that are shown, unless all are wanted."""


def figures_of(run: RunRecord) -> Mapping[str, Json]:
    """The figures of a run, with what it took so far where it has not ended."""
    if run.finished_at is not None and COUNTED in run.stats:
        return run.stats
    earlier = {name: value for name, value in run.stats.items() if name != LAST_ATTEMPT}
    return {**earlier, **run.totals.spend.as_dict()}


async def counted(store: Store, nodes: Sequence[NodeRecord]) -> list[NodeRecord]:
    """Nodes, with what was usage by now on those that never ended: these have no sums of their own."""
    found, left = [], MOST_COUNTED
    for node in nodes:
        if node.status not in _UNENDED or left <= 0:
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
    slots = node.parts.get("chosen")
    outputs = store.outputs(node.run_id, node.node_id, slots=slots)
    shown = [] if most == 0 else await asyncio.to_thread(lambda: list(outputs[:most]))
    if node.status in NODE_TERMINAL:
        return replace(node, output=shown if node.status is NodeStatus.SUCCEEDED else None)
    found = await store.count_items(node.run_id, node.node_id)
    counts = Counts(
        total=sum(found.values()),
        succeeded=found.get(NodeStatus.SUCCEEDED, 0),
        failed=found.get(NodeStatus.FAILED, 0),
        skipped=found.get(NodeStatus.SKIPPED, 0),
    )
    return replace(node, output=shown, counts=counts)
