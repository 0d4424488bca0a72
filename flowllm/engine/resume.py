"""Whether what a node did in an earlier sitting of the run still holds. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowllm.spec.workflow import LlmBody
from flowllm.types import NodeStatus, OnError, OnTruncated

if TYPE_CHECKING:
    from flowllm.spec.workflow import Step
    from flowllm.store.base import NodeRecord

UNSAVED = "unsaved"
"""Stands in the error of a node whose output is there, and could not be saved."""


def holds(before: NodeRecord | None, *, key: str, step: Step, retry_failed: bool) -> bool:
    """The earlier outcome stands: same key, and it succeeded, or failed as its step puts up with.

    Skipped nodes need no rule: their condition is computed again, for nothing.
    """
    if before is None or before.key != key:
        return False
    if before.status is NodeStatus.SUCCEEDED or unsaved(before):
        return not (before.truncated and refuses_truncated(step))
    return before.status is NodeStatus.FAILED and step.on_error is OnError.CONTINUE and not retry_failed


def unsaved(before: NodeRecord) -> bool:
    """It has its output, which only could not be written where `save` says."""
    return before.status is NodeStatus.FAILED and UNSAVED in (before.error or {})


def refuses_truncated(step: Step) -> bool:
    """An answer that was cut at its token limit is a failure of this step."""
    return isinstance(step.body, LlmBody) and step.body.on_truncated is OnTruncated.FAIL
