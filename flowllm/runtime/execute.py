"""Executes a run's nodes, until everything that can end has ended.

A node's outcome is durable before the state machine of its graph hears of it, and so before anything that builds on
it starts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import cast

from flowllm.core.cancel import CallStopped, CancelToken
from flowllm.core.errors import GraphFailed, InvalidInputs, StepError, StoreError
from flowllm.core.events import StopRequested
from flowllm.core.fingerprint import fingerprint
from flowllm.core.records import dataclass, replace
from flowllm.core.tasks import start_task
from flowllm.core.types import ROW, Json, NodeId, NodeStatus, OnError, RunStatus
from flowllm.datasets.base import Rows
from flowllm.language.inputs import row_inputs, with_inputs
from flowllm.language.sandbox_limits import rendered
from flowllm.language.workflow import Step, WorkflowBody
from flowllm.runtime.foreach_runner import execute_foreach
from flowllm.runtime.graph_runner import GraphOutcome, GraphRunner, Values, keeps, run_values
from flowllm.runtime.graph_state import CompiledGraph
from flowllm.runtime.invocation import Earlier, GraphScope, NodeInvocation, UsageTotals
from flowllm.runtime.node_runner import NodeWork, execute_step, finish, known_path, record_outcome, reuse, skip
from flowllm.runtime.resume_policy import holds
from flowllm.runtime.row_sink import RowSink
from flowllm.runtime.run_context import RunContext
from flowllm.steps.base import ItemPosition
from flowllm.storage.base import NodeRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptOutcome:
    """How an attempt at a run ended."""

    status: RunStatus
    outputs: Mapping[str, Json]
    error: Mapping[str, Json] | None = None
    failure: BaseException | None = None
    """What broke the run itself, such as a full disk."""
    nodes: Sequence[NodeRecord] | None = None
    """All nodes at the top, as they are on record; None where only the store knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetRun:
    """`--over`: every row is one run of the graph."""

    step: Step
    """The step that stands for the whole graph; its items are the rows."""
    rows: Rows
    sink: RowSink


async def execute_node(context: RunContext, invocation: NodeInvocation) -> NodeRecord | None:
    """Execute a node of any kind; see `Execute`."""
    body = invocation.step.body
    if invocation.step.foreach is not None:
        return await execute_foreach(context, invocation)
    if isinstance(body, WorkflowBody):
        return await execute_subgraph(context, invocation, context.compiled(body))
    return await execute_step(context, invocation)


async def execute_run(
    context: RunContext,
    graph: CompiledGraph,
    stop: CancelToken,
    *,
    before: Mapping[NodeId, NodeRecord],
    dataset: DatasetRun | None = None,
) -> AttemptOutcome:
    """Execute a run's graph, or a graph for each row of `dataset`. Does not raise for a run that fails.

    `before` is what earlier attempts left of the nodes at the top; `stop` is the token of who runs it.
    """
    scope = GraphScope(token=context.token, fail_fast=context.options.fail_fast)
    with heeding(context, stop):
        await _load_woken(context)
        if dataset is None:
            outcome = await _execute_graph(context, graph, scope, before)
        else:
            outcome = await _execute_dataset(context, graph, scope, before.get(NodeId(ROW)), dataset)
    await context.idle()
    return _checked(context, outcome)


@contextmanager
def heeding(context: RunContext, stop: CancelToken) -> Iterator[None]:
    """Within it the attempt at the run stops with that token, and cancels what is in flight after its grace."""
    grace: list[asyncio.Task[None]] = []

    async def cancel_later() -> None:
        await context.clock.sleep(context.options.grace)
        context.tasks.cancel()

    def stop_requested() -> None:
        context.token.stop(RunStatus.INTERRUPTED)
        context.emit(
            StopRequested(
                run_id=context.run.run_id,
                at=context.clock.now(),
                reason=stop.reason or "",
                in_flight=context.in_flight(),
            )
        )

    context.token.listen(heeding, lambda: grace.append(start_task(cancel_later())))
    stop.listen(context, stop_requested, context.tasks.cancel)
    try:
        yield
    finally:
        stop.forget(context)
        for task in grace:
            task.cancel()


async def _load_woken(context: RunContext) -> None:
    if context.resumed:
        try:
            await context.suspended.load()
        except StoreError as error:
            context.broke(error)


async def _execute_graph(
    context: RunContext, graph: CompiledGraph, scope: GraphScope, before: Mapping[NodeId, NodeRecord]
) -> AttemptOutcome:
    values = Values(context.run.inputs, run_values(context.run))
    runner = GraphRunner(context, graph, name="", values=values, scope=scope, before=before)
    outcome = await runner.run(inline=False)
    return AttemptOutcome(
        status=outcome.status,
        outputs=outcome.outputs,
        error=outcome.error,
        nodes=None if context.resumed else outcome.nodes,  # the attempts before may have had other steps
    )


async def _execute_dataset(
    context: RunContext, graph: CompiledGraph, scope: GraphScope, earlier: NodeRecord | None, dataset: DatasetRun
) -> AttemptOutcome:
    """Rows are the items of a foreach that has the whole graph as its step."""
    assert isinstance(dataset.step.body, WorkflowBody)  # noqa: S101 - see DatasetRun
    context.compiled(dataset.step.body, graph)
    invocation = NodeInvocation(
        node_id=NodeId(ROW),
        step=dataset.step,
        values={"run": run_values(context.run), "inputs": {}, "steps": {}},
        position=ItemPosition(),
        scope=scope,
        totals=scope.totals,
        before=None if earlier is None else Earlier(record=earlier),
    )
    scope.total = 1
    record: NodeRecord | None = None

    async def execute() -> None:
        nonlocal record
        record = await execute_foreach(context, invocation, dataset.rows, dataset.sink)

    context.tasks.spawn(execute(), lambda: None)
    await context.tasks.wait()
    if record is None:
        return AttemptOutcome(status=context.token.status or RunStatus.INTERRUPTED, outputs={})
    status = {NodeStatus.SUCCEEDED: RunStatus.SUCCEEDED, NodeStatus.WAITING: RunStatus.PAUSED}.get(record.status)
    return AttemptOutcome(status=status or RunStatus.FAILED, outputs={}, error=record.error)


def _checked(context: RunContext, outcome: AttemptOutcome) -> AttemptOutcome:
    status, error = outcome.status, outcome.error
    if status is RunStatus.SUCCEEDED and context.failure is not None:
        status = RunStatus.INTERRUPTED  # a row that nobody waited for was not kept
    broken = context.failure if isinstance(context.failure, StoreError) else context.stopped
    if broken is not None:
        error = {"type": type(broken).__name__, "message": broken.message, "hint": broken.hint}
    mask, nodes = context.redactor.value, outcome.nodes if context.failure is None else None
    return replace(
        outcome, status=status, outputs=mask(outcome.outputs), error=mask(error), failure=context.failure, nodes=nodes
    )


async def execute_subgraph(context: RunContext, invocation: NodeInvocation, graph: CompiledGraph) -> NodeRecord | None:
    """Run the graph of a node. Does not raise."""
    return await record_outcome(context, invocation, lambda work: _outcome(context, invocation, graph, work))


async def _outcome(context: RunContext, invocation: NodeInvocation, graph: CompiledGraph, work: NodeWork) -> NodeRecord:
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
    scope = GraphScope(
        token=invocation.scope.token,
        totals=UsageTotals(invocation.totals),
        fail_fast=invocation.scope.fail_fast and step.on_error is OnError.FAIL,
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
    if invocation.before is None:
        return {}
    within = invocation.before.within
    if within is None:
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
