from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowllm.limits.rates import Bucket


def test_starts_full_and_refills_at_its_rate() -> None:
    bucket = Bucket(rate=2, capacity=10, now=0)
    bucket.take(10, 0)
    assert bucket.wait(4, 0) == pytest.approx(2.0)
    assert bucket.wait(4, 1.5) == pytest.approx(0.5)
    assert bucket.wait(4, 2) == 0


def test_saves_up_no_more_than_its_capacity() -> None:
    bucket = Bucket(rate=1, capacity=5, now=0)
    assert bucket.level(1_000_000) == 5
    bucket.give(100, 1_000_000)
    assert bucket.level(1_000_000) == 5


def test_a_debt_is_paid_back_by_waiting() -> None:
    bucket = Bucket(rate=1, capacity=5, now=0)
    bucket.take(8, 0)
    assert bucket.wait(1, 0) == pytest.approx(4.0)


def test_a_clock_that_stands_still_gives_nothing() -> None:
    bucket = Bucket(rate=1, capacity=1, now=5)
    bucket.take(1, 5)
    assert bucket.level(4) == 0


@given(st.lists(st.tuples(st.floats(0.001, 3), st.integers(1, 5)), min_size=1, max_size=200))
def test_never_more_than_rate_and_burst_in_any_span(arrivals: list[tuple[float, int]]) -> None:
    bucket, now, taken = Bucket(rate=3, capacity=6, now=0), 0.0, []
    for gap, amount in arrivals:
        now += gap + bucket.wait(amount, now + gap)
        bucket.take(amount, now)
        taken.append((now, amount))
    for start, (begin, _) in enumerate(taken):
        total = 0
        for end, amount in taken[start:]:
            total += amount
            assert total <= 6 + 3 * (end - begin) + 1e-6
