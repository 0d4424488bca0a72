"""Whether what a node did in an earlier attempt of the run still holds. Pure."""

from __future__ import annotations

from flowllm.core.types import NodeStatus, OnError, OnTruncated
from flowllm.language.workflow import LlmBody, Step
from flowllm.storage.base import NodeRecord

UNSAVED = "unsaved"
"""Stands in the error of a node whose output is there, and could not be saved."""


UNJUDGED = "unjudged"
"""Stands in the error of an item whose output is there, and of which `accept` could not tell whether to take it."""


def holds(before: NodeRecord | None, *, key: str, step: Step, retry_failed: bool) -> bool:
    """The earlier outcome stands: same key, and it succeeded, or failed as its step tolerates.

    Skipped nodes need no policy: their condition is computed again, for nothing.
    """
    if before is None or before.key != key:
        return False
    if before.status is NodeStatus.SUCCEEDED or has_output(before):
        return not (before.truncated and refuses_truncated(step))
    return before.status is NodeStatus.FAILED and step.on_error is OnError.CONTINUE and not retry_failed


def has_output(before: NodeRecord) -> bool:
    """It failed, and has its output all the same: only what was to be done with that failed."""
    error = before.error or {}
    return before.status is NodeStatus.FAILED and (UNSAVED in error or UNJUDGED in error)


def reached_before(foreach: NodeRecord | None) -> bool:
    """An earlier attempt found as many items as `accept` wants."""
    return foreach is not None and foreach.status is NodeStatus.SUCCEEDED and bool(foreach.parts.get("chosen"))


def refuses_truncated(step: Step) -> bool:
    """An answer that was cut at its token limit is a failure of this step."""
    return isinstance(step.body, LlmBody) and step.body.on_truncated is OnTruncated.FAIL
