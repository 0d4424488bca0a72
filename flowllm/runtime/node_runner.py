"""One node, from its start to its end on record: what every kind of it has in common."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from flowllm.core.cancel import CallStopped, being_cancelled
from flowllm.core.errors import InternalError, RunStopped, StepError, StoreError, describe_error
from flowllm.core.types import Json, NodeId, NodeStatus, OnError, StepKind
from flowllm.language.rendering import rendered, rendered_now
from flowllm.language.sandbox_limits import Unfinished
from flowllm.language.workflow import PythonBody, Step
from flowllm.runtime.invocation import NodeInvocation, Scope, UsageTotals
from flowllm.runtime.node_usage import NodeUsage
from flowllm.runtime.resume_policy import UNSAVED, has_output, holds
from flowllm.runtime.run_context import RunContext
from flowllm.steps.base import Bound, ItemPosition
from flowllm.storage.base import NodeRecord


@dataclass(slots=True)
class Work:
    """What is known of a node while it is carried out."""

    started: float
    spent: NodeUsage
    asked: UsageTotals = field(default_factory=UsageTotals)
    """What the questions took that it consists of (see `Within`), those of earlier sittings too."""
    bound: Bound | None = None


async def carried(
    desk: RunContext,
    seat: NodeInvocation,
    outcome: Callable[[Work], Awaitable[NodeRecord]],
    above: NodeUsage | None = None,
) -> NodeRecord | None:
    """The record that `outcome` comes to, told; that of its failure; None if the run stopped before it had one. `above` is
    what the node spends that this one is within, where that pays for it."""
    work = Work(started=desk.begin(seat), spent=desk.spending(seat, above))
    try:
        return await _tried(desk, seat, work, outcome)
    except (CallStopped, asyncio.CancelledError):
        return None
    except RunStopped as error:
        desk.end_early(error)
    except StoreError as error:
        desk.broke(error)
    finally:
        desk.rested(seat.node_id)
    return None


async def _tried(
    desk: RunContext, seat: NodeInvocation, work: Work, outcome: Callable[[Work], Awaitable[NodeRecord]]
) -> NodeRecord:
    try:
        return await outcome(work)
    except StepError as error:
        return await _fail(desk, seat, work, error)
    except (StoreError, RunStopped, CallStopped):
        raise
    except asyncio.CancelledError as error:
        if being_cancelled():
            raise
        return await _fail(desk, seat, work, _internal(error))
    except Exception as error:  # noqa: BLE001 - a fault of ours must not take the others down
        return await _fail(desk, seat, work, _internal(error))


async def carry_out(desk: RunContext, seat: NodeInvocation) -> NodeRecord | None:
    """A node that does something itself. Does not raise."""
    return await carried(desk, seat, lambda work: _outcome(desk, seat, work))


async def _outcome(desk: RunContext, seat: NodeInvocation, work: Work) -> NodeRecord:
    step = seat.step
    bound = work.bound = await rendered(lambda: _bound(desk, seat))
    if bound is None:
        return skip(desk, seat)
    path = await known_path(desk, seat)
    earlier = seat.earlier
    if earlier is not None and holds(earlier, key=bound.key, step=step, retry_failed=desk.retry_failed):
        return await reuse(desk, seat, earlier, path)
    context = desk.context(seat, work.started, work.spent)
    if isinstance(step.body, PythonBody) and step.body.asks is not None:
        context = replace(context, within=partial(_within, desk, seat, work))
    record = await desk.backend.run(bound, context)
    return await finish(desk, seat, record, path)


def _bound(desk: RunContext, seat: NodeInvocation) -> Bound | None:
    """The step with its templates rendered; None where its `when` is false. Raises StepError."""
    if seat.step.when is not None and not seat.step.when.condition(seat.values):
        return None
    return desk.backend.bind(seat.step, seat.values)


async def _within(
    desk: RunContext, seat: NodeInvocation, work: Work, *, name: str, step: Step, values: Mapping[str, Json]
) -> NodeRecord | None:
    """A step that the work of a node consists of: see `Within`."""
    inner = NodeInvocation(
        node_id=NodeId(f"{seat.node_id}.{name}"),
        step=step,
        values=values,
        standing=ItemPosition(parent=seat.node_id),
        scope=Scope(token=seat.scope.token, fail_fast=False, missed=seat.scope.missed),
        tally=work.asked,  # what it takes is in the record of the node around it
        missed=seat.missed,
        many=False,
    )

    async def outcome(own: Work) -> NodeRecord:
        earlier = await desk.store.node(desk.run.run_id, inner.node_id) if desk.resumed else None
        answered = earlier is not None and earlier.status is NodeStatus.SUCCEEDED
        return await _outcome(desk, replace(inner, earlier=earlier if answered else None), own)

    return await carried(desk, inner, outcome, above=work.spent)


def compute(desk: RunContext, seat: NodeInvocation) -> NodeRecord | None:
    """A node whose value is known as soon as it is bound. Its record is still to be written. None, and nothing told,
    where its templates take too long for that. Does not raise StepError."""
    try:
        bound, error = rendered_now(lambda: _bound(desk, seat)), None
    except Unfinished:
        return None
    except StepError as failure:
        bound, error = None, failure
    started, reason = desk.begin(seat), ""
    if error is not None:
        record = desk.record(seat, NodeStatus.FAILED, error=error.as_dict(), started_at=started)
    elif bound is None:
        record = desk.record(seat, NodeStatus.SKIPPED, parts={"when": False})
        reason = "its `when` is false"
    else:
        record = desk.record(
            seat,
            NodeStatus.SUCCEEDED,
            parts=bound.parts,
            key=bound.key,
            output=desk.backend.work(bound).output,
            cost_usd=0.0,
            started_at=started,
        )
    desk.tell(record, seat, reason=reason)
    if record.status is NodeStatus.FAILED:
        _note_failure(desk, seat)
    return record


def skip(desk: RunContext, seat: NodeInvocation) -> NodeRecord:
    """Its `when` is false."""
    record = desk.record(seat, NodeStatus.SKIPPED, parts={"when": False})
    desk.ride(record)
    desk.tell(record, seat, reason="its `when` is false")
    return record


async def known_path(desk: RunContext, seat: NodeInvocation) -> Path | None:
    """Where the output is to be saved, if that does not depend on it: a wrong path is found before anything is paid.

    Raises SaveFailed and TemplateFailed.
    """
    save = seat.step.save
    if save is None or "output" in save.names:
        return None
    return await rendered(lambda: desk.saver.path_of(seat.step, seat.values, seat.node_id))


async def reuse(desk: RunContext, seat: NodeInvocation, earlier: NodeRecord, path: Path | None) -> NodeRecord:
    """What an earlier sitting did still holds."""
    if has_output(earlier):
        earlier = replace(earlier, status=NodeStatus.SUCCEEDED, error=None)
        await desk.keep(earlier)
    record = await _saved(desk, seat, replace(earlier, reused=True), path)
    seat.tally.add(record)
    desk.tell(record, seat)
    return record


async def finish(desk: RunContext, seat: NodeInvocation, record: NodeRecord, path: Path | None) -> NodeRecord:
    """The node has its result, durably: save it where the step says so, and tell."""
    record = await _saved(desk, seat, record, path)
    if seat.step.kind is not StepKind.WORKFLOW:  # the nodes within it have been added
        seat.tally.add(record)
    desk.tell(record, seat)
    if record.status is NodeStatus.FAILED:
        _note_failure(desk, seat)
    return record


async def _saved(desk: RunContext, seat: NodeInvocation, record: NodeRecord, path: Path | None) -> NodeRecord:
    """The record; as failed, with its output, if the output cannot be saved."""
    if seat.step.save is None or record.status is not NodeStatus.SUCCEEDED:
        return record
    try:
        if path is None:
            values = {**seat.values, "output": record.output}
            path = await rendered(lambda: desk.saver.path_of(seat.step, values, seat.node_id))
        await desk.saver.write(path, record.output)
    except StepError as error:
        if seat.step.on_error is OnError.CONTINUE:  # a run that has succeeded is gone on with for nothing else
            again = f"`flowllm resume {desk.run.run_id} --retry-failed`"
            error.hint = error.hint.replace("`flowllm resume`", again)
        details = {**desk.redactor.value(error.as_dict()), UNSAVED: True}
        record = replace(record, status=NodeStatus.FAILED, error=details)
        await desk.keep(record)
    return record


async def _fail(desk: RunContext, seat: NodeInvocation, work: Work, error: StepError) -> NodeRecord:
    details = desk.redactor.value(error.as_dict())
    if work.bound is not None:
        context = desk.context(seat, work.started, work.spent)
        record = context.record(work.bound, NodeStatus.FAILED, error=details, cost_usd=0.0)
    else:
        record = desk.record(seat, NodeStatus.FAILED, error=details, started_at=work.started, cost_usd=0.0)
    if error.usage is not None:
        record = replace(record, usage=error.usage, cost_usd=None)
    record = work.spent.onto(record)
    if work.asked.answered or work.asked.attempts:
        record = replace(record, usage=work.asked.usage, cost_usd=work.asked.cost_usd)
    await desk.keep(record)
    seat.tally.add(record)  # a node with a graph within has spent nothing itself
    desk.tell(record, seat)
    _note_failure(desk, seat)
    return record


def _note_failure(desk: RunContext, seat: NodeInvocation) -> None:
    if seat.step.on_error is not OnError.CONTINUE:
        desk.failed(seat.scope)


def _internal(error: BaseException) -> InternalError:
    return InternalError(
        describe_error(error),
        hint="this is a fault of flowllm, please report it; FLOWLLM_DEBUG=1 shows where it happened",
    )
