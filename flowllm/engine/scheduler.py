"""The one loop that carries out what the state machine commands.

A node's task binds the step to the values there are, takes over what an earlier sitting of the run already has, or
hands it to the backend. Its outcome is durable before the state machine hears of it, and so before anything that
builds on it starts.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from flowllm.calls.base import Asker
from flowllm.calls.gate import CallStopped, Gate, being_cancelled
from flowllm.engine.failures import FailureShare
from flowllm.engine.journal import Journal
from flowllm.engine.outputs import outputs_of
from flowllm.engine.resume import holds
from flowllm.engine.spent import Spent
from flowllm.engine.state import (
    EndNode,
    EndRun,
    NodeFinished,
    RunBegun,
    RunState,
    StartNode,
    StopAsked,
    StopSending,
)
from flowllm.engine.values import Values
from flowllm.errors import InternalError, RunStopped, StepError, StoreError
from flowllm.events import NodeStarted, StopRequested
from flowllm.steps.base import NodeContext
from flowllm.store.base import Fence, NodeRecord, NodeWrite
from flowllm.types import NodeId, NodeStatus, OnError, RunStatus, StepKind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from flowllm.calls.budget import Purse
    from flowllm.clock import Clock
    from flowllm.engine.backend import Backend
    from flowllm.engine.state import Command, Stimulus
    from flowllm.engine.stop import StopSignal
    from flowllm.events import Event
    from flowllm.redact import Redactor
    from flowllm.result import RunOptions
    from flowllm.spec.workflow import Step, Workflow
    from flowllm.steps.base import Bound
    from flowllm.store.base import RunRecord, Store
    from flowllm.types import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How this sitting of the run ended."""

    status: RunStatus
    outputs: Mapping[str, Json]
    error: Mapping[str, Json] | None = None
    failure: BaseException | None = None
    """What broke the run itself, such as a full disk."""


