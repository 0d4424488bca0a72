"""What of the coordinator is pure."""

from __future__ import annotations

from flowllm.core.errors import BudgetExceeded, RunStopped, TooManyFailures
from flowllm.core.types import RunStatus
from flowllm.runtime.coordinator import spans


def test_records_are_read_in_few_reads_with_few_that_nobody_wants() -> None:
    assert spans([]) == []
    assert spans([5]) == [(5, 5)]
    assert spans([1, 2, 3, 10, 100, 101], gap=16) == [(1, 10), (100, 101)]
    assert spans([0, 17, 33], gap=16) == [(0, 0), (17, 33)]


def test_why_a_worker_stopped_is_told_as_if_it_had_been_found_here() -> None:
    stopped = BudgetExceeded("too dear", hint="pay more", status=RunStatus.FAILED)
    again = RunStopped.again(stopped.as_dict(), RunStatus.FAILED)
    assert isinstance(again, BudgetExceeded)
    assert (again.message, again.hint, again.status) == ("too dear", "pay more", RunStatus.FAILED)
    assert again.as_dict() == stopped.as_dict()
    failed = TooManyFailures("most failed", hint="see above")
    assert RunStopped.again(failed.as_dict(), failed.status).as_dict() == failed.as_dict()
    unknown = RunStopped.again({"type": "New", "message": "m", "hint": ""}, RunStatus.PAUSED)
    assert (type(unknown), unknown.status) == (RunStopped, RunStatus.PAUSED)
