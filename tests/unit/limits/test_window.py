from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowllm.limits.rates import Window


def test_as_many_as_the_limit_go_at_once_and_then_one_span_later() -> None:
    window = Window(limit=3, span=10)
    for _ in range(3):
        assert window.wait(0) == 0
        window.take(0)
    assert window.wait(4) == 6
    assert window.wait(10) == 0


def test_those_that_went_longer_ago_no_longer_count() -> None:
    window = Window(limit=2, span=1)
    window.take(0)
    window.take(0.6)
    assert window.wait(0.9) > 0
    assert window.wait(1.0) == 0
    window.take(1.0)
    assert window.wait(1.0) == pytest.approx(0.6)


@given(st.integers(1, 6), st.floats(0.1, 5), st.lists(st.floats(0, 3, allow_nan=False), min_size=1, max_size=80))
def test_never_more_than_the_limit_in_any_span_wherever_it_begins(limit: int, span: float, gaps: list[float]) -> None:
    """A counter that is reset each span lets twice as many through around the reset."""
    window, now, taken = Window(limit=limit, span=span), 0.0, []
    for gap in gaps:
        now += gap
        while wait := window.wait(now):
            now += wait
        window.take(now)
        taken.append(now)
    for begin in taken:
        assert sum(begin <= at < begin + span - 1e-9 for at in taken) <= limit


@given(st.integers(1, 6), st.lists(st.floats(0.01, 1), min_size=8, max_size=40))
def test_nobody_waits_longer_than_the_window_needs(limit: int, gaps: list[float]) -> None:
    window, now, taken = Window(limit=limit, span=1), 0.0, []
    for gap in gaps:
        now += gap
        due = max(now, taken[-limit] + 1 if len(taken) >= limit else now)
        assert now + window.wait(now) == pytest.approx(due)
        now = due
        window.take(now)
        taken.append(now)
