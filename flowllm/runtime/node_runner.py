"""One node, from its start to its end on record: what every kind of it has in common."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from shlex import quote

from flowllm.core.cancel import CallStopped, being_cancelled
from flowllm.core.errors import InternalError, RunStopped, StepError, StoreError, describe_error
from flowllm.core.events import NodeSuspended
from flowllm.core.records import dataclass, replace
from flowllm.core.types import Json, NodeId, NodeStatus, OnError, StepKind
from flowllm.language.sandbox_limits import Unfinished, rendered, rendered_now
from flowllm.language.workflow import PythonBody, Step
from flowllm.runtime.invocation import Earlier, GraphScope, NodeInvocation, NodeUsage, UsageTotals
from flowllm.runtime.resume_policy import UNSAVED, has_output, holds
from flowllm.runtime.run_context import RunContext
from flowllm.steps.base import Bound, ItemPosition, Suspend
from flowllm.storage.base import NodeRecord
from flowllm.storage.monitoring import SUSPENDED, SuspensionRecord


@dataclass(slots=True)
class NodeWork:
    """What is known of a node while it is executed."""

    started: float
    usage: NodeUsage
    asked: UsageTotals
    """What the questions took that it consists of (see `Within`), those of earlier attempts too."""
    bound: Bound | None = None


async def record_outcome(
    context: RunContext,
    invocation: NodeInvocation,
    outcome: Callable[[NodeWork], Awaitable[NodeRecord]],
    above: NodeUsage | None = None,
) -> NodeRecord | None:
    """The record of `outcome`, with its event; that of its failure; None if the run stopped before it had one. `above` is
    what the node spends that this one is within, where that pays for it."""
    work = NodeWork(
        started=context.started(invocation),
        usage=context.activate(invocation, above),
        asked=UsageTotals(on_missed=invocation.totals.note_missed),
    )
    try:
        return await _tried(context, invocation, work, outcome)
    except (CallStopped, asyncio.CancelledError):
        return None
    except RunStopped as error:
        context.end_early(error)
    except StoreError as error:
        context.broke(error)
    finally:
        context.deactivate(invocation.node_id)
    return None


async def _tried(
    context: RunContext,
    invocation: NodeInvocation,
    work: NodeWork,
    outcome: Callable[[NodeWork], Awaitable[NodeRecord]],
) -> NodeRecord:
    try:
        return await outcome(work)
    except StepError as error:
        return await _fail(context, invocation, work, error)
    except (StoreError, RunStopped, CallStopped):
        raise
    except asyncio.CancelledError as error:
        if being_cancelled():
            raise
        return await _fail(context, invocation, work, _internal(error))
    except Exception as error:  # noqa: BLE001 - a bug of flowllm must not take the others down
        return await _fail(context, invocation, work, _internal(error))


async def execute_step(context: RunContext, invocation: NodeInvocation) -> NodeRecord | None:
    """A node that does something itself. Does not raise."""
    return await record_outcome(context, invocation, lambda work: _outcome(context, invocation, work))


async def _outcome(context: RunContext, invocation: NodeInvocation, work: NodeWork) -> NodeRecord:
    step = invocation.step
    bound = work.bound = invocation.bound or await rendered(lambda: bind_step(context, invocation))
    if bound is None:
        return skip(context, invocation)
    path = await known_path(context, invocation)
    earlier = invocation.earlier
    if earlier is not None and holds(earlier, key=bound.key, step=step, retry_failed=context.retry_failed):
        return await reuse(context, invocation, earlier, path)
    node_context = context.node_context(invocation, work.started, work.usage)
    if earlier is not None and earlier.status is NodeStatus.WAITING and earlier.key == bound.key:
        woken = context.suspended.take(invocation.node_id)
        if woken is None:
            return _still_suspended(context, earlier)
        node_context = replace(node_context, woken=woken)
    if isinstance(step.body, PythonBody) and step.body.asks is not None:
        node_context = replace(node_context, within=partial(_within, context, invocation, work))
    result = await context.kinds[step.kind].run(bound, node_context)
    if isinstance(result, Suspend):
        return await _suspend(context, node_context.record(bound, NodeStatus.WAITING), result)
    return await finish(context, invocation, result, path)


async def _suspend(context: RunContext, record: NodeRecord, suspend: Suspend) -> NodeRecord:
    """The row of a node that waits for the world, durably with what it waits for."""
    waits_for: dict[str, Json] = {"kind": suspend.kind, "token": suspend.token, "due_at": suspend.due_at}
    record = replace(record, parts={**record.parts, SUSPENDED: context.redactor.value(waits_for)})
    wait = SuspensionRecord(run_id=record.run_id, node_id=record.node_id, payload=suspend.payload, **waits_for)
    context.suspended.take(record.node_id)  # what came for an earlier wait of the node
    await context.store.suspend(context.lease, record, wait)
    return _still_suspended(context, record)


def _still_suspended(context: RunContext, record: NodeRecord) -> NodeRecord:
    waits_for = record.parts.get(SUSPENDED, {})
    event = NodeSuspended(run_id=record.run_id, at=context.clock.now(), node_id=record.node_id, **waits_for)
    context.emit(event)
    return record


def bind_step(context: RunContext, invocation: NodeInvocation) -> Bound | None:
    """The step with its templates rendered; None where its `when` is false. Raises StepError."""
    if invocation.step.when is not None and not invocation.step.when.condition(invocation.values):
        return None
    return context.kinds[invocation.step.kind].bind(invocation.step, invocation.values)


async def _within(
    context: RunContext,
    invocation: NodeInvocation,
    work: NodeWork,
    *,
    name: str,
    step: Step,
    values: Mapping[str, Json],
) -> NodeRecord | None:
    """A step that the work of a node consists of: see `Within`."""
    inner = NodeInvocation(
        node_id=NodeId(f"{invocation.node_id}.{name}"),
        step=step,
        values=values,
        position=ItemPosition(parent=invocation.node_id),
        scope=GraphScope(token=invocation.scope.token, fail_fast=False),
        totals=work.asked,  # what it takes is in the record of the node around it
    )

    async def outcome(own: NodeWork) -> NodeRecord:
        earlier = await context.store.node(context.run.run_id, inner.node_id) if context.resumed else None
        if earlier is None or earlier.status is not NodeStatus.SUCCEEDED:
            return await _outcome(context, inner, own)
        return await _outcome(context, replace(inner, before=Earlier(record=earlier)), own)

    return await record_outcome(context, inner, outcome, above=work.usage)


def compute(context: RunContext, invocation: NodeInvocation) -> NodeRecord | None:
    """A node whose value is known as soon as it is bound; its record is enqueued, or is that of an earlier attempt which
    still holds. None, and no event, where its templates take too long for that. Does not raise."""
    bound, error, earlier = None, None, invocation.earlier
    if earlier is not None and has_output(earlier):
        return None
    try:
        bound = rendered_now(lambda: bind_step(context, invocation))
    except Unfinished:
        return None
    except StepError as failure:
        error = failure
    except Exception as failure:  # noqa: BLE001 - a bug of flowllm must not take the others down
        error = _internal(failure)
    started, reason = context.started(invocation), ""
    if error is not None:
        details = error.as_dict()
        record = context.record(invocation, NodeStatus.FAILED, error=details, started_at=started, cost_usd=0.0)
    elif bound is None:
        record = context.record(invocation, NodeStatus.SKIPPED, parts={"when": False})
        reason = "its `when` is false"
    elif earlier is not None and holds(earlier, key=bound.key, step=bound.step, retry_failed=context.retry_failed):
        record = replace(earlier, reused=True)
    else:
        record = context.record(
            invocation,
            NodeStatus.SUCCEEDED,
            parts=bound.parts,
            key=bound.key,
            output=context.kinds[bound.step.kind].work(bound).output,
            cost_usd=0.0,
            started_at=started,
            waits=dict(invocation.waits or {}),
        )
    if not record.reused:
        context.writes.enqueue(record)
    context.ended(record, invocation, reason=reason)
    if record.status is NodeStatus.FAILED:
        note_failure(context, invocation)
    return record


def skip(context: RunContext, invocation: NodeInvocation) -> NodeRecord:
    """Its `when` is false."""
    record = context.record(invocation, NodeStatus.SKIPPED, parts={"when": False})
    context.writes.enqueue(record)
    context.ended(record, invocation, reason="its `when` is false")
    return record


async def known_path(context: RunContext, invocation: NodeInvocation) -> Path | None:
    """Where the output is to be saved, if that does not depend on it: what is no path is found before anything is paid.

    Raises SaveFailed and TemplateFailed.
    """
    save = invocation.step.save
    if save is None or "output" in save.names:
        return None
    return await rendered(lambda: context.saver.path_of(invocation.step, invocation.values, invocation.node_id))


async def reuse(context: RunContext, invocation: NodeInvocation, earlier: NodeRecord, path: Path | None) -> NodeRecord:
    """What an earlier attempt did still holds."""
    if has_output(earlier):
        earlier = replace(earlier, status=NodeStatus.SUCCEEDED, error=None)
        await context.writes.commit(earlier)
    record = await saved(context, invocation, replace(earlier, reused=True), path)
    invocation.totals.add(record)
    context.ended(record, invocation)
    return record


async def finish(context: RunContext, invocation: NodeInvocation, record: NodeRecord, path: Path | None) -> NodeRecord:
    """The node has its result, durably: save it where the step says so, and tell."""
    record = await saved(context, invocation, record, path)
    if invocation.step.kind is not StepKind.WORKFLOW:  # the nodes within it have been added
        invocation.totals.add(record)
    context.ended(record, invocation)
    if record.status is NodeStatus.FAILED:
        note_failure(context, invocation)
    return record


async def saved(
    context: RunContext, invocation: NodeInvocation, record: NodeRecord, path: Path | None = None
) -> NodeRecord:
    """The record; as failed, with its output, if the output cannot be saved."""
    if invocation.step.save is None or record.status is not NodeStatus.SUCCEEDED:
        return record
    try:
        if path is None:
            values = {**invocation.values, "output": record.output}
            path = await rendered(lambda: context.saver.path_of(invocation.step, values, invocation.node_id))
        await context.saver.write(path, record.output)
    except StepError as error:
        if invocation.step.on_error is OnError.CONTINUE:  # a run that has succeeded is gone on with for nothing else
            again = f"`flowllm resume {context.run.run_id} --retry-failed`"
            error.hint = error.hint.replace("`flowllm resume`", again)
        details = {**context.redactor.value(error.as_dict()), UNSAVED: True}
        record = replace(record, status=NodeStatus.FAILED, error=details)
        await context.writes.commit(record)
    return record


async def _fail(context: RunContext, invocation: NodeInvocation, work: NodeWork, error: StepError) -> NodeRecord:
    details = context.redactor.value(error.as_dict())
    show = f"`flowllm show {context.run.run_id} {quote(invocation.node_id)}`"  # who raised it need not know the node
    details["hint"] = str(details["hint"]).replace("`flowllm show`", show)
    if work.bound is not None:
        node_context = context.node_context(invocation, work.started, work.usage)
        record = node_context.record(work.bound, NodeStatus.FAILED, error=details, cost_usd=0.0)
    else:
        record = context.record(invocation, NodeStatus.FAILED, error=details, started_at=work.started, cost_usd=0.0)
    if error.usage is not None:
        record = replace(record, usage=error.usage, cost_usd=None)
    record = work.usage.onto(record)
    if work.asked.answered or work.asked.attempts:
        record = replace(record, usage=work.asked.usage, cost_usd=work.asked.cost_usd)
    await context.writes.commit(record)
    invocation.totals.add(record)  # a node with a graph within has usage nothing itself
    context.ended(record, invocation)
    note_failure(context, invocation)
    return record


def note_failure(context: RunContext, invocation: NodeInvocation) -> None:
    """A node failed for good."""
    if invocation.step.on_error is not OnError.CONTINUE:
        context.failed(invocation.scope)


def _internal(error: BaseException) -> InternalError:
    return InternalError(
        describe_error(error),
        hint="this is a fault of flowllm, please report it; FLOWLLM_DEBUG=1 shows where it happened",
    )
