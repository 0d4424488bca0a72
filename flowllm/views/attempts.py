"""Requests as they are seen by now."""

from __future__ import annotations

from flowllm.core.records import replace
from flowllm.core.types import AttemptStatus, RunStatus, Usage
from flowllm.storage.base import AttemptRecord, RunRecord


def as_seen(attempt: AttemptRecord, run: RunRecord) -> AttemptRecord:
    """A request that was in flight when its process ended may have been paid for: its usage is unknown."""
    if attempt.status is AttemptStatus.SENT and run.status is not RunStatus.RUNNING:
        free = attempt.reserved_usd == 0
        return replace(attempt, status=AttemptStatus.UNKNOWN, usage=Usage.unknown(), cost_usd=0.0 if free else None)
    return attempt
