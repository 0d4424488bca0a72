from __future__ import annotations

import random

import pytest

from flowllm.datasets.output import ReorderBuffer


def _all(order: ReorderBuffer, most: int = 10) -> list[int]:
    found = []
    while order.ready:
        found += order.take(most)
    return found


def test_a_place_waits_for_all_before_it() -> None:
    order = ReorderBuffer()
    order.ended(2, wanted=True)
    order.ended(1, wanted=True)
    assert not order.ready
    assert order.take(10) == []
    order.ended(0, wanted=True)
    assert order.ready
    assert _all(order) == [0, 1, 2]
    assert not order.ready


def test_a_place_that_is_left_out_holds_up_nobody() -> None:
    order = ReorderBuffer()
    order.ended(1, wanted=True)
    order.ended(0, wanted=False)
    assert _all(order) == [1]


def test_no_more_are_given_than_asked_for() -> None:
    order = ReorderBuffer()
    for place in range(5):
        order.ended(place, wanted=place != 1)
    assert order.take(3) == [0, 2]
    assert order.take(3) == [3, 4]


@pytest.mark.parametrize("seed", range(5))
def test_any_order_comes_out_in_order(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowllm.datasets.output._LONG", 16)
    draw = random.Random(seed)
    places = sorted(range(500), key=lambda place: place + draw.randint(0, 60))
    wanted = {place for place in places if draw.random() < 0.7}
    order, found = ReorderBuffer(), []
    for place in places:
        order.ended(place, wanted=place in wanted)
        if draw.random() < 0.5:
            found += _all(order, most=7)
        assert len(order._marks) <= 61 + 16 + 14
    found += _all(order)
    assert found == sorted(wanted)


def test_a_million_places_behind_a_slow_one_take_a_megabyte() -> None:
    order = ReorderBuffer()
    for place in range(1_000_000, 0, -1):
        order.ended(place, wanted=True)
    assert len(order._marks) == 1_000_001
    order.ended(0, wanted=False)
    assert sum(1 for _ in _all(order, most=1000)) == 1_000_000
    assert len(order._marks) < 70_000
