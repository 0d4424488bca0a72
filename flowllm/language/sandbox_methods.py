"""Comparing, ordering and the methods of values in templates, paid for by what they go through.

Lists that share their parts (`{% set x = [x, x] %}`, sixty times) are small in memory and endless to go through, and
Python's own comparisons cannot be interrupted: what is in them is counted first.
"""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from jinja2 import Environment, filters
from jinja2.runtime import Undefined
from jinja2.utils import pass_environment

from flowllm.language.sandbox_limits import (
    CHARACTERS_AN_OPERATION,
    MAX_ITEMS,
    LimitReached,
    check_items,
    check_width,
    size_of,
    spend,
    spend_text,
)
from flowllm.language.sandbox_text import as_sequence, brace_format, join_texts, raise_absent, to_text

Function: TypeAlias = "Callable[..., Any]"
_NESTED = (list, tuple, dict)
_ORDERED: Final = ("dictsort", "groupby", "max", "min", "sort", "unique")
_QUADRATIC: Final = frozenset({"lstrip", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "strip"})
"""Methods of text that may go through what they look for again at each character."""
_LINE_ENDS: Final = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"


def _compared(compare: Callable[[Any, Any], Any]) -> Callable[[Any, Any], bool]:
    """An operator between two values. What Python goes through is no more than what is in either of them."""

    def holds(left: Any, right: Any) -> bool:
        spend(1)
        if isinstance(left, str) and isinstance(right, str):
            spend(min(len(left), len(right)) >> CHARACTERS_AN_OPERATION)
        elif isinstance(left, _NESTED) and isinstance(right, _NESTED):
            size_of(min(left, right, key=len))
        return bool(compare(left, right))

    return holds


def contains(value: object, holder: Any) -> bool:
    """`value in holder`."""
    if isinstance(holder, (list, tuple)):
        _pay_search(value, holder)
    elif isinstance(holder, range):
        spend(1 if isinstance(value, int) else len(holder))
    elif isinstance(holder, str):
        spend(1 + (len(holder) >> CHARACTERS_AN_OPERATION))
    elif isinstance(holder, Mapping):
        size_of(value)  # to be hashed
    return value in holder


def _pay_search(value: object, items: Sequence[object]) -> None:
    """Each item is compared with the value."""
    spend(1 + (len(items) * size_of(value) >> 3))


COMPARISONS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "eq": _compared(operator.eq),
    "ne": _compared(operator.ne),
    "lt": _compared(operator.lt),
    "lteq": _compared(operator.le),
    "gt": _compared(operator.gt),
    "gteq": _compared(operator.ge),
    "in": contains,
    "notin": lambda value, holder: not contains(value, holder),
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
    _pay_search(value, items)
    return items.count(value)


def index_in(items: Sequence[object], value: object, *bounds: int) -> int:
    """`list.index(value)`. Raises ValueError."""
    _pay_search(value, items)
    return items.index(value, *bounds)


def _paid(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter of Jinja's that sorts or tells apart, paid for by what is compared."""
    signature = inspect.signature(function)

    @pass_environment
    def paid(environment: Environment, value: Any, *args: Any, **kwargs: Any) -> Any:
        items = value if isinstance(value, Mapping) else as_sequence(value)
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


# methods


def refuse_absent(args: Iterable[object], kwargs: Mapping[str, object]) -> None:
    """Raise the error of the first argument that is not there."""
    for argument in (*args, *kwargs.values()):
        if isinstance(argument, Undefined):
            raise_absent(argument)


def paid_key(key: Any) -> Any:
    """A key that is about to be hashed. Raises LimitReached."""
    if isinstance(key, tuple):
        size_of(key)
    return key


def replace_text(value: str, old: object, new: object, count: int | None = None) -> str:
    """Every `old` in the text, or the first `count`, made `new`."""
    before, after = to_text(old), to_text(new)
    times = value.count(before)
    if count is not None and count >= 0:
        times = min(times, count)
    spend(len(value) >> 5)
    spend_text(len(value) + times * (len(after) - len(before)))
    return value.replace(before, after, times)


def wide(method: Callable[..., str]) -> Function:
    """A method or filter of text whose first argument is a width."""

    @functools.wraps(method)
    def widened(value: str, width: int = 80, *args: str) -> str:
        check_width(width)
        return method(value, width, *args)

    return widened


def _join_method(separator: str, items: Any) -> str:
    return join_texts([to_text(item) for item in as_sequence(items)], separator)


def _get(mapping: Mapping[str, object], key: str, default: object = None) -> object:
    return mapping.get(paid_key(key), default)


def _items(mapping: Mapping[str, object]) -> list[tuple[str, object]]:
    return list(mapping.items())


def _keys(mapping: Mapping[str, object]) -> list[str]:
    return list(mapping)


def _values(mapping: Mapping[str, object]) -> list[object]:
    return list(mapping.values())


def _read(name: str, method: Function) -> Function:
    """A method of text that goes through the text."""

    @functools.wraps(method)
    def reading(value: str, *args: Any, **kwargs: Any) -> Any:
        sought = max((len(arg) for arg in (*args, *kwargs.values()) if isinstance(arg, str)), default=0)
        spend((len(value) >> 4) + (len(value) * sought >> 5 if name in _QUADRATIC else sought >> 5))
        return method(value, *args, **kwargs)

    return reading


def _parts_of(method: Callable[..., list[str]]) -> Function:
    @functools.wraps(method)
    def parts(value: str, sep: str | None = None, maxsplit: int = -1) -> list[str]:
        found = method(value, sep, MAX_ITEMS if maxsplit < 0 else min(maxsplit, MAX_ITEMS))
        if len(found) > MAX_ITEMS:
            raise LimitReached(f"the template makes a list of over {MAX_ITEMS:,} items")
        return found

    return parts


def _lines(value: str, keepends: bool = False) -> list[str]:
    spend(len(value) >> 2)
    check_items(sum(map(value.count, _LINE_ENDS)))
    return value.splitlines(keepends)


_TEXT_METHODS: dict[str, Function] = {
    name: _read(name, getattr(str, name))
    for name in (
        *("capitalize", "casefold", "count", "endswith", "find", "index", "isalnum", "isalpha", "isascii"),
        *("isdecimal", "isdigit", "islower", "isnumeric", "isspace", "istitle", "isupper", "lower", "lstrip"),
        *("partition", "removeprefix", "removesuffix", "rfind", "rindex", "rpartition", "rstrip"),
        *("startswith", "strip", "swapcase", "title", "upper"),
    )
} | {
    "center": wide(str.center),
    "format": brace_format,
    "join": _join_method,
    "ljust": wide(str.ljust),
    "replace": replace_text,
    "rjust": wide(str.rjust),
    "rsplit": _read("rsplit", _parts_of(str.rsplit)),
    "split": _read("split", _parts_of(str.split)),
    "splitlines": _lines,
    "zfill": wide(str.zfill),
}
MAPPING_METHODS: dict[str, Function] = {"get": _get, "items": _items, "keys": _keys, "values": _values}
_METHODS: dict[type, dict[str, Function]] = {
    str: _TEXT_METHODS,
    list: {"count": count_in, "index": index_in},
    tuple: {"count": count_in, "index": index_in},
    float: {"is_integer": float.is_integer},
}


def methods_of(value: object) -> dict[str, Function]:
    """The methods of a value that can be called, by name; each takes the value first."""
    return MAPPING_METHODS if isinstance(value, Mapping) else _METHODS.get(type(value), {})
