"""Executes a foreach: pulls items from their data while the window lets it, and collects their results.

Each item is a row in the store; what is held in memory are the items in flight, and the outputs only where a template
looks at the whole list.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from flowllm.core.cancel import CallStopped
from flowllm.core.errors import StepError, StoreError
from flowllm.core.events import FanOutCounted, FanOutStarted
from flowllm.core.fingerprint import fingerprint
from flowllm.core.tasks import start_task
from flowllm.core.types import Counts, Json, NodeId, NodeStatus, OnError, RunStatus
from flowllm.datasets.base import Rows
from flowllm.datasets.rows import counted
from flowllm.language.sandbox_limits import rendered
from flowllm.runtime.background import MOST_READY
from flowllm.runtime.coordinator import HandedOut
from flowllm.runtime.foreach_results import ForeachResults
from flowllm.runtime.foreach_state import Ended, ForeachState, foreach_state
from flowllm.runtime.invocation import Earlier, GraphScope, NodeInvocation, UsageTotals
from flowllm.runtime.item_pump import ItemPump, ItemSource
from flowllm.runtime.item_reader import Item, ItemReader, open_rows
from flowllm.runtime.node_runner import NodeWork, note_failure, record_outcome, saved
from flowllm.runtime.resume_policy import UNJUDGED, reached_before
from flowllm.runtime.row_sink import RowSink
from flowllm.runtime.run_context import RunContext
from flowllm.storage.base import NodeRecord

MOST_SUSPENDED = 1024
"""Suspended items of a foreach that are held to be started again while others are executed; more are when it is
executed again as a whole."""


async def execute_foreach(
    context: RunContext, invocation: NodeInvocation, rows: Rows | None = None, sink: RowSink | None = None
) -> NodeRecord | None:
    """Go through the items of a step's foreach, or through given rows. Does not raise.

    `sink` hears of each item in the order in which they end, durably.
    """
    return await record_outcome(
        context, invocation, lambda work: ForeachRunner(context, invocation, work, sink).run(rows)
    )


class ForeachRunner(ItemPump):
    """One foreach while it is executed."""

    def __init__(self, context: RunContext, invocation: NodeInvocation, work: NodeWork, sink: RowSink | None) -> None:
        step, foreach = replace(invocation.step, foreach=None), invocation.step.foreach
        if reached_before(invocation.earlier) and not context.retry_failed:
            # what had enough without the items that failed does not ask them again: its output stays what it was
            step = replace(step, on_error=OnError.CONTINUE)
        accepting = foreach is not None and foreach.accept is not None
        token = invocation.scope.token
        scope = GraphScope(
            token=token.child() if accepting else token,
            totals=UsageTotals(invocation.totals),
            fail_fast=invocation.scope.fail_fast and invocation.step.on_error is OnError.FAIL and not accepting,
            graph=invocation.scope.graph,
        )
        super().__init__(context, invocation, step, scope, any_order=not accepting)
        self._work = work
        self._sink = sink
        self._item_totals: dict[int, UsageTotals] = {}
        self._records: dict[int, NodeRecord] = {}
        """Of items that `accept` has not judged yet."""
        self._suspended: set[NodeId] = set()
        """Items that can be started again here."""
        self._results = ForeachResults(invocation)
        self._withdrawn = 0
        self._reused = 0
        self._accepting = accepting
        self._pulls = False
        self._handed: HandedOut | None = None
        self._here = 0
        """Items that are under way here,"""
        self._most_here = 0
        """and how many may be; others are for workers."""

    async def run(self, rows: Rows | None) -> NodeRecord:
        """To the end of the items. Raises StepError if that fails the step, CallStopped if the run stops before."""
        context, invocation = self._context, self._invocation
        try:
            self._note_running(total=0)
            if rows is None:
                assert self._foreach is not None  # noqa: S101 - who has no foreach is given rows
                opened = partial(
                    open_rows,
                    self._foreach,
                    invocation.values,
                    spool=context.spool,
                    limit=context.options.limit,
                    claims=context.saver.claims,
                )
                rows = await rendered(opened)
            return await self._run_rows(rows)
        finally:
            if self._accepting:  # however it ends, nothing more is sent for its items
                self._scope.token.stop(RunStatus.INTERRUPTED)
                invocation.scope.token.forget(self._scope.token)

    def _note_running(self, *, total: int) -> None:
        """A row says that it has begun, and of how many items, once that is known."""
        parts = {"kind": "foreach", **self._pulled(self._pulled_before), **self._until()}
        counts, started = Counts(total=total), self._work.started
        begun = self._context.record(
            self._invocation, NodeStatus.RUNNING, parts=parts, started_at=started, counts=counts
        )
        self._context.writes.enqueue(begun)

    async def _count(self, rows: Rows) -> None:
        """Find out beside the run how many items there are."""
        total = await counted(rows, lambda: self._pulls)
        if total is None or not self._pulls:
            return
        self._scope.total = total
        now, run_id = self._context.clock.now(), self._context.run.run_id
        self._context.emit(FanOutCounted(run_id=run_id, at=now, node_id=self._node, total=total))
        self._note_running(total=total)

    @property
    def _pulled_before(self) -> int:
        """Items that were pulled before the foreach was suspended."""
        earlier = self._invocation.earlier
        count = 0 if earlier is None else earlier.parts.get("pulled", 0)
        return count if isinstance(count, int) else 0

    def _pulled(self, count: int) -> dict[str, Json]:
        return {"pulled": count} if count and self._accepting else {}

    def _until(self) -> dict[str, Json]:
        """Rows that are gone through with only some of their steps are so on record."""
        until = self._context.options.until if self._invocation.is_row else None
        return {} if until is None else {"until": until}

    async def _run_rows(self, rows: Rows) -> NodeRecord:
        context = self._context
        reader = ItemReader(context, self._invocation, rows)
        if self._sink is not None:
            self._sink.begin(self._context.broke)
        complete, counting = False, None
        try:
            self._state = self._begin(rows)
            self._pulls = True
            told = "[" not in self._node  # of those within items nobody is told how far each has come
            if told and rows.total is None:
                counting = start_task(self._count(rows))
            elif told and rows.total:
                self._note_running(total=rows.total)
            try:
                await self._pump(reader)
            finally:
                for node in self._suspended:
                    context.suspended.forget(node)
            self._pulls = False  # before the last row is written
            record = await self._finish(reader)
            complete = record.status is NodeStatus.SUCCEEDED
            return record
        finally:
            self._pulls = False
            if counting is not None:
                counting.cancel()
            reader.stop()
            await rows.close()
            if self._sink is not None:
                await self._sink.finish(complete=complete)

    def _begin(self, rows: Rows) -> ForeachState:
        self._scope.total = rows.total or 0
        self._context.emit(
            FanOutStarted(
                run_id=self._context.run.run_id, at=self._context.clock.now(), node_id=self._node, total=rows.total
            )
        )
        values, before = self._invocation.values, self._pulled_before
        return foreach_state(
            self._invocation.step, values, window=self._window(), total=rows.total, pulled_before=before
        )

    # items

    def _hand_out(self) -> HandedOut | None:
        """Workers execute items of what stands at the top of a run that has any."""
        coordinator, invocation = self._context.coordinator, self._invocation
        if self._handed is not None or coordinator is None or invocation.position.parent or self._inline:
            return self._handed
        if not coordinator.workers:
            return None
        terms: dict[str, Json] = {
            "retry_failed": self._context.retry_failed,
            "until": self._context.options.until,
            "since": self._context.run.totals.last_seq,
            "on_error": self._item_step.on_error.value,
        }
        self._handed = coordinator.foreach(self._node, terms, self, self._scope.token)
        return self._handed

    def _look(self) -> None:
        super()._look()
        coordinator, handed = self._context.coordinator, self._hand_out()
        if handed is None or coordinator is None:
            return
        self._most_here = 0
        if coordinator.works:
            self._most_here = self._state.window
            if self._own_window is not None:
                self._most_here = max(1, self._own_window // (1 + coordinator.workers))
        if not self._accepting:
            self._state.window = self._own_window or self._most_here + handed.window

    def _pull(self, source: ItemSource) -> None:
        super()._pull(source)
        if self._handed is not None:
            while self.room > 0 and (item := self._handed.back()) is not None:
                self.start_here(item)
            total = self._state.total or self._scope.total
            self._handed.look(max(0, total - self._state.next_index) if total else None)

    def _may_open_one(self) -> bool:
        return (self._handed is not None and self.room <= 0) or super()._may_open_one()

    @property
    def room(self) -> int:
        """See `coordinator.Owner`."""
        return self._most_here - self._here

    def wake(self) -> None:
        """See `coordinator.Owner`."""
        self._wake.set()

    def start_here(self, item: Item) -> None:
        """See `coordinator.Owner`."""
        self._here += 1
        super()._start(item)

    def _start(self, item: Item) -> None:
        if item.row.error is not None:
            self._here += 1
            self._context.open_items.opened()
            self._fail_unreadable(item, self._invocation_of(item), item.row.error)
        elif self._handed is not None and self.room <= 0 and self._may_travel(item.row.value):
            self._state.missed(item.row.index)
            self._handed.take(item)
        else:
            self.start_here(item)

    def _looked_up(self, item: Item, invocation: NodeInvocation) -> bool:
        return self._sink is None and super()._looked_up(item, invocation)

    def _totals_of(self, item: Item) -> UsageTotals:
        if not self._accepting:
            return self._scope.totals
        index = item.row.index
        totals = self._item_totals[index] = UsageTotals(self._scope.totals, partial(self._missed, index))
        return totals

    def _fail_unreadable(self, item: Item, invocation: NodeInvocation, error: StepError) -> None:
        """A row of the data that could not be read."""
        record = self._context.record(invocation, NodeStatus.FAILED, error=error.as_dict())
        self._context.writes.enqueue(record)
        self._context.ended(record, invocation)
        if invocation.step.on_error is not OnError.CONTINUE:
            self._context.failed(self._scope)
        if self._sink is None:
            self._ended(item, record)
        else:
            self._context.tasks.spawn(self._deliver(item, record), partial(self._ended, item, None))

    async def _deliver(self, item: Item, record: NodeRecord | None) -> None:
        if self._sink is not None and record is not None and record.status is not NodeStatus.WAITING:
            try:
                await self._sink.ended(item.number, record)
            except StoreError as error:
                self._context.broke(error)
        self._ended(item, record)

    def _may_travel(self, value: Json) -> bool:
        """No secret is in it, which the database must not hold."""
        redactor = self._context.redactor
        return redactor.is_empty or redactor.value(value) == value

    async def returned(self, item: Item, record: NodeRecord) -> None:
        """See `coordinator.Owner`."""
        context, invocation = self._context, self._invocation_of(item)
        context.open_items.opened()
        self._here += 1
        if record.status is not NodeStatus.WAITING:
            context.tell_started(invocation, record.started_at or context.clock.now())
            record = await saved(context, invocation, record)
            invocation.totals.add(record)
            context.ended(record, invocation, elsewhere=True)
            if record.status is NodeStatus.FAILED:
                note_failure(context, invocation)
        await self._deliver(item, record)

    def lost(self, item: Item, *, sent: bool) -> None:
        """See `coordinator.Owner`."""
        if self._accepting:
            self._totals_of(item).sent += sent
        if self._state.too_many_failed and not sent:
            self._state.put_back(item.row.index)
            self._wake.set()
        else:
            self._context.open_items.opened()
            self._here += 1
            self._ended(item, None)

    def _missed(self, index: int) -> None:
        self._state.missed(index)
        self._wake.set()

    def _ended(self, item: Item, record: NodeRecord | None) -> None:
        """An item is over; None: it was no longer wanted, or the run is stopping."""
        index = item.row.index
        self._context.open_items.closed()
        self._here -= 1
        totals = self._item_totals.pop(index, None)
        if record is None:
            self._state.withdrawn(index)
            self._withdrawn += totals is not None and totals.sent == 0
        elif record.status is NodeStatus.WAITING:
            self._state.suspended(index)
            if len(self._suspended) < MOST_SUSPENDED:
                self._suspended.add(record.node_id)
                self._context.suspended.add(
                    record.node_id, partial(self._restart, replace(item, before=Earlier(record=record)))
                )
        else:
            self._results.add(record)
            self._cached.note(record)
            self._reused += record.reused
            if self._accepting:
                self._records[index] = record
            ended = Ended(
                index=index,
                number=item.number,
                status=record.status,
                item=item.row.value if self._accepting else None,
                output=record.output if self._accepting else None,
                stands="--retry-failed" in str((record.error or {}).get("hint")),
            )
            message = "" if record.error is None else str(record.error.get("message", ""))
            for rejected, error in self._state.ended(ended, message):
                self._reject(rejected, error)
            if self._handed is not None and self._state.too_many_failed:
                self._handed.recall()
            for judged in self._state.judged():
                self._records.pop(judged, None)
        self._wake.set()

    def _restart(self, item: Item) -> None:
        """A suspended item can go on."""
        invocation = self._invocation_of(item)
        self._suspended.discard(invocation.node_id)
        self._state.woken(item.row.index)
        self._context.open_items.opened()
        self._here += 1
        self._spawn(item, invocation)

    def _reject(self, rejected: Ended, error: StepError) -> None:
        """Whether to accept the item could not be evaluated: it counts as failed."""
        details = {**self._context.redactor.value(error.as_dict()), UNJUDGED: True}
        record = replace(self._records[rejected.index], status=NodeStatus.FAILED, error=details)
        self._results.replaced(record)
        self._context.writes.enqueue(record)

    # the end

    async def _finish(self, reader: ItemReader) -> NodeRecord:
        state, context, invocation = self._state, self._context, self._invocation
        if not state.over and not state.paused:
            raise CallStopped
        if self._accepting:
            self._scope.token.stop(RunStatus.INTERRUPTED)  # what is not on the wire by now is not wanted
            if self._handed is not None:
                await self._handed.settle()
        idle = self._withdrawn + sum(totals.sent == 0 for totals in self._item_totals.values())
        counts = state.counts(not_pulled=await reader.left(), not_sent=idle)
        error = None if state.enough else reader.broken or state.verdict(self._node, context.run.run_id)
        if state.paused:
            record = self._record(counts, NodeStatus.WAITING)
            await context.writes.commit(record)
            self._scope.totals.take_back()
            return record
        record = self._record(counts, NodeStatus.SUCCEEDED if error is None else NodeStatus.FAILED, error)
        await context.writes.commit(record)
        if state.enough and (self._suspended or invocation.earlier is not None):
            await self._end_waits()
        if error is None:
            invocation.scope.results[self._node] = self._results.result(context, state)
        context.ended(record, invocation)
        if error is not None:
            context.failed(invocation.scope)
        return record

    async def _end_waits(self) -> None:
        """Items that are not needed any more wait for nothing."""
        context, run_id = self._context, self._context.run.run_id
        for wait in await context.store.waits(run_id=run_id, limit=MOST_READY):
            row = await context.store.node(run_id, wait.node_id) if wait.node_id.startswith(f"{self._node}[") else None
            if row is not None:
                parts = {"reason": "enough other items were accepted"}
                context.writes.enqueue(replace(row, status=NodeStatus.SKIPPED, parts=parts))

    def _record(self, counts: Counts, status: NodeStatus, error: StepError | None = None) -> NodeRecord:
        parts: dict[str, Json] = {"kind": "foreach", "items": counts.total, **self._until()}
        chosen = self._state.chosen()
        if chosen is not None:
            parts["chosen"] = chosen
        if status is NodeStatus.WAITING:
            parts.update(self._pulled(self._state.pulled_until))
        figures = self._scope.totals.figures()
        return self._context.record(
            self._invocation,
            status,
            parts=parts,
            key=fingerprint(parts),
            counts=counts,
            reused=0 < self._reused == counts.total,
            started_at=self._work.started,
            error=None if error is None else error.as_dict(),
            **figures,
        )