class Scheduler:
    """Carries one sitting of one run."""

    def __init__(
        self,
        *,
        workflow: Workflow,
        run: RunRecord,
        before: Sequence[NodeRecord],
        options: RunOptions,
        steps: Mapping[NodeId, Step],
        backend: Backend,
        store: Store,
        clock: Clock,
        redactor: Redactor,
        emit: Callable[[Event], None],
        stop: StopSignal,
        purse: Purse | None = None,
        retry_failed: bool = False,
    ) -> None:
        """`before` is what earlier sittings left; `steps` are those to run, with all that they need."""
        self._workflow = workflow
        self._run = run
        self._before = {node.node_id: node for node in before}
        self._options = options
        self._steps = steps
        self._backend = backend
        self._store = store
        self._clock = clock
        self._redactor = redactor
        self._emit = emit
        self._stop = stop
        self._retry_failed = retry_failed
        self._purse = purse
        self._fence = Fence(run_id=run.run_id, epoch=run.epoch)
        self._gate = Gate()
        self._values = Values(run)
        self._state = RunState(
            {node: {NodeId(need): how for need, how in step.edges.items()} for node, step in steps.items()},
            forgiven=[node for node, step in steps.items() if step.on_error is OnError.CONTINUE],
            fail_fast=options.fail_fast,
        )
        self._inbox: asyncio.Queue[Stimulus] = asyncio.Queue()
        self._tasks: dict[asyncio.Task[None], NodeId] = {}
        self._spent: dict[NodeId, Spent] = {}
        self._riding: set[asyncio.Task[None]] = set()
        self._grace: asyncio.Task[None] | None = None
        self._seq = max((node.seq for node in before), default=0)
        self._ended: RunStatus | None = None
        self._failure: BaseException | None = None
        self._stopped: RunStopped | None = None
        self._journal = Journal(
            steps,
            FailureShare(stop_at=None if workflow.limits is None else workflow.limits.stop_at_error_rate),
            emit=emit,
            clock=clock,
        )

    async def run(self) -> Ending:
        """Until everything that can end has ended. Does not raise for a run that fails."""
        forget = self._stop.listen(self._stop_requested, self._cancel)
        await self._carry_out(self._state.handle(RunBegun()))
        while self._ended is None:
            await self._carry_out(self._state.handle(await self._inbox.get()))
        forget()
        if self._grace is not None:
            self._grace.cancel()
        await self._land()
        return self._ending(self._ended)

    def abort(self) -> None:
        """Stop at once: nobody waits for this run any more. What did finish is kept."""
        self._stop_requested("cancelled")
        self._cancel()

    # commands

    async def _carry_out(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case StartNode(node=node):
                    task = asyncio.get_running_loop().create_task(self._node(node))
                    self._tasks[task] = node
                    task.add_done_callback(self._node_over)
                case EndNode(node=node, status=status, cause=cause):
                    self._end_without_work(node, status, cause)
                case StopSending():
                    self._stop_sending()
                case EndRun(status=status):
                    self._ended = status

    def _node_over(self, task: asyncio.Task[None]) -> None:
        """A task that was cancelled before its first step, or that broke, has told nobody."""
        node = self._tasks.pop(task)
        self._spent.pop(node, None)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._broke(error)
        if error is not None or task.cancelled():
            self._inbox.put_nowait(NodeFinished(node=node, status=NodeStatus.CANCELLED))

    def _end_without_work(self, node: NodeId, status: NodeStatus, cause: NodeId) -> None:
        verb = {NodeStatus.BLOCKED: "failed", NodeStatus.SKIPPED: "was skipped"}[status]
        why = self._state.status[cause]
        if status is NodeStatus.BLOCKED and why is NodeStatus.BLOCKED:
            verb = "is blocked"
        elif status is NodeStatus.SKIPPED and why is NodeStatus.FAILED:
            verb = "failed"
        reason = f"{cause} {verb}"
        record = self._plain_record(node, status, parts={"reason": reason})
        self._ride(record)
        self._tell(record, reason=reason)

    def _plain_record(
        self, node: NodeId, status: NodeStatus, *, parts: Mapping[str, Json] | None = None
    ) -> NodeRecord:
        return NodeRecord(
            run_id=self._run.run_id,
            node_id=node,
            kind=self._steps[node].kind,
            status=status,
            parts=parts or {},
            finished_at=self._clock.now(),
            seq=self._next_seq(),
        )

    # one node

    async def _node(self, node: NodeId) -> None:
        """Never raises: whatever happens becomes a stimulus."""
        status = NodeStatus.CANCELLED
        try:
            record = await self._outcome(node, self._steps[node])
            status = record.status
        except (CallStopped, asyncio.CancelledError):
            pass
        except RunStopped as error:
            self._end_early(error)
        except StoreError as error:
            self._broke(error)
        self._inbox.put_nowait(NodeFinished(node=node, status=status))

    async def _outcome(self, node: NodeId, step: Step) -> NodeRecord:
        started = self._clock.now()
        self._emit(NodeStarted(run_id=self._run.run_id, at=started, node_id=node, kind=step.kind))
        bound: Bound | None = None
        spent = self._spent[node] = Spent(self._emit)
        try:
            values = self._values.mapping
            if step.when is not None and not step.when.condition(values):
                return self._skip(node)
            bound = self._backend.bind(step, values)
            earlier = self._before.get(node)
            if earlier is not None and holds(
                earlier, key=bound.key, step=step, retry_failed=self._retry_failed
            ):
                return self._reuse(earlier)
            record = await self._backend.run(bound, self._context(node, started, spent))
        except StepError as error:
            return await self._fail(node, bound, started, error, spent)
        except (StoreError, RunStopped, CallStopped):
            raise
        except asyncio.CancelledError as error:
            if being_cancelled():
                raise
            return await self._fail(node, bound, started, _internal(error), spent)
        except Exception as error:  # noqa: BLE001 - a fault of ours must not take the others down
            return await self._fail(node, bound, started, _internal(error), spent)
        self._tell(record)
        return record

    def _context(self, node: NodeId, started: float, emit: Callable[[Event], None]) -> NodeContext:
        asker = Asker(
            fence=self._fence,
            node_id=node,
            gate=self._gate,
            emit=emit,
            purse=self._purse,
            tenant=self._run.tenant,
        )
        return NodeContext(
            asker=asker,
            clock=self._clock,
            store=self._store,
            started_at=started,
            next_seq=self._next_seq,
            ride=self._ride,
            redactor=self._redactor,
            read_memo=not self._options.no_cache,
            write_memo=not self._options.no_cache,
            refresh=node in self._options.refresh,
        )

    def _skip(self, node: NodeId) -> NodeRecord:
        record = self._plain_record(node, NodeStatus.SKIPPED, parts={"when": False})
        self._ride(record)
        self._tell(record, reason="its `when` is false")
        return record

    def _reuse(self, earlier: NodeRecord) -> NodeRecord:
        record = replace(earlier, reused=True)
        self._tell(record)
        return record

    async def _fail(
        self, node: NodeId, bound: Bound | None, started: float, error: StepError, spent: Spent
    ) -> NodeRecord:
        details = self._redactor.value(error.as_dict())
        if bound is not None:
            context = self._context(node, started, spent)
            record = context.record(bound, NodeStatus.FAILED, error=details)
        else:
            record = replace(self._plain_record(node, NodeStatus.FAILED), error=details, started_at=started)
        if error.usage is not None:
            record = replace(record, usage=error.usage)
        record = spent.onto(record)
        await self._store.settle(nodes=(NodeWrite(fence=self._fence, node=record),))
        self._tell(record)
        return record

    def _tell(self, record: NodeRecord, *, reason: str = "") -> None:
        """The node has ended: templates may see it, and so may people."""
        self._values.add(record)
        too_many = self._journal.ended(record, reason=reason)
        if too_many is not None:
            self._end_early(too_many)

    def _next_seq(self) -> int:
        self._seq += 1
        return self._seq

    # writes that nobody waits for

    def _ride(self, record: NodeRecord) -> None:
        write = NodeWrite(fence=self._fence, node=record)
        task = asyncio.get_running_loop().create_task(self._store.settle(nodes=(write,)))
        self._riding.add(task)
        task.add_done_callback(self._rode)

    def _rode(self, task: asyncio.Task[None]) -> None:
        self._riding.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._broke(error)

    async def _land(self) -> None:
        """Wait for what is still being written."""
        while self._tasks or self._riding:
            await asyncio.gather(*self._tasks, *self._riding, return_exceptions=True)

    # stopping

    def _broke(self, error: BaseException) -> None:
        """Nothing can be kept any more, so nothing more is sent."""
        self._failure = self._failure or error
        self._inbox.put_nowait(StopAsked(status=RunStatus.INTERRUPTED))

    def _end_early(self, error: RunStopped) -> None:
        """To go on makes no sense; what is in flight may finish."""
        self._stopped = self._stopped or error
        self._inbox.put_nowait(StopAsked(status=error.status))

    def _stop_requested(self, reason: str) -> None:
        if self._ended is None:
            self._inbox.put_nowait(StopAsked(status=RunStatus.INTERRUPTED))
            now, in_flight = self._clock.now(), self._in_flight()
            self._emit(StopRequested(run_id=self._run.run_id, at=now, reason=reason, in_flight=in_flight))

    def _in_flight(self) -> int:
        """Requests that are out, and steps of other kinds that are at work; not those that queue."""
        return sum(
            self._spent[node].in_flight if self._steps[node].kind is StepKind.PROMPT else 1
            for node in self._tasks.values()
            if node in self._spent
        )

    def _stop_sending(self) -> None:
        self._gate.shut()
        self._grace = asyncio.get_running_loop().create_task(self._cancel_after(self._options.grace))

    async def _cancel_after(self, seconds: float) -> None:
        await self._clock.sleep(seconds)
        self._cancel()

    def _cancel(self) -> None:
        self._gate.shut()
        for task in list(self._tasks):
            task.cancel()

    # the end

    def _ending(self, status: RunStatus) -> Ending:
        outputs, error = outputs_of(self._workflow, self._state, self._values.mapping)
        if status is RunStatus.SUCCEEDED and self._failure is not None:
            status = RunStatus.INTERRUPTED  # a row that nobody waited for was not kept
        elif status is RunStatus.SUCCEEDED and error is not None:
            status = RunStatus.FAILED
        broken = self._failure if isinstance(self._failure, StoreError) else self._stopped
        if broken is not None:
            error = {"type": type(broken).__name__, "message": broken.message, "hint": broken.hint}
        return Ending(
            status=status,
            outputs=self._redactor.value(outputs),
            error=self._redactor.value(error),
            failure=self._failure,
        )


def _internal(error: BaseException) -> InternalError:
    return InternalError(
        f"{type(error).__name__}: {error}",
        hint="this is a fault of flowllm, please report it; FLOWLLM_DEBUG=1 shows where it happened",
    )
