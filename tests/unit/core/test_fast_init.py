"""A quick frozen dataclass is as any other."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, dataclass, field, replace

import pytest

from flowllm.core.fast_init import fast_init


@fast_init
@dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    a: int
    made: list[int] = field(default_factory=list)


@fast_init
@dataclass(frozen=True, slots=True, kw_only=True)
class Derived(Plain):
    cls: str = "b"
    compared: int = field(default=0, compare=False)


def test_it_is_as_any_other() -> None:
    one = Derived(a=1, compared=7)
    assert (one.a, one.made, one.cls, one.compared) == (1, [], "b", 7)
    assert one == Derived(a=1, compared=8) != Derived(a=2)
    assert Derived(a=1).made is not one.made
    assert type(one) is Derived
    assert isinstance(one, Plain)
    assert repr(one) == "Derived(a=1, made=[], cls='b', compared=7)"
    assert replace(one, a=3, cls="c") == Derived(a=3, cls="c")
    assert copy.copy(one) == pickle.loads(pickle.dumps(one)) == one
    assert hash(replace(one, made=())) == hash(Derived(a=1, made=()))  # type: ignore[arg-type]


def test_it_stays_frozen_and_wants_its_fields() -> None:
    one = Plain(a=1)
    with pytest.raises(FrozenInstanceError):
        one.a = 2  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        del one.a
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'a'"):
        Plain()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected keyword argument 'b'"):
        Derived(a=1, b=2)  # type: ignore[call-arg]
