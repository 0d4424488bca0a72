from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowllm.limits.concurrency import CAREFUL, CEILING, FIRST, FLOOR, UNHEARD, Concurrency
from tests.support.closed_loop import Batching, Refusing, Slots, play

QUIET = {"noise": 0.02}
NOISY = {"noise": 0.3, "lengths": 0.7}
"""As of answers between 50 and 800 tokens."""


def test_sixty_four_slots_are_filled_in_time_and_hardly_overfilled() -> None:
    best = play(Slots(64), 320, written=64)
    for noise in (0.0, 0.003, 0.02):
        found = play(Slots(64), 320, noise=noise)
        assert found.took <= 1.2 * (best.took + 0.1), "0.1 s is what any run takes besides"
        assert found.p99 <= 1.3 * best.p99
    assert play(Slots(64), 320, written=10).took == pytest.approx(32), "what it was without"


@pytest.mark.parametrize("slots", [1, 4, 8, 20, 64, 200])
@pytest.mark.parametrize("kind", [QUIET, NOISY])
def test_it_settles_near_the_slots_of_a_server_that_queues(slots: int, kind: dict) -> None:
    for seed in range(2):
        items = min(8000, 100 * slots + 300)
        found = play(Slots(slots), items, seed=seed, **kind)
        assert max(FLOOR, 0.75 * slots) <= found.late <= max(2 * FLOOR, 1.25 * slots)
        assert found.took <= 1.4 * play(Slots(slots), items, seed=seed, written=slots, **kind).took


def test_where_answers_vary_wildly_it_neither_collapses_nor_explodes() -> None:
    for seed in range(4):
        found = play(Slots(64), 6400, noise=1.0, lengths=1.0, seed=seed)
        assert 40 <= found.late <= 100
        assert all(20 <= level <= 130 for at, level in found.levels if at > 3)


def test_a_server_that_batches_is_given_more_while_that_brings_more() -> None:
    for half in (16, 64):
        found = play(Batching(half), 60 * half, **QUIET)
        assert half / 2 <= found.late <= 5 * half
        assert found.took <= 1.25 * play(Batching(half), 60 * half, written=2 * half, **QUIET).took


def test_where_nothing_queues_it_grows_to_the_ceiling_of_what_it_is_allowed() -> None:
    for kind in (QUIET, NOISY):
        assert max(level for _, level in play(Refusing(math.inf), 6000, **kind).levels) > 0.6 * CEILING
    few = Concurrency()
    few.ceiling = 24
    assert {level for _, level in play(Refusing(math.inf), 500, concurrency=few).levels} <= set(range(12, 25))


def test_429s_halve_it_and_are_few() -> None:
    for most in (4, 20, 64):
        found = play(Refusing(most), 60 * most + 200, noise=0.2)
        best = play(Refusing(most), 60 * most + 200, noise=0.2, written=most)
        assert found.took <= 1.2 * best.took
        assert found.refused <= UNHEARD + 24, "most of them when nothing was known yet"


def test_a_server_that_changes_is_found_again() -> None:
    shrinks, grows = Slots(64), Slots(16)

    def server(now: float, load: int, service: float) -> float | None:
        shrinks.slots = 64 if now < 30 else 16
        return shrinks(now, load, service)

    def other(now: float, load: int, service: float) -> float | None:
        grows.slots = 16 if now < 60 else 64
        return grows(now, load, service)

    assert 10 <= play(server, 6000, noise=0.2).late <= 24
    assert 45 <= play(other, 6000, noise=0.2).late <= 90


def test_few_requests_change_nothing() -> None:
    found = Concurrency()
    for n in range(1000):
        assert not found.full(0, n)
        found.answered(n + 0.5, sent_at=n, load=1, in_flight=1, tokens=n % 7)
    assert (found.slots(1000), found.found) == (FIRST + 16, None), "half a second of the clock"


