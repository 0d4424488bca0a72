"""How many items a range has."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as some

from flowllm.runtime.range_size import (
    FIRST,
    GROWTH,
    HEAVIEST,
    HEAVIEST_AHEAD,
    MOST,
    SECONDS,
    RangeSizes,
    ahead,
    pause,
    weight,
)


def test_the_first_ranges_are_small() -> None:
    assert RangeSizes().next(workers=2, left=None) == FIRST


def test_a_range_soon_keeps_a_worker_busy_for_a_few_seconds() -> None:
    sizes, now = RangeSizes(), 0.0
    sizes.begun(now)
    for _ in range(20):
        size = sizes.next(workers=2, left=None)
        now += size / 50.0  # two workers with 25 items a second each
        sizes.ended(size, now)
    assert abs(sizes.next(workers=2, left=None) - 25 * SECONDS) <= 2


def test_it_grows_step_by_step_up_to_a_most() -> None:
    sizes = RangeSizes()
    sizes.begun(0.0)
    sizes.ended(1_000_000, 1.0)
    found = [sizes.next(workers=1, left=None) for _ in range(6)]
    assert found[:2] == [FIRST * GROWTH, FIRST * GROWTH**2]
    assert found[-1] == MOST


def test_at_the_end_ranges_are_small_so_that_workers_end_together() -> None:
    sizes = RangeSizes()
    sizes.begun(0.0)
    sizes.ended(400, 1.0)
    left, found = 1000, []
    while left:
        size = sizes.next(workers=4, left=left)
        found.append(size)
        left -= size
    assert found[-1] == 1
    assert all(later <= max(earlier * GROWTH, earlier) for earlier, later in pairwise(found))
    assert max(found[len(found) // 2 :]) <= 1000 / (2 * 4)


def test_the_rate_is_that_of_the_last_seconds() -> None:
    sizes = RangeSizes()
    sizes.begun(0.0)
    for second in range(1, 61):
        sizes.ended(100 if second <= 30 else 10, float(second))
    assert 8 <= sizes.rate <= 12


@given(
    workers=some.integers(0, 2000),
    left=some.none() | some.integers(0, 10**9),
    ended=some.lists(some.tuples(some.integers(0, 5000), some.floats(0, 10)), max_size=20),
)
def test_no_range_is_empty_and_all_that_is_handed_out_has_a_bound(
    workers: int, left: int | None, ended: list[tuple[int, float]]
) -> None:
    sizes, now = RangeSizes(), 0.0
    sizes.begun(now)
    for count, after in ended:
        now += after
        sizes.ended(count, now)
    size = sizes.next(workers=workers, left=left)
    assert 1 <= size <= MOST
    assert size * max(1, workers) <= max(ahead(workers), workers)


def test_a_range_of_long_items_has_few_and_so_has_all_that_is_handed_out() -> None:
    sizes = RangeSizes()
    sizes.begun(0.0)
    sizes.ended(100_000, 1.0)
    for _ in range(100):
        sizes.weighed(weight({"text": "x" * 1_000_000, "n": [1, 2.5, None]}))
    assert sizes.next(workers=2, left=None) * 1_000_000 <= HEAVIEST
    assert sizes.bearable * 1_000_000 <= HEAVIEST_AHEAD * 1.2
    for _ in range(1000):
        sizes.weighed(10)
    assert sizes.bearable > ahead(2), "they are short again"


def test_an_item_that_is_too_long_for_any_range_has_one_of_its_own() -> None:
    sizes = RangeSizes()
    sizes.weighed(1 << 30)
    assert (sizes.next(workers=2, left=None), sizes.bearable) == (1, 1)


def test_many_workers_report_more_seldom() -> None:
    assert pause(4) == 0.25
    assert 1000 / pause(1000) <= 400
