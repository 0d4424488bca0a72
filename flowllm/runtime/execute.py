"""Executes a run's nodes, until everything that can end has ended.

A node's outcome is durable before the state machine of its graph hears of it, and so before anything that builds on
it starts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace

from flowllm.core.cancel import CancelToken
from flowllm.core.errors import StoreError
from flowllm.core.events import StopRequested
from flowllm.core.tasks import start_task
from flowllm.core.types import ROW, Json, NodeId, NodeStatus, RunStatus
from flowllm.datasets.base import Rows
from flowllm.language.workflow import Step, WorkflowBody
from flowllm.runtime.compiled_graph import CompiledGraph
from flowllm.runtime.foreach_runner import Sink, execute_foreach
from flowllm.runtime.graph_runner import GraphRunner
from flowllm.runtime.invocation import NodeInvocation, Scope
from flowllm.runtime.node_runner import execute_step
from flowllm.runtime.run_context import RunContext
from flowllm.runtime.subgraph_runner import execute_subgraph
from flowllm.runtime.values import Values, run_values
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


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetRun:
    """`--over`: every row is one run of the graph."""

    step: Step
    """The step that stands for the whole graph; its items are the rows."""
    rows: Rows
    sink: Sink


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

    context.token.listen(execute_run, lambda: grace.append(start_task(cancel_later())))
    stop.listen(context, stop_requested, context.tasks.cancel)
    scope = Scope(token=context.token, fail_fast=context.options.fail_fast)
    try:
        await _load_woken(context)
        if dataset is None:
            outcome = await _execute_graph(context, graph, scope, before)
        else:
            outcome = await _execute_dataset(context, graph, scope, before.get(NodeId(ROW)), dataset)
    finally:
        stop.forget(context)
        for task in grace:
            task.cancel()
    await context.idle()
    return _checked(context, outcome)


async def _load_woken(context: RunContext) -> None:
    if context.resumed:
        try:
            await context.suspended.load()
        except StoreError as error:
            context.broke(error)


async def _execute_graph(
    context: RunContext, graph: CompiledGraph, scope: Scope, before: Mapping[NodeId, NodeRecord]
) -> AttemptOutcome:
    values = Values(context.run.inputs, run_values(context.run))
    runner = GraphRunner(context, graph, name="", values=values, scope=scope, before=before)
    outcome = await runner.run(inline=False)
    return AttemptOutcome(status=outcome.status, outputs=outcome.outputs, error=outcome.error)


async def _execute_dataset(
    context: RunContext, graph: CompiledGraph, scope: Scope, earlier: NodeRecord | None, dataset: DatasetRun
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
        earlier=earlier,
        is_row=True,
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
    mask = context.redactor.value
    return replace(outcome, status=status, outputs=mask(outcome.outputs), error=mask(error), failure=context.failure)