def test_until_something_comes_back_slots_grow_by_the_clock() -> None:
    found = Concurrency()
    assert found.slots(5.0) == FIRST
    assert found.more_in(5.0) == math.inf
    assert not found.full(FIRST - 1, 5.0)
    assert found.full(FIRST, 5.0)
    assert found.more_in(5.0) == pytest.approx(1 / 32)
    assert found.slots(5.5) == FIRST + 16
    assert found.slots(99.0) == UNHEARD
    assert found.more_in(99.0) == math.inf
    found = Concurrency()
    assert not found.full(0, 5.0)
    found.hear(5.5)
    assert found.slots(99.0) == FIRST + 16, "it failed: no more"


def test_what_is_remembered_is_where_it_begins_and_what_is_in_use_is_not_changed() -> None:
    found = Concurrency()
    found.remember(130.0)
    assert found.slots(0.0) == 130
    assert not found.full(0, 0.0)
    found.remember(7.0)
    assert found.slots(0.0) == 130
    best = play(Slots(130), 1300, written=130, **QUIET)
    assert play(Slots(130), 1300, concurrency=found, **QUIET).took <= 1.1 * best.took
    assert found.found is not None
    assert 110 <= found.found <= 160
    for wrong in (15, 400):
        found = Concurrency()
        found.remember(wrong)
        assert 50 <= play(Slots(64), 6000, concurrency=found, **QUIET).late <= 80, (
            "what was found elsewhere is corrected"
        )


def test_it_halves_once_for_all_that_left_together_and_only_if_its_slots_were_taken() -> None:
    found = Concurrency()
    found.remember(100)
    assert not found.full(0, 0.0)
    found.dropped(1.0, sent_at=0.5, load=40)
    assert found.slots(1.0) == 100, "others have a slot: it is not for want of them"
    for _ in range(3):
        found.dropped(1.0, sent_at=0.5, load=100)
    assert found.slots(1.0) == 50
    for n in range(100):
        found.answered(2.0, sent_at=1.5, load=50, in_flight=50 + n, tokens=5)
    assert found.slots(2.0) == 90


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["answered", "dropped", "hear"]),
            st.floats(0, 1e5),
            st.integers(1, 2 * CEILING),
            st.integers(1, 2 * CEILING),
            st.integers(0, 10**6),
            st.integers(1, 80),
        ),
        max_size=60,
    ),
    ceiling=st.integers(1, CEILING),
    remembered=st.none() | st.floats(0, 1e9),
)
def test_whatever_happens_it_stays_between_floor_and_ceiling(
    steps: list[tuple], ceiling: int, remembered: float | None
) -> None:
    found, now = Concurrency(), 0.0
    found.ceiling = ceiling
    if remembered is not None:
        found.remember(remembered)
    for what, seconds, load, in_flight, tokens, times in steps:
        for _ in range(times):
            found.full(in_flight, now)
            before, now = now, now + seconds / times
            if what == "answered":
                found.answered(now, sent_at=before, load=load, in_flight=in_flight, tokens=tokens)
            elif what == "dropped":
                found.dropped(now, sent_at=before, load=load)
            else:
                found.hear(now)
            assert min(FLOOR, ceiling) <= found.slots(now) <= max(1, ceiling)
            assert found.more_in(now) >= 0
            assert found.found is None or found.found >= 1


def test_slow_start_ends_where_trials_begin() -> None:
    levels = [level for _, level in play(Refusing(math.inf), 200).levels]
    assert levels == sorted(levels)
    assert CAREFUL in levels


