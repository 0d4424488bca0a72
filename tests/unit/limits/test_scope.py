from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowllm.core.types import Limits, WindowLimit
from flowllm.limits.rates import BUNCHING, STEADY
from flowllm.limits.scope import LimitScope


def scope(rate: float | None = None, **limits: object) -> LimitScope:
    made = LimitScope()
    made.tune(Limits(**limits), rate, 0.0)
    return made


def test_without_limits_nothing_waits() -> None:
    made = scope()
    assert made.hold(1e9, 0) is None
    assert not made.too_large(1e9)
    assert made.rate is None


def test_a_burst_is_a_little_smaller_than_what_the_server_takes() -> None:
    made = scope(10.0, requests_per_minute=600, burst=10)
    assert made.level(0) == pytest.approx(10 - 10 * BUNCHING)
    assert made.rate == pytest.approx(10)
    assert made._admission._bucket.rate == pytest.approx(10 * STEADY)


def test_a_burst_that_is_not_written_is_a_second_of_the_rate_and_one_at_least() -> None:
    assert scope(10.0, requests_per_minute=600).level(0) == pytest.approx(9.5)
    assert scope(0.1, requests_per_minute=6).level(0) == 1


def test_a_rate_that_was_learned_has_a_small_burst() -> None:
    assert scope(20.0).level(0) == pytest.approx(4)


def test_a_strict_window_is_a_little_longer_than_the_servers() -> None:
    made = scope(windows=(WindowLimit(requests=2, per=1.0),))
    made.take(0, 0)
    made.take(0, 0)
    assert made.hold(0, 0).seconds == pytest.approx(1 + BUNCHING)


def test_new_limits_keep_what_was_used() -> None:
    made = scope(1.0, requests_per_minute=60, burst=2, windows=(WindowLimit(requests=1, per=9.0),))
    made.take(0, 0)
    limits = Limits(requests_per_minute=30, burst=2, windows=(WindowLimit(requests=1, per=9.0),))
    made.tune(limits, 0.5, 0.0)
    assert made.hold(0, 0).seconds == pytest.approx(9 + BUNCHING)
    assert made.level(0) < 1


def test_tokens_are_reserved_and_what_was_not_used_comes_back_once() -> None:
    made = scope(tokens_per_minute=600)
    made.take(500, 0)
    assert made.reserved == 500
    assert made.hold(200, 0).seconds == pytest.approx(10, rel=0.02)
    made.give_back(500, 100, 0, sent=True)
    assert made.reserved == 0
    assert made.hold(499, 0) is None
    assert made.hold(501, 0)


def test_more_used_than_reserved_is_paid_back_by_waiting() -> None:
    made = scope(tokens_per_minute=600)
    made.take(500, 0)
    made.give_back(500, 800, 0, sent=True)
    assert made.hold(1, 0).seconds == pytest.approx(20, rel=0.02)


def test_a_request_that_was_not_sent_gives_its_turn_back() -> None:
    made = scope(1.0, requests_per_minute=60, burst=1)
    made.take(0, 0)
    assert made.hold(0, 0)
    made.give_back(0, 0, 0, sent=False)
    assert made.hold(0, 0) is None


def test_a_request_as_large_as_the_limit_may_go_and_a_larger_one_never() -> None:
    made = scope(tokens_per_minute=600)
    assert not made.too_large(600)
    assert made.hold(600, 0) is None
    assert made.too_large(601)


def test_the_server_may_lower_what_is_left_and_never_raise_it() -> None:
    made = scope(10.0, requests_per_minute=600, burst=10)
    made.lower_requests(3, 0)
    assert made.level(0) == 3
    made.lower_requests(100, 0)
    assert made.level(0) == 3
    assert made.wire.level(0) == 3


@given(st.lists(st.tuples(st.floats(0, 2), st.floats(0, 300), st.floats(0, 400)), max_size=60))
def test_reservations_balance_to_zero(requests: list[tuple[float, float, float]]) -> None:
    made, now, in_flight = scope(1.0, requests_per_minute=60, tokens_per_minute=600), 0.0, []
    for gap, tokens, used in requests:
        now += gap
        if made.hold(tokens, now) is None:
            made.take(tokens, now)
            in_flight.append((tokens, used))
        elif in_flight:
            made.give_back(*in_flight.pop(0), now, sent=True)
    for tokens, used in in_flight:
        made.give_back(tokens, used, now, sent=True)
    assert made.in_flight == 0
    assert made.reserved == pytest.approx(0, abs=1e-6)
