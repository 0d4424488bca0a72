from __future__ import annotations

from flowllm.core.types import RunStatus
from flowllm.runtime.halt import Halt


def test_it_shuts_its_gate_tells_its_listeners_and_is_for_good() -> None:
    halt, heard = Halt(), []
    halt.listen("me", heard.append)
    assert (halt.status, halt.gate.is_open) == (None, True)
    halt.call(RunStatus.PAUSED)
    halt.call(RunStatus.FAILED)
    assert (halt.status, halt.gate.is_open, heard) == (RunStatus.PAUSED, False, [RunStatus.PAUSED])


def test_who_listens_too_late_hears_at_once_and_who_forgot_hears_nothing() -> None:
    halt, heard = Halt(), []
    halt.listen("gone", lambda _: heard.append("gone"))
    halt.forget("gone")
    halt.call(RunStatus.FAILED)
    halt.listen("late", heard.append)
    assert heard == [RunStatus.FAILED]


def test_one_below_is_called_with_it_and_alone_calls_nobody_above() -> None:
    above = Halt()
    first, second = above.below(), above.below()
    first.call(RunStatus.INTERRUPTED)
    assert (above.status, second.status) == (None, None)
    above.call(RunStatus.PAUSED)
    assert (first.status, second.status) == (RunStatus.INTERRUPTED, RunStatus.PAUSED)
    assert not second.gate.is_open
    assert above.below().status is RunStatus.PAUSED


def test_one_that_is_forgotten_above_goes_its_own_way() -> None:
    above = Halt()
    below = above.below()
    above.forget(below)
    above.call(RunStatus.FAILED)
    assert below.status is None
