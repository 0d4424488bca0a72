from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import enum
import json
import types
from decimal import Decimal
from fractions import Fraction

import pytest

from flowllm.functions.json_values import MAX_DEPTH, SOON, NotJson, TooLargeForLoop, not_json, to_json


class Mood(str, enum.Enum):  # noqa: UP042 - the older way to write it
    HAPPY = "happy"


class Level(enum.IntEnum):
    LOW = 1


class Tag(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "<tag>"

    def __len__(self) -> int:
        return 99


class Number(float):
    def __repr__(self) -> str:
        return "?"


class Colour(enum.Enum):
    RED = "red"


class Numpyish:
    """Stands in for a scalar of numpy's, which is not installed here."""

    ndim = 0

    def __init__(self, item: object) -> None:
        self._item = item

    def item(self) -> object:
        return self._item


Numpyish.__module__ = "numpy"


@dataclasses.dataclass
class Point:
    x: int


Pair = collections.namedtuple("Pair", "left right")


@pytest.mark.parametrize(
    ("value", "same"),
    [
        (Mood.HAPPY, "happy"),
        ({Mood.HAPPY: [Mood.HAPPY]}, {"happy": ["happy"]}),
        (Level.LOW, 1),
        (Tag("x"), "x"),
        ({Tag("k"): (Tag("v"),)}, {"k": ["v"]}),
        (Number(1.5), 1.5),
        (True, True),
        (Pair(1, [Level.LOW]), [1, [1]]),
        (collections.OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (collections.UserDict(a=1), {"a": 1}),
        (types.MappingProxyType({"a": 1}), {"a": 1}),
        (collections.deque([1, 2]), [1, 2]),
        (collections.UserList([1]), [1]),
        ((number for number in range(3)), [0, 1, 2]),
        (map(str, [1]), ["1"]),
        (2**64 + 1, 2**64 + 1),
        (10**4000, 10**4000),
        ("\ud800", "\ud800"),
        (Numpyish(3), 3),
        ([Numpyish(0.5)], [0.5]),
    ],
)
def test_what_stands_for_json_becomes_the_very_same_that_a_store_gives_back(value: object, same: object) -> None:
    found = to_json(value)
    assert found == same
    assert json.loads(json.dumps(found)) == found
    assert str(found) == str(same)
    assert type(found) is type(same)


def test_a_value_is_a_copy_whose_parts_are_exactly_json() -> None:
    inner = [Tag("a")]
    found = to_json({"x": inner})
    inner.append("later")
    assert found == {"x": ["a"]}
    assert {type(found), type(found["x"]), type(found["x"][0])} == {dict, list, str}


@pytest.mark.parametrize(
    ("value", "said", "hint"),
    [
        (b"x", "a bytes", "decode"),
        ({1, 2}, "a set", "list(value)"),
        (dt.date(2026, 1, 1), "a date", "isoformat"),
        (Point(1), "a Point", "asdict"),
        (Colour.RED, "a Colour", ".value"),
        (Decimal(1), "a Decimal", "str(value)"),
        (Fraction(1, 3), "a Fraction", "str(value)"),
        (1j, "a complex", "plain JSON"),
        (float("nan"), "nan", "None"),
        ({"a": [1, float("-inf")]}, "-inf at a[1]", "None"),
        pytest.param(10**5000, "an integer of over 4,300 digits", "text", id="huge"),
        (Numpyish(float("inf")), "inf", "None"),
        ({"a": {1: 2}}, "the key 1 at a", "str(key)"),
        ("x" * (16 * 1024 * 1024), "more than 16 MiB", "file"),
        (("x" * 2**20 for _ in iter(int, 1)), "more than 16 MiB", "file"),
    ],
)
def test_what_json_has_not_is_told_with_its_place_and_what_to_do(value: object, said: str, hint: str) -> None:
    with pytest.raises(NotJson) as caught:
        to_json(value)
    assert said in caught.value.message
    assert hint in caught.value.hint


def test_what_contains_itself_or_is_too_deep_is_refused_and_what_is_only_there_twice_is_not() -> None:
    around: list = []
    around.append({"again": around})
    assert "contains itself" in not_json(around)
    deep: list = []
    for _ in range(MAX_DEPTH - 1):
        deep = [deep]
    assert not_json(deep) == ""
    assert "nested more than" in not_json([deep])
    shared = [1]
    assert to_json([shared, shared]) == [[1], [1]]


def test_what_may_take_long_is_put_off_with_nothing_consumed() -> None:
    numbers = iter([1, 2])
    with pytest.raises(TooLargeForLoop):
        to_json([0, numbers], soon=True)
    assert list(numbers) == [1, 2]
    with pytest.raises(TooLargeForLoop):
        to_json([0] * SOON, soon=True)
    assert to_json([0], soon=True) == [0]
