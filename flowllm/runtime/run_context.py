"""What all graphs of one run attempt share: the run, its services, its writes, and the way to stop it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from flowllm.calls.base import Caller
from flowllm.calls.budget import RunBudget
from flowllm.core.cancel import CancelToken
from flowllm.core.clock import Clock
from flowllm.core.errors import RunStopped, TooManyFailures, fuller
from flowllm.core.events import Event, FailuresHigh, NodeEnded, NodeStarted
from flowllm.core.records import dataclass, field
from flowllm.core.redact import Redactor
from flowllm.core.types import REQUEST_KINDS, Json, NodeId, NodeStatus, OnError, RunId, RunStatus, StepKind, is_within
from flowllm.language.workflow import WorkflowBody
from flowllm.runtime.background import SuspendedNodes, TaskSet, WriteQueue, nodes_around
from flowllm.runtime.foreach_state import OpenItemLimit
from flowllm.runtime.graph_state import CompiledGraph
from flowllm.runtime.invocation import GraphScope, NodeInvocation, NodeUsage
from flowllm.runtime.options import RunOptions
from flowllm.steps.base import NodeContext, StepRunner
from flowllm.steps.save import Saver
from flowllm.storage.base import NodeRecord, RunLease, RunRecord, Store

WITHOUT_RUNNING_ROW = frozenset({StepKind.VALUE, StepKind.WORKFLOW})
"""Kinds of which no row says that they run: they take no time, or write one of their own."""

if TYPE_CHECKING:  # it needs the context to do its work
    from flowllm.runtime.coordinator import Coordinator

Execute: TypeAlias = "Callable[[RunContext, NodeInvocation], Awaitable[NodeRecord | None]]"
"""Executes a node of any kind. Gives its record, durable; None if the run stopped before. Does not raise."""

MOST_NOTED = 200
"""Nodes of which it is noted while they are executed what they wait for: by all processes together, as each is a row a second."""
LEAST_NOTED = 2
"""By each process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunServices:
    """What a run attempt works with."""

    kinds: Mapping[StepKind, StepRunner]
    store: Store
    clock: Clock
    redactor: Redactor
    emit: Callable[[Event], None]
    budget: RunBudget | None = None
    saver: Saver = field(default_factory=Saver)
    spool: Path | None = None
    """A file for standard input."""


