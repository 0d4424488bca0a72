"""Comparing and ordering values in templates, paid for by what is really walked.

Lists that share their parts (`{% set x = [x, x] %}`, sixty times) are small in memory and endless to go through, and
Python's own comparisons cannot be interrupted.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from jinja2 import filters
from jinja2.utils import pass_environment

from flowllm.language.sandbox_limits import CHARACTERS_AN_OPERATION, MAX_DEPTH, LimitReached, size_of, spend
from flowllm.language.sandbox_text import listed

if TYPE_CHECKING:
    from jinja2 import Environment

_LISTS = (list, tuple)
_ORDERED: Final = ("dictsort", "groupby", "max", "min", "sort", "unique")


def equal(left: object, right: object, depth: int = 0) -> bool:
    """`==`. Raises LimitReached."""
    spend(1)
    if isinstance(left, str) and isinstance(right, str):
        spend(min(len(left), len(right)) >> CHARACTERS_AN_OPERATION)
        return left == right
    alike = next((kind for kind in (list, tuple, dict) if isinstance(left, kind) and isinstance(right, kind)), None)
    if alike is None:
        return bool(left == right)
    if len(left) != len(right):  # type: ignore[arg-type] # both are of one of the three
        return False
    if depth > MAX_DEPTH:
        raise LimitReached(f"the values are nested more than {MAX_DEPTH} deep")
    if isinstance(left, dict) and isinstance(right, dict):
        return all(
            key in right and (item is right[key] or equal(item, right[key], depth + 1)) for key, item in left.items()
        )
    return _unlike(left, right, depth) is None  # type: ignore[arg-type]


def _unlike(left: Sequence[object], right: Sequence[object], depth: int) -> int | None:
    """The first place at which two lists differ."""
    for place, (one, other) in enumerate(zip(left, right, strict=False)):
        spend(1)
        if one is not other and not equal(one, other, depth + 1):
            return place
    return None


def _ranked(compare: Callable[[Any, Any], Any]) -> Callable[[Any, Any], bool]:
    """`<`, `<=`, `>` or `>=`: of lists by the first items that differ."""

    def ranked(left: Any, right: Any, depth: int = 0) -> bool:
        spend(1)
        if isinstance(left, str) and isinstance(right, str):
            spend(min(len(left), len(right)) >> CHARACTERS_AN_OPERATION)
        if not any(isinstance(left, kind) and isinstance(right, kind) for kind in _LISTS):
            return bool(compare(left, right))
        if depth > MAX_DEPTH:
            raise LimitReached(f"the values are nested more than {MAX_DEPTH} deep")
        place = _unlike(left, right, depth)
        if place is None:
            return bool(compare(len(left), len(right)))
        return ranked(left[place], right[place], depth + 1)

    return ranked


def contains(value: object, holder: Any) -> bool:
    """`value in holder`."""
    if isinstance(holder, _LISTS):
        if isinstance(value, (bool, int, float)) or value is None:
            spend(1 + (len(holder) >> 3))
            return value in holder
        return any(item is value or equal(item, value) for item in holder)
    if isinstance(holder, range):
        spend(1 if isinstance(value, int) else len(holder))
    elif isinstance(holder, str):
        spend(1 + (len(holder) >> CHARACTERS_AN_OPERATION))
    elif isinstance(holder, Mapping):
        size_of(value)  # to be hashed
    return value in holder


def _not(test: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    return lambda left, right: not test(left, right)


COMPARISONS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "eq": equal,
    "ne": _not(equal),
    "lt": _ranked(operator.lt),
    "lteq": _ranked(operator.le),
    "gt": _ranked(operator.gt),
    "gteq": _ranked(operator.ge),
    "in": contains,
    "notin": _not(contains),
}
"""By Jinja's names of its operators."""
_TESTS: Final = {
    "eq": ("==", "eq", "equalto"),
    "ne": ("!=", "ne"),
    "lt": ("<", "lt", "lessthan"),
    "lteq": ("<=", "le"),
    "gt": (">", "gt", "greaterthan"),
    "gteq": (">=", "ge"),
    "in": ("in",),
}


def _cased(method: Callable[[str], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, str) and method(value)


OWN_TESTS: Final[dict[str, Callable[..., bool]]] = {
    name: COMPARISONS[kind] for kind, names in _TESTS.items() for name in names
} | {"lower": _cased(str.islower), "upper": _cased(str.isupper)}
"""Tests that Jinja has too, by its names."""


def count_in(items: Sequence[object], value: object) -> int:
    """`list.count(value)`."""
    return sum(item is value or equal(item, value) for item in items)


def index_in(items: Sequence[object], value: object, start: int = 0, stop: int | None = None) -> int:
    """`list.index(value)`. Raises ValueError."""
    for place in range(*slice(start, stop).indices(len(items))):
        if items[place] is value or equal(items[place], value):
            return place
    raise ValueError("the value is not in the list")


def _paid(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter of Jinja's that sorts or tells apart, paid for by what is compared."""
    signature = inspect.signature(function)

    @pass_environment
    def paid(environment: Environment, value: Any, *args: Any, **kwargs: Any) -> Any:
        items = value if isinstance(value, Mapping) else listed(value)
        first = (environment,) if hasattr(function, "jinja_pass_arg") else ()
        given = signature.bind(*first, items, *args, **kwargs).arguments
        attribute = given.get("attribute")
        if isinstance(items, Mapping):
            keys: Any = items.values() if given.get("by") == "value" else items
        elif attribute is None:
            keys = items
        else:
            get = filters.make_attrgetter(environment, attribute, default=given.get("default"))
            keys = map(get, items)
        spend(sum(map(size_of, keys)) * len(items).bit_length() >> 3)
        return function(*first, items, *args, **kwargs)

    return paid


ORDERING: Final = {name: _paid(filters.FILTERS[name]) for name in _ORDERED}
"""Filters that Jinja has too."""
