from __future__ import annotations

import pytest

from flowllm.limits.queue import AdmissionQueue
from flowllm.types import Priority


def test_those_who_leave_are_passed_over_and_not_counted() -> None:
    queue: AdmissionQueue[str] = AdmissionQueue()
    first = queue.push("a", Priority.NORMAL)
    queue.push("b", Priority.NORMAL)
    queue.leave(first)
    queue.leave(first)
    assert len(queue) == 1
    assert queue.pop() == "b"
    assert queue.peek() is None
    with pytest.raises(IndexError):
        queue.pop()


def test_leaving_after_having_gone_changes_nothing() -> None:
    queue: AdmissionQueue[str] = AdmissionQueue()
    ticket = queue.push("a", Priority.HIGH)
    assert queue.pop() == "a"
    queue.leave(ticket)
    queue.push("b", Priority.LOW)
    assert len(queue) == 1
