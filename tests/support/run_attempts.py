"""Attempts at a run by the real runtime, over a memory store and a fake provider, under a virtual clock."""

from __future__ import annotations

from flowllm.app.wiring import allow_local
from flowllm.calls.batch import Batches
from flowllm.calls.budget import RunBudget
from flowllm.calls.executor import CallExecutor
from flowllm.calls.response_cache import ResponseCache
from flowllm.calls.single_flight import InFlightCalls
from flowllm.core.cancel import StopSignal
from flowllm.core.events import Event, NodeEnded
from flowllm.core.redact import Redactor
from flowllm.core.types import RunStatus
from flowllm.language.inputs import with_inputs
from flowllm.language.overrides import Overrides
from flowllm.language.workflow import Workflow
from flowllm.limits.limiter import Limiter
from flowllm.runtime.execute import AttemptOutcome, execute_node, execute_run
from flowllm.runtime.foreach_state import MOST_OPEN_ITEMS, OpenItemLimit
from flowllm.runtime.graph_state import CompiledGraph
from flowllm.runtime.options import RunOptions
from flowllm.runtime.run_context import RunContext, RunServices
from flowllm.steps.registry import RunnerServices, step_runners
from flowllm.storage.base import NodeRecord, Owner, RunRecord
from tests.support.calls import FakeProvider
from tests.support.stores import InlineStore
from tests.support.virtual import LoopClock
from tests.support.workflows import workflow

OWNER = Owner(pid=1, host="here", since=0.0)


class Stage:
    """What the runs of one process share; make it on the loop."""

    def __init__(self, *, secrets: tuple[str, ...] = ()) -> None:
        self.clock = LoopClock()
        self.store = InlineStore()
        self.limiter = Limiter(self.clock)
        self.redactor = Redactor(secrets)
        self.provider = FakeProvider()
        self.others: dict[str, FakeProvider] = {}
        line = CallExecutor(self.limiter, self.store, self.clock, draw=lambda: 0.0)
        self.calls = InFlightCalls(ResponseCache(Batches(line, self.clock), self.store, self.clock), self.clock)

    async def prepare(
        self,
        text: str,
        *,
        run_id: str = "r1",
        files: dict[str, str] | None = None,
        stop: StopSignal | None = None,
        retry_failed: bool = False,
        options: RunOptions | None = None,
        inputs: dict[str, object] | None = None,
    ) -> PreparedAttempt:
        """An attempt that is ready to run; a run that is there already is resumed."""
        checked = workflow(text, files=files, overrides=Overrides(model="m"))
        if run_id in self.store.runs_on_record:
            self.store.abandon()
            run = await self.store.claim_run(run_id, OWNER)
        else:
            run = RunRecord(
                run_id=run_id,
                workflow=checked.name,
                path=checked.path,
                status=RunStatus.RUNNING,
                started_at=self.clock.now(),
                inputs=with_inputs(checked.inputs, inputs or {}),
                options=(options or RunOptions()).as_dict(),
                snapshot=checked.files,
                owner=OWNER,
            )
            run = await self.store.create_run(run)
        spend = await self.store.spend(run_id)
        budget = checked.budget
        return PreparedAttempt(
            self,
            checked,
            run,
            budget=None if budget is None else RunBudget(budget, spend),
            before=await self.store.nodes(run_id),
            stop=stop or StopSignal(),
            retry_failed=retry_failed,
            options=options or RunOptions(),
        )

    async def run(self, text: str, **how: object) -> AttemptOutcome:
        """One attempt from its beginning to its end."""
        return await (await self.prepare(text, **how)).attempt()

    async def nodes(self, run_id: str = "r1") -> dict[str, NodeRecord]:
        return {node.node_id: node for node in await self.store.nodes(run_id)}


class PreparedAttempt:
    """An attempt at a run, and the events that it emits."""

    def __init__(
        self,
        stage: Stage,
        checked: Workflow,
        run: RunRecord,
        *,
        budget: RunBudget | None,
        before: list[NodeRecord],
        stop: StopSignal,
        retry_failed: bool,
        options: RunOptions,
    ) -> None:
        self.events: list = []
        self.on_event = self.events.append
        self.checked = checked
        self.run = run
        self.kinds = step_runners(
            RunnerServices(
                calls=stage.calls,
                provider=lambda name: stage.others.get(name, stage.provider),
                files=checked.files,
                redactor=stage.redactor,
            )
        )
        allow_local(stage.limiter, self.kinds, holder=run.run_id)
        self.stop = stop
        self.before = before
        services = RunServices(
            kinds=self.kinds,
            store=stage.store,
            clock=stage.clock,
            redactor=stage.redactor,
            emit=self.emit,
            budget=budget,
        )
        self.context = RunContext(
            run,
            services,
            execute_node,
            options=options,
            open_items=OpenItemLimit(MOST_OPEN_ITEMS),
            stop_at_error_rate=None if checked.limits is None else checked.limits.stop_at_error_rate,
            retry_failed=retry_failed,
        )

    def emit(self, event: Event) -> None:
        """Something happened; a test may put its own in place of `on_event`."""
        self.on_event(event)

    async def attempt(self) -> AttemptOutcome:
        """The attempt from its beginning to its end."""
        graph, earlier = CompiledGraph(self.checked), {node.node_id: node for node in self.before}
        return await execute_run(self.context, graph, self.stop, before=earlier)

    @property
    def ended(self) -> list[str]:
        """Nodes in the order in which their end was told."""
        return [event.node_id for event in self.events if isinstance(event, NodeEnded)]
