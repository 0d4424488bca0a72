"""Emits how nodes end, and counts how many of them fail."""

from __future__ import annotations

from collections.abc import Callable

from flowllm.core.clock import Clock
from flowllm.core.errors import TooManyFailures
from flowllm.core.events import Event, FailuresHigh, NodeEnded
from flowllm.core.types import NodeStatus, OnError, StepKind
from flowllm.runtime.invocation import NodeInvocation
from flowllm.storage.base import NodeRecord

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
        self._failures = FailureShare(stop_at=stop_at_error_rate)
        self._emit = emit
        self._clock = clock

    def node_ended(self, record: NodeRecord, invocation: NodeInvocation, *, reason: str = "") -> TooManyFailures | None:
        """Emits that a node has ended; gives the reason why the run should end too, if it should."""
        scope = invocation.scope
        scope.done += 1
        works = invocation.step.kind is not StepKind.WORKFLOW and record.counts is None
        too_many = self._count(record) if works else None
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
                queue_s=record.queue_s,
                call_s=record.call_s,
                attempts=record.attempts,
                truncated=record.truncated,
                model=record.model,
                parent=record.parent,
                place=record.place,
                counts=None if record.counts is None else record.counts.as_dict(),
                waits=record.waits,
            )
        )
        return too_many

    def _count(self, record: NodeRecord) -> TooManyFailures | None:
        if record.reused or record.status not in {NodeStatus.SUCCEEDED, NodeStatus.FAILED}:
            return None
        failures = self._failures
        failures.count(failed=record.status is NodeStatus.FAILED, item=record.place is not None)
        if failures.alert():
            self._emit(
                FailuresHigh(
                    run_id=record.run_id,
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
            f"{failures.failed} of {failures.ended} nodes failed, more than `stop_at_error_rate` allows",
            hint="see the errors above; `flowllm resume` goes on with what is left",
        )
