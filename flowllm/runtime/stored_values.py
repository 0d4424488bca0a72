"""The values that a step's templates see, as far as they are on record: for a worker, which has executed none of the steps
around."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from flowllm.core.records import replace
from flowllm.core.types import Json, NodeId, StepId
from flowllm.runtime.foreach_results import ForeachResults
from flowllm.runtime.graph_runner import Values, run_values
from flowllm.runtime.graph_state import CompiledGraph
from flowllm.runtime.invocation import GraphScope, NodeInvocation, Result
from flowllm.runtime.run_context import RunContext
from flowllm.steps.base import ItemPosition
from flowllm.storage.base import NodeRecord

_PAGE: Final = 1000


async def stored_values(context: RunContext, graph: CompiledGraph, node: NodeId) -> Mapping[str, Json]:
    """What the step of a graph at the top sees. Raises StoreError."""
    values = Values(context.run.inputs, run_values(context.run))
    for need in graph.topology.edges[node]:
        record = await context.store.node(context.run.run_id, need)
        step = StepId(need)
        if record is not None and record.counts is None:
            values.add(step, record, seen=step in graph.recorded)
        elif record is not None:
            result = await _result(context, graph, record)
            values.add(step, replace(record, output=result.output), rows=result.rows, lazy=result.lazy)
    return values.mapping


async def _result(context: RunContext, graph: CompiledGraph, record: NodeRecord) -> Result:
    """What templates see of a foreach that has ended."""
    run_id, node = context.run.run_id, record.node_id
    scope = GraphScope(token=context.token, graph=graph)
    step = graph.steps[StepId(node)]
    results = ForeachResults(
        NodeInvocation(node_id=node, step=step, values={}, position=ItemPosition(), scope=scope, totals=scope.totals)
    )
    after = -1
    while page := await context.store.items(run_id, node, after=after, limit=_PAGE):
        for item in page:
            results.add(item)
        after = page[-1].place or 0
    numbers = record.parts.get("chosen")

    def chosen() -> list[Json]:
        return list(context.store.outputs(run_id, node, numbers=numbers))

    return await asyncio.to_thread(results.chosen, context, numbers, chosen)
