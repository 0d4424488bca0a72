from __future__ import annotations

import random

import pytest

from flowllm.limits.refusals import SUPPOSED, Refusals


def alarms(share: float, requests: int, seed: int, *, rate: float = 64.0) -> int:
    """How many of so many requests, refused by chance, seem to be too many; each cut begins anew."""
    refusals, draw, found = Refusals(), random.Random(seed), 0
    for number in range(1, requests + 1):
        if draw.random() >= share:
            refusals.counted()
        elif refusals.refused(number, calm=True, rate=None, lately=rate):
            found += 1
            refusals.begin_anew(number)
    return found


@pytest.mark.parametrize("share", [0.01, 0.02, 0.05])
def test_a_share_that_comes_whatever_one_does_seldom_alarms(share: float) -> None:
    assert sum(alarms(share, 3000, seed) for seed in range(10)) <= 10 * 3000 / (64 * 8)


def test_a_clump_alarms_at_once_and_is_not_taken_for_usual() -> None:
    refusals = Refusals()
    found = [refusals.refused(number, calm=True, rate=None, lately=0.0) for number in range(11, 17)]
    assert found[:2] == [False, True]
    refusals.begin_anew(16)
    assert refusals.share == SUPPOSED[0] / SUPPOSED[1]


def test_where_none_was_refused_by_chance_a_single_one_says_enough() -> None:
    refusals = Refusals()
    for _ in range(1000):
        refusals.counted()
    assert refusals.refused(1001, calm=False, rate=10.0, lately=10.0)


def test_a_cut_is_for_nothing_if_a_few_are_refused_as_before_but_not_if_many_are() -> None:
    few, many = Refusals(), Refusals()
    for number in range(1, 101):
        for refusals, every in ((few, 20), (many, 4)):
            if number % every:
                refusals.counted()
            else:
                refusals.refused(number, calm=True, rate=50.0, lately=50.0)
    assert few.vain
    assert not many.vain