# fmt: off
BURST = [
    (0.0, 16, 25, 0.3, 74), (0.09, 16, 26, 0.39, 121), (0.11, 16, 27, 0.41, 98), (0.15, 16, 28, 0.46, 121),
    (0.25, 16, 29, 0.55, 145), (0.26, 16, 30, 0.56, 50), (0.36, 16, 31, 0.66, 120), (0.62, 16, 32, 0.92, 218),
    (0.62, 16, 33, 0.92, 243), (0.65, 16, 34, 0.95, 193), (0.68, 16, 35, 0.98, 258), (0.84, 16, 36, 1.14,
    170), (1.11, 16, 37, 1.41, 327), (1.15, 16, 38, 1.45, 217), (1.23, 16, 39, 1.53, 313), (1.28, 16, 40,
    1.58, 293), (1.3, 18, 41, 1.55, 386), (1.34, 17, 42, 1.62, 359), (1.56, 20, 43, 1.75, 424), (1.72, 22, 44,
    1.84, 471), (1.8, 24, 45, 1.86, 519), (1.86, 21, 46, 2.01, 446), (1.87, 19, 47, 2.09, 404), (2.03, 23, 48,
    2.12, 502), (2.04, 25, 49, 2.07, 531), (2.18, 27, 50, 2.08, 626), (2.22, 27, 51, 2.12, 602), (2.34, 28,
    52, 2.23, 677), (2.46, 26, 53, 2.45, 576), (2.46, 28, 54, 2.35, 644), (2.59, 26, 55, 2.58, 566), (2.67,
    29, 56, 2.51, 712), (2.68, 30, 57, 2.42, 761), (2.88, 30, 58, 2.63, 740), (2.96, 29, 59, 2.8, 711), (3.03,
    31, 60, 2.76, 784), (3.03, 31, 61, 2.77, 807), (3.1, 32, 62, 2.73, 868), (3.18, 32, 63, 2.81, 830), (3.37,
    35, 64, 2.72, 956), (3.56, 34, 64, 2.94, 909), (3.57, 34, 64, 2.95, 947), (3.66, 36, 64, 2.97, 1027),
    (3.7, 35, 64, 3.05, 981), (3.73, 34, 64, 3.11, 897), (3.82, 34, 64, 3.2, 862), (3.93, 37, 64, 3.09, 1042),
    (4.11, 38, 64, 3.0, 1124), (4.28, 38, 64, 3.17, 1102), (4.38, 37, 64, 3.54, 1077), (4.46, 36, 64, 3.77,
    1038), (4.58, 39, 64, 3.42, 112), (4.79, 40, 64, 3.55, 114), (4.82, 41, 64, 3.54, 116), (4.88, 39, 64,
    3.72, 107), (4.95, 40, 64, 3.72, 110), (5.06, 42, 64, 3.75, 112), (5.12, 43, 64, 3.77, 119), (5.26, 43,
    64, 3.91, 107), (5.35, 41, 64, 4.06, 107), (5.48, 42, 64, 4.18, 122), (5.58, 45, 64, 3.86, 110), (5.7, 44,
    64, 4.13, 112), (5.78, 44, 64, 4.21, 117), (5.87, 46, 64, 4.06, 115), (5.93, 45, 64, 4.21, 111), (6.03,
    46, 64, 4.23, 110), (6.12, 47, 64, 4.25, 113), (6.31, 49, 64, 4.28, 104), (6.36, 49, 64, 4.33, 110),
    (6.38, 48, 64, 4.5, 109), (6.47, 47, 64, 4.6, 107), (6.51, 48, 64, 4.63, 114), (6.76, 52, 64, 4.54, 111),
    (6.8, 50, 64, 4.76, 115), (6.85, 50, 64, 4.8, 112), (6.88, 51, 64, 4.69, 107), (6.97, 52, 64, 4.75, 109),
    (7.08, 51, 64, 4.9, 110), (7.24, 53, 64, 4.89, 112), (7.33, 53, 64, 4.98, 110), (7.35, 54, 64, 4.89, 112),
    (7.43, 54, 64, 4.97, 113), (7.49, 55, 64, 5.03, 110)
]
# fmt: on
"""When an answer came, how many were in flight when its request left and are now, seconds, tokens: of a server that serves
six at a time, about half a second each."""


def test_a_burst_that_only_queues_ends_slow_start_and_is_not_what_was_found() -> None:
    """The first sixteen left together, so none of them says how it is with few in flight."""
    one = Concurrency()
    one.full(0, -0.5)
    for at, load, in_flight, seconds, tokens in BURST:
        one.answered(at, sent_at=at - seconds, load=load, in_flight=in_flight, tokens=tokens)
    assert FLOOR <= one.slots(BURST[-1][0]) <= 16
    assert one.found is None
