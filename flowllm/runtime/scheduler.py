"""One sitting of one run: hands each node to what carries it out, until everything that can end has ended.

A node's outcome is durable before the state machine of its graph hears of it, and so before anything that builds on
it starts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flowllm.calls.budget import RunBudget
from flowllm.core.cancel import CancelToken
from flowllm.core.clock import Clock
from flowllm.core.errors import StoreError
from flowllm.core.events import Event, StopRequested
from flowllm.core.redact import Redactor
from flowllm.core.tasks import start_task
from flowllm.core.types import ROW, Json, NodeId, NodeStatus, RunStatus, StepId
from flowllm.datasets.base import Rows
from flowllm.datasets.file_registry import FileRegistry
from flowllm.language.workflow import Step, Workflow, WorkflowBody
from flowllm.runtime.backend import Backend
from flowllm.runtime.compiled_graph import CompiledGraph
from flowllm.runtime.event_emitter import EventEmitter
from flowllm.runtime.failure_share import FailureShare
from flowllm.runtime.foreach_runner import Sink, carry_items
from flowllm.runtime.graph_runner import GraphRunner
from flowllm.runtime.invocation import NodeInvocation, Scope
from flowllm.runtime.node_runner import carry_out
from flowllm.runtime.open_item_limit import OpenItemLimit
from flowllm.runtime.options import RunOptions
from flowllm.runtime.run_context import RunContext
from flowllm.runtime.subgraph_runner import carry_graph
from flowllm.runtime.values import Values, run_values
from flowllm.steps.base import ItemPosition
from flowllm.steps.save import Saver
from flowllm.storage.base import NodeRecord, RunRecord, Store

WINDOW = 16
"""Items of a foreach that asks models in flight, where neither it nor the limits of the accounts say more: enough to
keep all slots filled, and few, so that items that have begun go before new ones."""
OPEN = 1024
"""Items of all foreaches of a run that are open at once, but for one of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptOutcome:
    """How this sitting of the run ended."""

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
        stop: CancelToken,
        budget: RunBudget | None = None,
        retry_failed: bool = False,
        window: Callable[[], int] = lambda: WINDOW,
        files: int = OPEN,
        spool: Path | None = None,
        over: DatasetRun | None = None,
        claims: FileRegistry | None = None,
    ) -> None:
        """`before` is what earlier sittings left at the top; `steps` are those to run, with all that they need;
        `window` is how many items of a foreach are in flight where it does not say; `files` is how many more files may be opened,
        as each open item may; `spool` is a file for standard input."""
        self._before = {node.node_id: node for node in before}
        self._stop = stop
        self._over = over
        stop_at = None if workflow.limits is None else workflow.limits.stop_at_error_rate
        self._desk = RunContext(
            run=run,
            options=options,
            backend=backend,
            store=store,
            clock=clock,
            redactor=redactor,
            emit=emit,
            journal=EventEmitter(FailureShare(stop_at=stop_at), emit=emit, clock=clock),
            room=OpenItemLimit(min(OPEN, files)),
            window=window,
            saver=Saver(claims=claims),
            spool=spool,
            budget=budget,
            retry_failed=retry_failed,
            seq=max((node.seq for node in before), default=0),
        )
        self._scope = Scope(token=self._desk.token, fail_fast=options.fail_fast)
        self._blueprints: dict[int, CompiledGraph] = {}
        self._root = CompiledGraph(workflow.graph, {StepId(name): step for name, step in steps.items()})
        self._grace: asyncio.Task[None] | None = None

    async def run(self) -> AttemptOutcome:
        """Until everything that can end has ended. Does not raise for a run that fails."""
        desk = self._desk
        desk.token.listen(self, self._allow_grace)
        self._stop.listen(self, self._stop_requested, desk.cancel)
        ending = await (self._steps() if self._over is None else self._rows(self._over))
        self._stop.forget(self)
        if self._grace is not None:
            self._grace.cancel()
        await desk.land()
        return self._checked(ending)

    async def _steps(self) -> AttemptOutcome:
        run = self._desk.run
        walk = GraphRunner(
            self._desk,
            self._root,
            name="",
            values=Values(run.inputs, run_values(run)),
            scope=self._scope,
            carry=self._carry,
            before=self._before,
        )
        outcome = await walk.run(inline=False)
        return AttemptOutcome(status=outcome.status, outputs=outcome.outputs, error=outcome.error)

    async def _rows(self, over: DatasetRun) -> AttemptOutcome:
        """Rows are the items of a foreach that has the whole graph as its step."""
        desk, node = self._desk, NodeId(ROW)
        self._blueprints[id(over.step.body)] = self._root
        seat = NodeInvocation(
            node_id=node,
            step=over.step,
            values={"run": run_values(desk.run), "inputs": {}, "steps": {}},
            standing=ItemPosition(),
            scope=self._scope,
            tally=self._scope.tally,
            earlier=self._before.get(node),
            is_row=True,
        )
        self._scope.total = 1
        record: NodeRecord | None = None

        async def go_through() -> None:
            nonlocal record
            record = await carry_items(desk, seat, self._carry, over.rows, over.sink)

        over_all = asyncio.Event()
        desk.spawn(go_through(), over_all.set)
        await desk.land_tasks()
        if record is None:
            return AttemptOutcome(status=desk.token.status or RunStatus.INTERRUPTED, outputs={})
        well = record.status is NodeStatus.SUCCEEDED
        return AttemptOutcome(status=RunStatus.SUCCEEDED if well else RunStatus.FAILED, outputs={}, error=record.error)

    async def _carry(self, seat: NodeInvocation) -> NodeRecord | None:
        """Hand a node to what carries it out."""
        body = seat.step.body
        if seat.step.foreach is not None:
            return await carry_items(self._desk, seat, self._carry)
        if isinstance(body, WorkflowBody):
            return await carry_graph(self._desk, seat, self._blueprint(body), self._carry)
        return await carry_out(self._desk, seat)

    def _blueprint(self, body: WorkflowBody) -> CompiledGraph:
        found = self._blueprints.get(id(body))
        if found is None:
            found = self._blueprints[id(body)] = CompiledGraph(body.graph)
        return found

    # stopping

    def _stop_requested(self) -> None:
        desk, reason = self._desk, self._stop.reason or ""
        desk.token.stop(RunStatus.INTERRUPTED)
        desk.emit(StopRequested(run_id=desk.run.run_id, at=desk.clock.now(), reason=reason, in_flight=desk.in_flight()))

    def _allow_grace(self) -> None:
        """What is in flight may finish for a while."""
        if self._grace is None:
            self._grace = start_task(self._cancel_later())

    async def _cancel_later(self) -> None:
        await self._desk.clock.sleep(self._desk.options.grace)
        self._desk.cancel()

    # the end

    def _checked(self, ending: AttemptOutcome) -> AttemptOutcome:
        desk = self._desk
        status, error = ending.status, ending.error
        if status is RunStatus.SUCCEEDED and desk.failure is not None:
            status = RunStatus.INTERRUPTED  # a row that nobody waited for was not kept
        broken = desk.failure if isinstance(desk.failure, StoreError) else desk.stopped
        if broken is not None:
            error = {"type": type(broken).__name__, "message": broken.message, "hint": broken.hint}
        return AttemptOutcome(
            status=status,
            outputs=desk.redactor.value(ending.outputs),
            error=desk.redactor.value(error),
            failure=desk.failure,
        )
