from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flowllm.limits.breaker import FIRST_COOLDOWN, LEAST, LONGEST_COOLDOWN, NARROWING, WINDOW, Breaker, BreakerState


def opened(now: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(LEAST):
        breaker.failed(now)
    assert breaker.state is BreakerState.OPEN
    return breaker


def test_single_failures_change_nothing() -> None:
    breaker = Breaker()
    for at in range(100):
        (breaker.failed if at % 3 == 0 else breaker.succeeded)(at / 100)
    assert breaker.state is BreakerState.CLOSED
    assert breaker.width(10, 1.0) == 10
    assert not breaker.troubled


def test_failures_in_a_row_narrow_the_passage_before_it_shuts() -> None:
    breaker, widths = Breaker(), []
    for _ in range(NARROWING + 4):
        breaker.failed(0)
        widths.append(breaker.width(10, 0))
    assert widths == [10, 10, 10, 5, 2, 1, 1, 1]
    assert not breaker.troubled, "a few failures are still those requests' own"
    breaker.succeeded(0)
    assert breaker.width(10, 0) == 10


def test_few_outcomes_mean_nothing() -> None:
    breaker = Breaker()
    for _ in range(LEAST - 1):
        breaker.failed(0)
    assert breaker.state is BreakerState.CLOSED


def test_failures_of_long_ago_do_not_count() -> None:
    breaker = Breaker()
    for _ in range(LEAST - 1):
        breaker.failed(0)
    breaker.failed(WINDOW)
    assert breaker.state is BreakerState.CLOSED


def test_an_open_one_lets_nobody_through_until_its_cooldown_is_over_and_then_one() -> None:
    breaker = opened()
    assert breaker.width(10, 0.5) == 0
    assert breaker.wait(0.5) == FIRST_COOLDOWN - 0.5
    assert breaker.width(10, FIRST_COOLDOWN) == 1
    assert breaker.state is BreakerState.PROBING
    assert breaker.wait(FIRST_COOLDOWN) == 0


def test_each_probe_that_fails_doubles_the_cooldown_up_to_the_longest() -> None:
    breaker, now, waits = opened(), 0.0, []
    for _ in range(8):
        waits.append(breaker.wait(now))
        now += waits[-1]
        assert breaker.width(10, now) == 1
        breaker.failed(now)
    assert waits == [2, 4, 8, 16, 32, 60, 60, 60]
    assert waits[-1] == LONGEST_COOLDOWN


def test_after_a_good_probe_the_passage_widens_with_each_success() -> None:
    breaker, now = opened(), FIRST_COOLDOWN
    breaker.width(100, now)
    widths = []
    while breaker.state is not BreakerState.CLOSED:
        breaker.succeeded(now)
        widths.append(breaker.width(100, now))
    assert widths == [*range(2, LEAST), 100]


def test_a_failure_while_it_widens_shuts_it_again_with_a_short_cooldown() -> None:
    breaker = opened()
    breaker.width(10, 2)
    breaker.failed(2)
    breaker.width(10, 6)
    breaker.succeeded(6)
    breaker.failed(6.5)
    assert breaker.state is BreakerState.OPEN
    assert breaker.wait(6.5) == FIRST_COOLDOWN


@given(st.lists(st.tuples(st.floats(0, 20), st.booleans()), max_size=200), st.integers(1, 100))
def test_the_passage_is_never_wider_than_allowed_nor_shut_for_ever(
    outcomes: list[tuple[float, bool]], most: int
) -> None:
    breaker, now = Breaker(), 0.0
    for gap, fails in outcomes:
        now += gap
        width = breaker.width(most, now)
        assert 0 <= width <= most
        if width == 0:
            assert 0 < breaker.wait(now) <= LONGEST_COOLDOWN
            now += breaker.wait(now)
            assert breaker.width(most, now) >= 1
        (breaker.failed if fails else breaker.succeeded)(now)
