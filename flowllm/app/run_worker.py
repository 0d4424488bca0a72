"""A worker at one run: leases ranges of its items, executes them with an engine of its own, and reports what has ended."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Final

from flowllm.app.dataset_run import row_step
from flowllm.app.prepare import PreparedRun
from flowllm.app.run_attempt import RunAttempt, SharedServices
from flowllm.core.cancel import CancelToken
from flowllm.core.errors import StoreError
from flowllm.core.records import dataclass, field, replace
from flowllm.core.tasks import start_task
from flowllm.core.types import ROW, Json, NodeId, RunStatus, StepId
from flowllm.language.workflow import WorkflowBody
from flowllm.reporting.base import Observer
from flowllm.runtime.execute import heeding
from flowllm.runtime.graph_runner import run_values
from flowllm.runtime.graph_state import CompiledGraph
from flowllm.runtime.invocation import GraphScope, NodeInvocation
from flowllm.runtime.range_runner import RangeRunner
from flowllm.runtime.run_context import RunContext
from flowllm.runtime.stored_values import stored_values
from flowllm.steps.base import ItemPosition
from flowllm.storage.base import NodeRecord, RunRecord
from flowllm.storage.open import this_process
from flowllm.storage.ranges import ItemEnd, LeasedRange, RangeReport

ORDERED: Final = 0.5
"""Seconds after which it is seen anew what the coordinator wants, unless workers are so many that they report more seldom."""
WANTED: Final = 2.0
"""Seconds after which a worker without a range says again that it would like one."""
IDLE: Final = (0.02, 0.5)
"""Seconds from one look for a free range to the next: at first, and at most."""


@dataclass(slots=True, kw_only=True)
class _Work:
    """A range that is worked at."""

    leased: LeasedRange
    open: set[int]
    ended: list[tuple[int, ItemEnd]] = field(default_factory=list)


class RunWorker(RunAttempt):
    """One worker at one attempt at a run. The run is another process's: nothing of it as a whole is written here."""

    def __init__(
        self,
        prepared: PreparedRun,
        run: RunRecord,
        shared: SharedServices,
        *,
        observers: Sequence[Observer],
        leased: LeasedRange,
        idle: float | None,
    ) -> None:
        """`leased` is its first range; it leaves when there was none for `idle` seconds, None: only when the run is over."""
        terms = leased.terms
        prepared = replace(prepared, options=replace(prepared.options, until=terms.get("until")))
        super().__init__(prepared, run, shared, observers=observers, retry_failed=bool(terms.get("retry_failed")))
        self._first: LeasedRange | None = leased
        self._idle = idle
        self._me = this_process(self._clock)
        self._wake = asyncio.Event()
        self._work: dict[int, _Work] = {}
        self._ranges: dict[tuple[NodeId, int], _Work] = {}
        """By foreach and place of each item that is open."""
        self._runners: dict[NodeId, RangeRunner] = {}
        self._going = True
        self._every = 0.0
        """Seconds from one report to the next, unless a range is over."""

    @property
    def _splits(self) -> bool:
        return True

    @property
    def _process(self) -> str:
        return self._me.process

    def _begin(self, notices: Sequence[str]) -> None:
        """The run has begun already."""

    def _stops_at_error_rate(self) -> float | None:
        return None  # the coordinator sees the failures of all workers

    async def _execute_run(self, context: RunContext, token: CancelToken) -> Sequence[NodeRecord] | None:
        watching = start_task(self._watch(context))
        self._values: dict[NodeId, NodeInvocation] = {}
        context.token.listen(self, self._wake.set)
        try:
            with heeding(context, token):
                await self._go(context)
                self._close(context)
                await context.tasks.wait()
            await context.idle()
        except StoreError as error:
            context.broke(error)
        finally:
            watching.cancel()
            self._close(context)
            for runner in self._runners.values():
                await asyncio.wait([runner.task])
            await context.idle()
        await self._leave(context)
        return []

    async def _go(self, context: RunContext) -> None:
        """Until the run is over, or this worker is to leave."""
        graph, pause, looked, told = self._graph(), IDLE[0], 0.0, 0.0
        since = asked = self._clock.monotonic()
        while self._going and not context.token.stopped:
            now = self._clock.monotonic()
            due = now >= looked + max(ORDERED, self._every)
            if due:
                looked = now
                await self._obey(context)
            leased = await self._lease(context, any_foreach=due)
            if leased is not None:
                await self._take(context, graph, leased)
                pause, since = IDLE[0], now
            if now >= told + self._every or any(not work.open for work in self._work.values()):
                told = now
                await self._report(context)
            if self._work:
                since = now
            elif self._idle is not None and now >= since + self._idle:
                return
            if leased is None and not self._work and now >= asked + WANTED:
                asked = now
                await self._store.want_range(context.run.run_id)
            if leased is None:
                pause = min(IDLE[1], pause * 1.5)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), min(pause, self._every) if self._work else pause)
                self._wake.clear()

    async def _obey(self, context: RunContext) -> None:
        """What the coordinator wants."""
        orders = await self._store.range_orders(context.lease)
        self._going = orders.going
        for node in orders.withdrawn:
            if node in self._runners:
                self._runners[node].withdraw()
        if orders.cancelled:
            context.token.stop()
            context.tasks.cancel()

    async def _lease(self, context: RunContext, *, any_foreach: bool) -> LeasedRange | None:
        """The next range, if one of the foreaches has room; `any_foreach`: one that was not seen yet may have begun."""
        if self._first is not None:
            first, self._first = self._first, None
            return first
        busy = [node for node, runner in self._runners.items() if not runner.items.wants]
        if self._runners and len(busy) == len(self._runners) and not any_foreach:
            return None
        leased = await self._store.lease_range(context.run.run_id, busy=busy)
        if leased is not None and leased.lease != context.lease:
            self._going = False  # another attempt at the run has begun: it is joined anew
            await self._store.report_range(leased.lease, RangeReport(number=leased.number, given_back=True))
            return None
        return leased

    async def _take(self, context: RunContext, graph: CompiledGraph, leased: LeasedRange) -> None:
        self._every = float(leased.terms["every"])
        work = self._work[leased.number] = _Work(leased=leased, open={item.place for item in leased.items})
        self._ranges |= {(leased.foreach, place): work for place in work.open}
        context.resumed = context.resumed or leased.leases > 1
        runner = self._runners.get(leased.foreach)
        if runner is None:
            invocation = await self._invocation(context, graph, leased.foreach)
            runner = self._runners[leased.foreach] = RangeRunner(
                context, invocation, leased.terms, hungry=self._wake.set, ended=self._ended
            )
        await runner.take(leased)

    async def _invocation(self, context: RunContext, graph: CompiledGraph, node: NodeId) -> NodeInvocation:
        """The foreach, as its items see it."""
        scope = GraphScope(token=context.token, fail_fast=context.options.fail_fast)
        if node == NodeId(ROW):
            step = row_step(self._workflow, context.run.inputs)
            assert isinstance(step.body, WorkflowBody)  # noqa: S101 - see row_step
            context.compiled(step.body, graph)
            values: Mapping[str, Json] = {"run": run_values(context.run), "inputs": {}, "steps": {}}
        else:
            scope.graph, step = graph, graph.steps[StepId(node)]
            values = await stored_values(context, graph, node)
        return NodeInvocation(
            node_id=node, step=step, values=values, position=ItemPosition(), scope=scope, totals=scope.totals
        )

    # what is told

    def _ended(self, node: NodeId, place: int, end: ItemEnd) -> None:
        work = self._ranges.pop((node, place), None)
        if work is not None:
            work.open.discard(place)
            work.ended.append((place, end))
            if not work.open:
                self._wake.set()

    async def _report(self, context: RunContext, *, leaving: bool = False) -> None:
        """Say what has ended; `leaving`: what has not is for others."""
        for work in [*self._work.values()]:
            lost = [one for one in work.ended if one[1] in {ItemEnd.UNSENT, ItemEnd.LEFT}]
            withdrawn = self._runners[work.leased.foreach].withdrawn
            kept = work.ended if withdrawn else [one for one in work.ended if one not in lost]
            over = not work.open and (withdrawn or not lost)
            if not (kept or over or leaving):
                continue
            report = RangeReport(
                number=work.leased.number,
                ended=kept,
                over=over,
                given_back=not over and leaving,
                figures={"stats": self._stats.take(), "failures": context.take_counts()},
                stopped=self._why(context) if leaving else None,
            )
            work.ended = [] if withdrawn else lost
            mine = await self._store.report_range(context.lease, report)
            if over or leaving or not mine:
                del self._work[work.leased.number]

    def _why(self, context: RunContext) -> Mapping[str, Json] | None:
        """Why the run has to end, if that was found here."""
        if context.stopped is not None:
            return {"status": context.stopped.status.value, "error": context.stopped.as_dict()}
        if context.token.status is RunStatus.FAILED:
            return {"status": RunStatus.FAILED.value, "error": None}
        return None

    def _close(self, context: RunContext) -> None:
        for runner in self._runners.values():
            runner.items.close()
        if not self._going:
            context.token.stop(RunStatus.INTERRUPTED)

    async def _leave(self, context: RunContext) -> None:
        """Give back what is left: also where the run seems to be over, as its coordinator may only have been silent."""
        if context.failure is None:
            with contextlib.suppress(StoreError):
                await self._report(context, leaving=True)
        self._store.leave_run(context.run.run_id)
        if context.failure is not None:
            raise context.failure
