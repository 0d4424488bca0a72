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
