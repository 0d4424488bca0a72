from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flowllm.limits.adaptive import CUT, DEEPEST, DOUBLING, LEAST_GUESS, PLATEAU, SLOWEST, AdaptiveRate


def accepting(rate: AdaptiveRate, per_second: int, begin: float, end: float) -> None:
    for number in range(int((end - begin) * per_second)):
        rate.accepted(begin + number / per_second)


def test_a_server_that_never_complains_is_never_slowed_down() -> None:
    rate = AdaptiveRate()
    accepting(rate, 50, 0, 10)
    assert rate.rate(10) is None
    assert not rate.learned


def test_the_first_429_gives_a_guess_that_doubles_every_other_second() -> None:
    rate = AdaptiveRate()
    accepting(rate, 20, 0, 3)
    assert rate.refused(3, sent_at=2.9)
    guess = rate.rate(3)
    assert guess == pytest.approx(20 * CUT, rel=0.1)
    assert rate.rate(3 + DOUBLING) == pytest.approx(2 * guess)


def test_a_429_before_any_answer_does_not_stop_everything_for_a_minute() -> None:
    """A server that takes ten seconds for an answer has accepted nothing when its first 429 comes."""
    rate = AdaptiveRate()
    rate.refused(0.1, sent_at=0.05)
    assert rate.rate(0.1) == pytest.approx(LEAST_GUESS * CUT)


def test_a_stray_429_under_a_limit_that_was_written_costs_little() -> None:
    rate = AdaptiveRate()
    rate.refused(0.1, sent_at=0.05, believed=10.0)
    assert rate.rate(0.1) == pytest.approx(10 * DEEPEST * CUT)
    assert rate.rate(0.1 + PLATEAU) == pytest.approx(10 * DEEPEST)


def test_one_round_trip_cuts_once_however_many_429s_it_brings() -> None:
    rate = AdaptiveRate()
    accepting(rate, 20, 0, 3)
    assert rate.refused(3, sent_at=2.95)
    before = rate.rate(3.05)
    assert not any(rate.refused(3.05, sent_at=2.9 + n / 1000) for n in range(100))
    assert rate.rate(3.05) == before
    assert rate.refused(3.1, sent_at=3.01)


def test_after_a_cut_the_rate_is_back_after_the_plateau_and_then_grows_past_it() -> None:
    rate = AdaptiveRate()
    rate.start_at(10, 0)
    accepting(rate, 10, 5, 8)
    rate.refused(8, sent_at=7.9)
    top = rate.rate(8) / CUT
    assert rate.rate(8 + PLATEAU) == pytest.approx(top)
    assert rate.rate(8 + 5 * PLATEAU) > 2 * top


def test_it_never_passes_its_ceiling_nor_stops_altogether_nor_stays_at_its_slowest() -> None:
    rate = AdaptiveRate(ceiling=5)
    assert rate.rate(0) == 5
    for number in range(200):
        rate.refused(float(number), sent_at=number - 0.01)
    assert rate.rate(199) == pytest.approx(SLOWEST * CUT)
    assert rate.rate(199 + 300) == 5


def test_what_an_earlier_run_learned_is_taken_up() -> None:
    rate = AdaptiveRate()
    rate.start_at(7, 100)
    assert rate.learned
    assert rate.rate(100) == pytest.approx(7, rel=0.1)


@example([(1.0, True, 0.0, None), (1.0, True, 0.0, 3.0)], None)
@given(
    st.lists(
        st.tuples(st.floats(0.001, 30), st.booleans(), st.floats(0, 10), st.none() | st.floats(0.1, 100)), max_size=100
    ),
    st.none() | st.floats(0.1, 100),
)
def test_the_rate_is_finite_positive_and_below_its_ceiling_whatever_happens(
    outcomes: list[tuple[float, bool, float, float | None]], ceiling: float | None
) -> None:
    rate, now = AdaptiveRate(ceiling=ceiling), 0.0
    for gap, refused, trip, believed in outcomes:
        now += gap
        if refused:
            before = rate.rate(now) if rate.learned else None
            rate.refused(now, sent_at=now - trip, believed=believed)
            after = rate.rate(now)
            assert before is None or after is None or after <= max(before, SLOWEST) + 1e-9
        else:
            rate.accepted(now)
        found = rate.rate(now)
        if found is not None:
            assert 0 < found < float("inf")
            assert ceiling is None or found <= ceiling
