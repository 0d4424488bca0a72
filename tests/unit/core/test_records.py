"""Classes of `flowllm.core.records` do what the standard library's dataclasses do."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from typing import Any, Generic, TypeVar

import pytest

from flowllm.core import records


def _classes(decorator: Any) -> tuple[Any, Any, Any]:
    @decorator(frozen=True, slots=True, kw_only=True)
    class Base:
        one: int
        many: list[int] = dataclasses.field(default_factory=list)
        secret: str = dataclasses.field(default="s", repr=False, compare=False)

    @decorator(frozen=True, slots=True, kw_only=True)
    class Derived(Base):
        two: str = "2"
        set_later: int = dataclasses.field(default=7, init=False)

    @decorator(slots=True)
    class Changing:
        """By place, checked, and not frozen."""

        first: int
        second: int = 2

        def __post_init__(self) -> None:
            self.second += 1

    return Base, Derived, Changing


_STANDARD, _OWN = _classes(dataclasses.dataclass), _classes(records.dataclass)


@pytest.mark.parametrize(
    ("number", "args", "kwargs"),
    [
        (0, (), {"one": 1}),
        (0, (), {"one": 1, "many": [2], "secret": "x"}),
        (0, (1,), {}),
        (0, (), {}),
        (0, (), {"one": 1, "other": 2}),
        (1, (), {"one": 1, "two": "x"}),
        (1, (), {"one": 1, "set_later": 2}),
        (2, (1,), {}),
        (2, (1, 5), {}),
        (2, (), {"second": 5}),
    ],
)
def test_objects_are_made_and_shown_as_the_standard_ones(number: int, args: Any, kwargs: Any) -> None:
    def seen(cls: Any) -> Any:
        try:
            made = cls(*args, **kwargs)
        except TypeError as error:
            return str(error)
        return (
            repr(made),
            dataclasses.asdict(made),
            [(one.name, one.kind, one.annotation) for one in inspect.signature(cls).parameters.values()],
            made == cls(*args, **kwargs),
        )

    assert seen(_OWN[number]) == seen(_STANDARD[number])


def test_equality_hashes_changes_and_copies_are_those_of_the_standard_ones() -> None:
    for base, derived, changing in (_STANDARD, _OWN):
        whole = derived(one=1, many=(), two="x")
        assert whole == derived(one=1, many=(), two="x", secret="other")
        assert hash(whole) == hash(derived(one=1, many=(), two="x", secret="other"))
        assert whole != derived(one=2, many=(), two="x")
        assert whole != base(one=1, many=())
        assert base(one=1).many is not base(one=1).many
        assert dataclasses.replace(whole, two="y") == derived(one=1, many=(), two="y")
        for change in (lambda kept=whole: setattr(kept, "one", 2), lambda kept=whole: delattr(kept, "one")):
            with pytest.raises(dataclasses.FrozenInstanceError):
                change()
        assert copy.deepcopy(whole) == copy.copy(whole) == whole
        assert not hasattr(whole, "__dict__")
        other = changing(1)
        other.first = 9
        assert other == changing(9)
        with pytest.raises(TypeError, match="unhashable"):
            hash(other)


@records.dataclass(frozen=True, slots=True, kw_only=True)
class _Stored:
    value: list[int]


T = TypeVar("T")


@records.dataclass(frozen=True, slots=True, kw_only=True)
class _Boxed(Generic[T]):
    value: T


def test_a_generic_one_is_locked_once_it_is_made() -> None:
    boxed = _Boxed[int](value=1)
    assert type(boxed) is _Boxed
    assert boxed == _Boxed(value=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        boxed.value = 2  # type: ignore[misc]


def test_a_record_can_be_pickled() -> None:
    assert pickle.loads(pickle.dumps(_Stored(value=[1]))) == _Stored(value=[1])
