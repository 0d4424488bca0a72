"""A `workflow` step, or one item of it, or one row of `--over`: a graph within a node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from flowllm.core.cancel import CallStopped
from flowllm.core.errors import GraphFailed, InvalidInputs, StepError
from flowllm.core.fingerprint import fingerprint
from flowllm.core.types import Json, NodeId, NodeStatus, OnError, RunStatus
from flowllm.language.inputs import row_inputs, with_inputs
from flowllm.language.rendering import rendered
from flowllm.language.workflow import WorkflowBody
from flowllm.runtime.compiled_graph import CompiledGraph
from flowllm.runtime.graph_runner import GraphOutcome, GraphRunner
from flowllm.runtime.invocation import Carry, NodeInvocation, Scope, UsageTotals
from flowllm.runtime.node_runner import Work, carried, finish, known_path, reuse, skip
from flowllm.runtime.outputs import keeps
from flowllm.runtime.resume_policy import holds
from flowllm.runtime.run_context import RunContext
from flowllm.runtime.values import Values, run_values
from flowllm.storage.base import NodeRecord


async def carry_graph(
    desk: RunContext, seat: NodeInvocation, blueprint: CompiledGraph, carry: Carry
) -> NodeRecord | None:
    """Run the graph of a node. Does not raise."""
    return await carried(desk, seat, lambda work: _outcome(desk, seat, blueprint, carry, work))


async def _outcome(
    desk: RunContext, seat: NodeInvocation, blueprint: CompiledGraph, carry: Carry, work: Work
) -> NodeRecord:
    step, earlier = seat.step, seat.earlier
    inputs = await rendered(lambda: _inputs(seat))
    if inputs is None:
        return skip(desk, seat)
    parts: dict[str, Json] = {"kind": "workflow", "graph": blueprint.graph.digest, "with": inputs}
    key = fingerprint(parts)
    path = await known_path(desk, seat)
    until = desk.options.until if seat.is_row else None
    if until is not None and not holds(earlier, key=key, step=step, retry_failed=False):
        parts["until"] = until  # a row that is wholly done is so for any `until`
        key = fingerprint(parts)
    left_out = earlier is not None and earlier.status is NodeStatus.SKIPPED and earlier.key == key
    stands = left_out or holds(earlier, key=key, step=step, retry_failed=False)
    if stands and not desk.retry_failed and seat.node_id not in desk.reopened:
        return await reuse(desk, seat, cast("NodeRecord", earlier), path)
    if blueprint.costly and (earlier is None or earlier.key != key or earlier.status is not NodeStatus.RUNNING):
        desk.ride(desk.record(seat, NodeStatus.RUNNING, parts=parts, key=key, started_at=work.started))
    scope = Scope(
        token=seat.scope.token,
        tally=UsageTotals(seat.tally),
        fail_fast=seat.scope.fail_fast and step.on_error is OnError.FAIL,
        missed=seat.missed,
    )
    values = Values(inputs, run_values(desk.run))
    walk = GraphRunner(
        desk, blueprint, name=seat.node_id, values=values, scope=scope, carry=carry, before=await _before(desk, seat)
    )
    outcome = await walk.run()
    if not outcome.complete:
        raise CallStopped
    well = outcome.status is RunStatus.SUCCEEDED
    keep = blueprint.graph.keep if seat.is_row and until is None else None
    if (
        well
        and keep is not None
        and not await rendered(lambda: keeps(keep, walk.state, values.mapping, outcome.outputs))
    ):
        return await _left_out(desk, seat, key, {**parts, "reason": "`keep` was false"}, scope.tally)
    record = desk.record(
        seat,
        NodeStatus.SUCCEEDED if well else NodeStatus.FAILED,
        parts=parts,
        key=key,
        started_at=work.started,
        output=outcome.outputs if well else None,
        error=None if well else _error(seat, outcome).as_dict(),
        **scope.tally.figures(),
    )
    if blueprint.costly:
        await desk.keep(record)
    else:
        desk.ride(record)
    return await finish(desk, seat, record, path)


async def _left_out(
    desk: RunContext, seat: NodeInvocation, key: str, parts: Mapping[str, Json], tally: UsageTotals
) -> NodeRecord:
    """A row that is not to have a line."""
    record = desk.record(seat, NodeStatus.SKIPPED, parts=parts, key=key, **tally.figures())
    await desk.keep(record)
    desk.tell(record, seat, reason=str(parts["reason"]))
    return record


def _inputs(seat: NodeInvocation) -> Mapping[str, Json] | None:
    """What the graph is given; None where the `when` of its step is false. Raises StepError."""
    if seat.step.when is not None and not seat.step.when.condition(seat.values):
        return None
    body = cast("WorkflowBody", seat.step.body)
    try:
        if seat.is_row:
            return row_inputs(body.graph.inputs, seat.standing.item)
        given = {} if body.arguments is None else body.arguments.render(seat.values)
        whole = body.arguments is not None and not isinstance(body.arguments.tree, dict)
        return with_inputs(body.graph.inputs, given, whole=whole)
    except InvalidInputs as error:
        raise GraphFailed(error.message, hint=error.hint) from None


async def _before(desk: RunContext, seat: NodeInvocation) -> Mapping[NodeId, NodeRecord]:
    """What earlier sittings left of the nodes within, by their ids in the graph."""
    within: Sequence[NodeRecord] = ()
    if seat.within is not None:
        within = seat.within
    elif seat.earlier is not None:
        within = await desk.store.nodes(desk.run.run_id, seat.node_id)
    start = len(seat.node_id) + 1
    return {NodeId(record.node_id[start:]): record for record in within}


def _error(seat: NodeInvocation, outcome: GraphOutcome) -> StepError:
    if outcome.failed is not None:
        error = outcome.failed.error or {}
        inner = outcome.failed.node_id[len(seat.node_id) + 1 :]
        return GraphFailed(
            f"{inner} failed: {error.get('message', 'no reason is on record')}", hint=str(error.get("hint") or "")
        )
    error = outcome.error or {}
    return GraphFailed(
        f"its output {error.get('output')} could not be rendered: {error.get('message')}",
        hint=str(error.get("hint") or ""),
    )
