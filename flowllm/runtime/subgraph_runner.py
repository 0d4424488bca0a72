"""A `workflow` step, or one item of it, or one row of `--over`: a graph within a node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from flowllm.core.cancel import CallStopped
from flowllm.core.errors import GraphFailed, InvalidInputs, StepError
from flowllm.core.fingerprint import fingerprint
from flowllm.core.types import Json, NodeId, NodeStatus, OnError, RunStatus
from flowllm.language.inputs import row_inputs, with_inputs
from flowllm.language.sandbox_limits import rendered
from flowllm.language.workflow import Step, WorkflowBody
from flowllm.runtime.compiled_graph import CompiledGraph
from flowllm.runtime.graph_runner import GraphOutcome, GraphRunner
from flowllm.runtime.invocation import NodeInvocation, Scope
from flowllm.runtime.node_runner import Work, finish, known_path, record_of, reuse, skip
from flowllm.runtime.resume_policy import holds
from flowllm.runtime.run_context import RunContext
from flowllm.runtime.usage import UsageTotals
from flowllm.runtime.values import Values, keeps, run_values
from flowllm.storage.base import NodeRecord


async def execute_subgraph(context: RunContext, invocation: NodeInvocation, graph: CompiledGraph) -> NodeRecord | None:
    """Run the graph of a node. Does not raise."""
    return await record_of(context, invocation, lambda work: _outcome(context, invocation, graph, work))


async def _outcome(context: RunContext, invocation: NodeInvocation, graph: CompiledGraph, work: Work) -> NodeRecord:
    step, earlier = invocation.step, invocation.earlier
    row = (invocation.position.item,) if invocation.is_row else ()
    inputs = await rendered(lambda: graph_inputs(step, invocation.values, *row))
    if inputs is None:
        return skip(context, invocation)
    parts: dict[str, Json] = {"kind": "workflow", "graph": graph.source.digest, "with": inputs}
    key = fingerprint(parts)
    path = await known_path(context, invocation)
    until = context.options.until if invocation.is_row else None
    if until is not None and not holds(earlier, key=key, step=step, retry_failed=False):
        parts["until"] = until  # a row that is wholly done is so for any `until`
        key = fingerprint(parts)
    left_out = earlier is not None and earlier.status is NodeStatus.SKIPPED and earlier.key == key
    stands = left_out or holds(earlier, key=key, step=step, retry_failed=False)
    if stands and not context.retry_failed and invocation.node_id not in context.reopened:
        return await reuse(context, invocation, cast("NodeRecord", earlier), path)
    if graph.costly and (earlier is None or earlier.key != key or earlier.status is not NodeStatus.RUNNING):
        context.writes.enqueue(
            context.record(invocation, NodeStatus.RUNNING, parts=parts, key=key, started_at=work.started)
        )
    scope = Scope(
        token=invocation.scope.token,
        totals=UsageTotals(invocation.totals),
        fail_fast=invocation.scope.fail_fast and step.on_error is OnError.FAIL,
        missed=invocation.missed,
    )
    values = Values(inputs, run_values(context.run))
    runner = GraphRunner(
        context, graph, name=invocation.node_id, values=values, scope=scope, before=await _before(context, invocation)
    )
    outcome = await runner.run()
    if outcome.paused:
        record = context.record(invocation, NodeStatus.WAITING, parts=parts, key=key, started_at=work.started)
        await context.writes.commit(record)
        scope.totals.take_back()
        return record
    if not outcome.complete:
        raise CallStopped
    well = outcome.status is RunStatus.SUCCEEDED
    keep = graph.source.keep if invocation.is_row and until is None else None
    if (
        well
        and keep is not None
        and not await rendered(lambda: keeps(keep, runner.state, values.mapping, outcome.outputs))
    ):
        return await _left_out(context, invocation, key, {**parts, "reason": "`keep` was false"}, scope.totals)
    record = context.record(
        invocation,
        NodeStatus.SUCCEEDED if well else NodeStatus.FAILED,
        parts=parts,
        key=key,
        started_at=work.started,
        output=outcome.outputs if well else None,
        error=None if well else _error(invocation, outcome).as_dict(),
        **scope.totals.figures(),
    )
    if graph.costly:
        await context.writes.commit(record)
    else:
        context.writes.enqueue(record)
    return await finish(context, invocation, record, path)


async def _left_out(
    context: RunContext, invocation: NodeInvocation, key: str, parts: Mapping[str, Json], totals: UsageTotals
) -> NodeRecord:
    """A row that is not to have a line."""
    record = context.record(invocation, NodeStatus.SKIPPED, parts=parts, key=key, **totals.figures())
    await context.writes.commit(record)
    context.ended(record, invocation, reason=str(parts["reason"]))
    return record


def graph_inputs(step: Step, values: Mapping[str, Json], *row: Json) -> Mapping[str, Json] | None:
    """What the graph of a `workflow` step is given, by `row` where there is one; None where the `when` of the step is
    false. Raises StepError."""
    if step.when is not None and not step.when.condition(values):
        return None
    body = cast("WorkflowBody", step.body)
    try:
        if row:
            return row_inputs(body.graph.inputs, row[0])
        given = {} if body.arguments is None else body.arguments.render(values)
        whole = body.arguments is not None and not isinstance(body.arguments.tree, dict)
        return with_inputs(body.graph.inputs, given, whole=whole)
    except InvalidInputs as error:
        raise GraphFailed(error.message, hint=error.hint) from None


async def _before(context: RunContext, invocation: NodeInvocation) -> Mapping[NodeId, NodeRecord]:
    """What earlier attempts left of the nodes within, by their ids in the graph."""
    within: Sequence[NodeRecord] = ()
    if invocation.within is not None:
        within = invocation.within
    elif invocation.earlier is not None:
        within = await context.store.nodes(context.run.run_id, invocation.node_id)
    start = len(invocation.node_id) + 1
    return {NodeId(record.node_id[start:]): record for record in within}


def _error(invocation: NodeInvocation, outcome: GraphOutcome) -> StepError:
    if outcome.failed is not None:
        error = outcome.failed.error or {}
        inner = outcome.failed.node_id[len(invocation.node_id) + 1 :]
        return GraphFailed(
            f"{inner} failed: {error.get('message', 'no reason is on record')}", hint=str(error.get("hint") or "")
        )
    error = outcome.error or {}
    return GraphFailed(
        f"its output {error.get('output')} could not be rendered: {error.get('message')}",
        hint=str(error.get("hint") or ""),
    )