class RunContext:
    """One for each attempt at a run."""

    def __init__(
        self,
        run: RunRecord,
        services: RunServices,
        execute: Execute,
        *,
        options: RunOptions,
        open_items: OpenItemLimit,
        stop_at_error_rate: float | None = None,
        retry_failed: bool = False,
    ) -> None:
        self.run = run
        self.options = options
        self.kinds = services.kinds
        self.store = services.store
        self.clock = services.clock
        self.redactor = services.redactor
        self.emit = services.emit
        self.saver = services.saver
        self.spool = services.spool
        self.execute = execute
        self.open_items = open_items
        self.retry_failed = retry_failed
        self.resumed = run.epoch > 1
        """Earlier attempts may have left something."""
        self.coordinator: Coordinator | None = None
        """Of a run that has workers."""
        self.reopened = frozenset(around for foreach in options.mended for around in nodes_around(foreach))
        """Nodes whose graphs hold an item that was mended: their stored result is not reused as a whole."""
        self.lease = RunLease(run_id=run.run_id, epoch=run.epoch)
        self.suspended = SuspendedNodes(self.store, run.run_id, self.clock)
        self.token = CancelToken()
        self.tasks = TaskSet(self.broke)
        self.writes = WriteQueue(self.store, self.lease, self.broke)
        self.failure: BaseException | None = None
        """What broke the run itself, such as a full disk."""
        self.stopped: RunStopped | None = None
        """Why the run cannot go on, such as its budget."""
        self._events = EventEmitter(stop_at_error_rate, emit=self.emit, clock=self.clock)
        self.budget = services.budget
        self._seq = run.totals.last_seq
        self._active: dict[NodeId, tuple[StepKind, NodeUsage]] = {}
        self._compiled: dict[int, CompiledGraph] = {}

    def compiled(self, body: WorkflowBody, graph: CompiledGraph | None = None) -> CompiledGraph:
        """The graph of a `workflow` step, compiled once; `graph` is that, where it is compiled already."""
        found = graph or self._compiled.get(id(body)) or CompiledGraph(body.graph)
        return self._compiled.setdefault(id(body), found)

    # nodes

    def started(self, invocation: NodeInvocation) -> float:
        """Emits that a node starts, of which a row says that it runs; gives the time, in Unix seconds."""
        now = self.clock.now()
        self.tell_started(invocation, now)
        if invocation.step.kind not in WITHOUT_RUNNING_ROW and invocation.step.foreach is None:
            self.store.note_running(self.lease, self._begun(invocation, now))
        return now

    def tell_started(self, invocation: NodeInvocation, at: float) -> None:
        """Emits that a node started."""
        self.emit(
            NodeStarted(
                run_id=self.run.run_id,
                at=at,
                node_id=invocation.node_id,
                kind=invocation.step.kind,
                parent=invocation.position.parent,
                place=invocation.position.index,
            )
        )

    def _begun(self, invocation: NodeInvocation, now: float) -> NodeRecord:
        position = invocation.position
        return NodeRecord(
            run_id=self.run.run_id,
            node_id=invocation.node_id,
            kind=invocation.step.kind,
            status=NodeStatus.RUNNING,
            started_at=now,
            parent=position.parent,
            place=position.index,
            content=position.content,
            epoch=self.lease.epoch,
        )

    def activate(self, invocation: NodeInvocation, parent: Callable[[Event], None] | None = None) -> NodeUsage:
        """Counts the node's requests from now on, until `deactivate`; `parent` is the usage of the node around it, where
        that pays for it."""
        usage = NodeUsage(parent or self.emit, invocation.totals.note_sent)
        usage.waits.update(invocation.waits or {})
        if (
            invocation.step.kind is not StepKind.WORKFLOW and invocation.step.foreach is None
        ):  # others have theirs within
            self._active[invocation.node_id] = (invocation.step.kind, usage)
        return usage

    def deactivate(self, node_id: NodeId) -> None:
        """The node is not executing any more."""
        self._active.pop(node_id, None)

    def waits(self, processes: int = 1) -> dict[NodeId, dict[str, float]]:
        """What nodes that are executing have waited so far, by reason: of as many as people look at, those that began first.
        `processes`: so many write that."""
        now, most = self.clock.now(), max(LEAST_NOTED, MOST_NOTED // processes)
        found = ((node, usage.waits_at(now)) for node, (_, usage) in islice(self._active.items(), most))
        return {node: waits for node, waits in found if waits}

    def in_flight(self) -> int:
        """Requests that are out, and steps of other kinds that are executing; not those that queue. Of workers the requests."""
        elsewhere = 0 if self.coordinator is None else self.coordinator.in_flight
        return elsewhere + sum(usage.in_flight if kind in REQUEST_KINDS else 1 for kind, usage in self._active.values())

    def node_context(self, invocation: NodeInvocation, started: float, usage: NodeUsage) -> NodeContext:
        """What the node may use while it is executed."""
        caller = Caller(
            lease=self.lease,
            node_id=invocation.node_id,
            token=invocation.scope.token,
            emit=usage,
            waits=usage.waits,
            budget=self.budget,
            tenant=self.run.tenant,
            redactor=self.redactor,
        )
        return NodeContext(
            caller=caller,
            clock=self.clock,
            store=self.store,
            started_at=started,
            next_seq=self.next_seq,
            ride=self.writes.enqueue,
            redactor=self.redactor,
            read_memo=not self.options.no_cache,
            write_memo=not self.options.no_cache,
            refresh=is_within(invocation.node_id, self.options.refresh),
            position=invocation.position,
            begun=invocation.totals.note_sent,
            missed=invocation.totals.note_missed,
        )

    def record(
        self, invocation: NodeInvocation, status: NodeStatus, *, parts: Mapping[str, Json] | None = None, **values: Json
    ) -> NodeRecord:
        """The row of a node that was not bound, as of now, secrets masked."""
        position, item = invocation.position, invocation.position.item
        if not self.redactor.is_empty:
            mask = self.redactor.value
            parts, item = None if parts is None else self.redactor.parts(parts), mask(item)
            values = {name: mask(value) for name, value in values.items()}
        return NodeRecord(
            run_id=self.run.run_id,
            node_id=invocation.node_id,
            kind=invocation.step.kind,
            status=status,
            parts={} if parts is None else parts,
            finished_at=self.clock.now(),
            seq=self.next_seq(),
            parent=position.parent,
            place=position.index,
            item=item,
            content=position.content,
            epoch=self.lease.epoch,
            **values,
        )

    def ended(
        self, record: NodeRecord, invocation: NodeInvocation, *, reason: str = "", elsewhere: bool = False
    ) -> None:
        """Emits that a node has ended, once its record is durable or enqueued; stops the run if too many have failed.
        `elsewhere`: a worker executed it, and counts it."""
        too_many = self._events.node_ended(record, invocation, reason=reason, elsewhere=elsewhere)
        if too_many is not None:
            self.end_early(too_many)

    def counted_elsewhere(self, counts: Mapping[str, int]) -> None:
        """A worker has carried out so many nodes: see `FailureShare.take`."""
        too_many = self._events.count_all(self.run.run_id, counts)
        if too_many is not None:
            self.end_early(too_many)

    def take_counts(self) -> dict[str, int]:
        """How many nodes were carried out since this was asked last, and how many of them failed."""
        return self._events.failures.take()

    def next_seq(self) -> int:
        """The next number in the order of completion."""
        self._seq += 1
        return self._seq

    async def idle(self) -> None:
        """Wait until no task and no write is left."""
        while self.tasks or self.writes:
            await self.tasks.wait()
            await self.writes.wait(most=0)

    # stopping

    def broke(self, error: BaseException) -> None:
        """Nothing can be kept any more, so nothing more is sent."""
        self.failure = fuller(self.failure, error)
        self.token.stop(RunStatus.INTERRUPTED)

    def end_early(self, error: RunStopped) -> None:
        """The run cannot go on; what is in flight may finish."""
        self.stopped = self.stopped or error
        self.token.stop(error.status)

    def failed(self, scope: GraphScope) -> None:
        """A node failed for good: under --fail-fast that ends the run."""
        if scope.fail_fast:
            self.token.stop(RunStatus.FAILED)


ALERT_SHARE = 0.05
LEAST = 20
"""Nodes below which a share means nothing."""


class FailureShare:
    """Counts nodes as they end. Pure."""

    def __init__(self, *, stop_at: float | None = None) -> None:
        """`stop_at` is the share at which the run ends, 0 to 1; None: never."""
        self._stop_at = stop_at
        self.ended = 0
        self.failed = 0
        self.items = 0
        """Of those that ended, items of a foreach."""
        self._alerted = False
        self._stopped = False

    @property
    def share(self) -> float:
        """0 to 1."""
        return self.failed / self.ended if self.ended else 0.0

    def count(self, *, failed: bool, item: bool = False) -> None:
        """One more node was carried out."""
        self.ended += 1
        self.items += item
        self.failed += failed

    def add(self, *, ended: int, failed: int, items: int) -> None:
        """So many more were, in another process."""
        self.ended += ended
        self.failed += failed
        self.items += items

    def take(self) -> dict[str, int]:
        """All that was counted, which is then forgotten."""
        counts = {"ended": self.ended, "failed": self.failed, "items": self.items}
        self.ended = self.failed = self.items = 0
        return counts

    def alert(self) -> bool:
        """The share has just passed the mark; true once."""
        if self._alerted or self.ended < LEAST or self.share <= ALERT_SHARE:
            return False
        self._alerted = True
        return True

    def stop(self) -> bool:
        """The share has just passed what the run allows; true once."""
        if self._stop_at is None or self._stopped or self.ended < LEAST or self.share <= self._stop_at:
            return False
        self._stopped = True
        return True


class EventEmitter:
    """Turns records of nodes into events, one each."""

    def __init__(self, stop_at_error_rate: float | None, *, emit: Callable[[Event], None], clock: Clock) -> None:
        self.failures = FailureShare(stop_at=stop_at_error_rate)
        self._emit = emit
        self._clock = clock

    def node_ended(
        self, record: NodeRecord, invocation: NodeInvocation, *, reason: str = "", elsewhere: bool = False
    ) -> TooManyFailures | None:
        """Emits that a node has ended; gives the reason why the run should end too, if it should."""
        scope = invocation.scope
        scope.done += 1
        works = invocation.step.kind is not StepKind.WORKFLOW and record.counts is None
        too_many = self._count(record) if works and not elsewhere else None
        forgiven = invocation.step.on_error is OnError.CONTINUE and record.counts is None
        self._emit(
            NodeEnded(
                run_id=record.run_id,
                at=self._clock.now(),
                node_id=record.node_id,
                status=record.status,
                done=scope.done,
                total=scope.total,
                kind=record.kind,
                cached=record.cached,
                reused=record.reused,
                reason=reason,
                error=record.error,
                tolerated=record.status is NodeStatus.FAILED and forgiven,
                usage=record.usage,
                cost_usd=record.cost_usd,
                saved_usd=record.saved_usd,
                queue_s=record.queue_s,
                call_s=record.call_s,
                attempts=record.attempts,
                truncated=record.truncated,
                model=record.model,
                provider=record.provider,
                parent=record.parent,
                place=record.place,
                counts=None if record.counts is None else record.counts.as_dict(),
                waits=record.waits,
                elsewhere=elsewhere,
            )
        )
        return too_many

    def count_all(self, run_id: RunId, counts: Mapping[str, int]) -> TooManyFailures | None:
        """Nodes that a worker has carried out."""
        self.failures.add(**counts)
        return self._judge(run_id)

    def _count(self, record: NodeRecord) -> TooManyFailures | None:
        if record.reused or record.status not in {NodeStatus.SUCCEEDED, NodeStatus.FAILED}:
            return None
        self.failures.count(failed=record.status is NodeStatus.FAILED, item=record.place is not None)
        return self._judge(record.run_id)

    def _judge(self, run_id: RunId) -> TooManyFailures | None:
        failures = self.failures
        if failures.alert():
            self._emit(
                FailuresHigh(
                    run_id=run_id,
                    at=self._clock.now(),
                    failed=failures.failed,
                    ended=failures.ended,
                    share=failures.share,
                    items=failures.items,
                )
            )
        if not failures.stop():
            return None
        return TooManyFailures(
            f"{failures.failed:,} of {failures.ended:,} nodes failed, more than `stop_at_error_rate` allows",
            hint="see the errors above; `flowllm resume` goes on with what is left",
        )
