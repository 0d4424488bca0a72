"""What becomes of nodes, told to people, and how many of them fail."""

from __future__ import annotations

from collections.abc import Callable

from flowllm.core.clock import Clock
from flowllm.core.errors import TooManyFailures
from flowllm.core.events import Event, FailuresHigh, NodeEnded
from flowllm.core.types import NodeStatus, OnError, StepKind
from flowllm.runtime.failure_share import FailureShare
from flowllm.runtime.invocation import NodeInvocation
from flowllm.storage.base import NodeRecord


class EventEmitter:
    """Turns records of nodes into events, one each."""

    def __init__(self, failures: FailureShare, *, emit: Callable[[Event], None], clock: Clock) -> None:
        self._failures = failures
        self._emit = emit
        self._clock = clock

    def ended(self, record: NodeRecord, seat: NodeInvocation, *, reason: str = "") -> TooManyFailures | None:
        """Tell of a node that has ended, durably; gives why the run should end too, if it should."""
        scope = seat.scope
        scope.done += 1
        works = seat.step.kind is not StepKind.WORKFLOW and record.counts is None
        too_many = self._count(record) if works else None
        forgiven = seat.step.on_error is OnError.CONTINUE and record.counts is None
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
