"""What all graphs of one sitting share: the run, its writes, its order of completion, and the way to stop it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from pathlib import Path

from flowllm.calls.base import Caller
from flowllm.calls.budget import RunBudget
from flowllm.core.cancel import CancelToken
from flowllm.core.clock import Clock
from flowllm.core.errors import RunStopped
from flowllm.core.events import Event, NodeStarted
from flowllm.core.redact import Redactor
from flowllm.core.tasks import start_task
from flowllm.core.types import Json, NodeId, NodeStatus, RunStatus, StepKind, is_within
from flowllm.runtime.backend import Backend
from flowllm.runtime.event_emitter import EventEmitter
from flowllm.runtime.invocation import NodeInvocation, Scope
from flowllm.runtime.node_usage import NodeUsage
from flowllm.runtime.open_item_limit import OpenItemLimit
from flowllm.runtime.options import RunOptions
from flowllm.steps.base import NodeContext
from flowllm.steps.save import Saver
from flowllm.storage.base import NodeRecord, NodeWrite, RunLease, RunRecord, Store

RIDES = 32
"""Writes that nobody waits for, at most, before whoever makes more of them waits."""
ASKING = frozenset({StepKind.PROMPT, StepKind.EMBED})
"""Kinds of steps whose requests are told; others are at work from when something must be done until they end."""


class RunContext:
    """One for each sitting of a run."""

    def __init__(
        self,
        *,
        run: RunRecord,
        options: RunOptions,
        backend: Backend,
        store: Store,
        clock: Clock,
        redactor: Redactor,
        emit: Callable[[Event], None],
        journal: EventEmitter,
        room: OpenItemLimit,
        window: Callable[[], int],
        saver: Saver,
        spool: Path | None,
        budget: RunBudget | None,
        retry_failed: bool,
        seq: int,
    ) -> None:
        """`window` is how many items of a foreach are in flight where it does not say; `spool` is a file for
        standard input; `seq` is the last number in the order of completion that was given."""
        self.run = run
        self.options = options
        self.backend = backend
        self.store = store
        self.clock = clock
        self.redactor = redactor
        self.emit = emit
        self.room = room
        self.window = window
        self.saver = saver
        self.spool = spool
        self.retry_failed = retry_failed
        self.resumed = run.epoch > 1
        self.reopened = frozenset(around for foreach in options.mended for around in _around(foreach))
        """Nodes whose graphs hold an item that was mended: they are gone through whatever became of them."""
        self.fence = RunLease(run_id=run.run_id, epoch=run.epoch)
        self.token = CancelToken()
        self.failure: BaseException | None = None
        """What broke the run itself, such as a full disk."""
        self.stopped: RunStopped | None = None
        """Why it makes no sense to go on."""
        self._journal = journal
        self._budget = budget
        self._seq = seq
        self._tasks: set[asyncio.Task[None]] = set()
        self._riding: set[asyncio.Task[None]] = set()
        self._at_work: dict[NodeId, tuple[StepKind, NodeUsage]] = {}

    # nodes

    def begin(self, seat: NodeInvocation) -> float:
        """Tell that a node starts; when that is."""
        started = self.clock.now()
        self.emit(
            NodeStarted(
                run_id=self.run.run_id,
                at=started,
                node_id=seat.node_id,
                kind=seat.step.kind,
                parent=seat.standing.parent,
                place=seat.standing.place,
            )
        )
        return started

    def spending(self, seat: NodeInvocation, above: Callable[[Event], None] | None = None) -> NodeUsage:
        """What the node's requests take from now on, until `rested`; `above` is that of the node that it is within, where
        that pays for it."""
        spent = NodeUsage(above or self.emit, seat.tally.note_sent)
        if seat.step.kind is not StepKind.WORKFLOW and seat.step.foreach is None:  # others have theirs within
            self._at_work[seat.node_id] = (seat.step.kind, spent)
        return spent

    def rested(self, node_id: NodeId) -> None:
        """The node is not at work any more."""
        self._at_work.pop(node_id, None)

    def in_flight(self) -> int:
        """Requests that are out, and steps of other kinds that are at work; not those that queue."""
        return sum(spent.in_flight if kind in ASKING else 1 for kind, spent in self._at_work.values())

    def context(self, seat: NodeInvocation, started: float, usage: NodeUsage) -> NodeContext:
        """What the node may use while it is carried out."""
        caller = Caller(
            lease=self.fence,
            node_id=seat.node_id,
            token=seat.scope.token,
            emit=usage,
            waits=usage.waits,
            budget=self._budget,
            tenant=self.run.tenant,
            redactor=self.redactor,
        )
        context = NodeContext(
            caller=caller,
            clock=self.clock,
            store=self.store,
            started_at=started,
            next_seq=self.next_seq,
            ride=self.ride,
            redactor=self.redactor,
            read_memo=not self.options.no_cache,
            write_memo=not self.options.no_cache,
            refresh=is_within(seat.node_id, self.options.refresh),
            standing=seat.standing,
            begun=seat.tally.note_sent,
        )
        return context if seat.missed is None else replace(context, missed=seat.missed)

    def record(
        self, seat: NodeInvocation, status: NodeStatus, *, parts: Mapping[str, Json] | None = None, **values: Json
    ) -> NodeRecord:
        """The row of a node that was not bound, as of now."""
        standing, mask = seat.standing, self.redactor.value
        return NodeRecord(
            run_id=self.run.run_id,
            node_id=seat.node_id,
            kind=seat.step.kind,
            status=status,
            parts=mask(dict(parts)) if parts else {},
            finished_at=self.clock.now(),
            seq=self.next_seq(),
            parent=standing.parent,
            place=standing.place,
            item=mask(standing.item),
            content=standing.content,
            epoch=self.fence.epoch,
            **{name: mask(value) for name, value in values.items()},
        )

    def tell(self, record: NodeRecord, seat: NodeInvocation, *, reason: str = "") -> None:
        """A node has ended, durably or as good as that: people may see it."""
        too_many = self._journal.ended(record, seat, reason=reason)
        if too_many is not None:
            self.end_early(too_many)

    def next_seq(self) -> int:
        """The next number in the order of completion."""
        self._seq += 1
        return self._seq

    # writes

    async def keep(self, record: NodeRecord) -> None:
        """Write a row and wait until it is durable, as is all that rode before it. Raises StoreError."""
        if self._riding:
            await asyncio.sleep(0)  # those tasks have not begun: their rows would be written behind this one
        await self.store.settle(nodes=(NodeWrite(fence=self.fence, node=record),))

    def ride(self, *records: NodeRecord) -> None:
        """Write rows with the next commit, without waiting for it."""
        writes = tuple(NodeWrite(fence=self.fence, node=record) for record in records)
        self.ride_along(self.store.settle(nodes=writes))

    def ride_along(self, write: Coroutine[object, object, None]) -> None:
        """Carry out a write without waiting for it; one that fails stops the run."""
        task = start_task(write)
        self._riding.add(task)
        task.add_done_callback(self._rode)

    async def caught_up(self, most: int = RIDES) -> None:
        """Wait until no more than so many of those writes are under way."""
        while len(self._riding) > most:
            await asyncio.wait(self._riding, return_when=asyncio.FIRST_COMPLETED)

    def _rode(self, task: asyncio.Task[None]) -> None:
        self._riding.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.broke(error)

    # tasks

    def spawn(self, work: Coroutine[object, object, None], dropped: Callable[[], None]) -> None:
        """Carry out some work beside everything else; `dropped` is called if it was cancelled before it began."""
        task = start_task(work)
        self._tasks.add(task)

        def over(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            error = None if task.cancelled() else task.exception()
            if error is not None:
                self.broke(error)
            if error is not None or task.cancelled():
                dropped()

        task.add_done_callback(over)

    def cancel(self) -> None:
        """Break off what is under way."""
        for task in list(self._tasks):
            task.cancel()

    async def land_tasks(self) -> None:
        """Wait until nothing is carried out any more."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def land(self) -> None:
        """Wait for all that is under way or being written."""
        while self._tasks or self._riding:
            await asyncio.wait(self._tasks | self._riding)

    # stopping

    def broke(self, error: BaseException) -> None:
        """Nothing can be kept any more, so nothing more is sent."""
        self.failure = self.failure or error
        self.token.stop(RunStatus.INTERRUPTED)

    def end_early(self, error: RunStopped) -> None:
        """To go on makes no sense; what is in flight may finish."""
        self.stopped = self.stopped or error
        self.token.stop(error.status)

    def stop_with(self, scope: Scope) -> None:
        """A graph has stopped by itself, under --fail-fast."""
        if scope.token.status is None:
            self.token.stop(RunStatus.FAILED)

    def failed(self, scope: Scope) -> None:
        """A node failed for good: under --fail-fast that ends the run."""
        if scope.fail_fast:
            self.token.stop(RunStatus.FAILED)


def _around(node: str) -> list[str]:
    """The nodes that a node is within: `posts[1].body` and `posts[1]` of `posts[1].body.lines`."""
    names = node.split(".")
    return [".".join(names[:count]) for count in range(1, len(names))]
