"""The filters and functions that templates have: Jinja's, made safe, and a few of our own."""

from __future__ import annotations

import functools
import html
import itertools
import json
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from types import GeneratorType
from typing import Any, Final, NoReturn

from jinja2 import Environment, filters
from jinja2.runtime import Undefined
from jinja2.utils import Cycler, Joiner, Namespace, pass_environment

from flowllm.core.records import dataclass
from flowllm.core.types import Json
from flowllm.language.sandbox_limits import (
    MAX_BITS,
    LimitReached,
    RenderFailed,
    check_items,
    check_width,
    spend,
    spend_size,
    spend_text,
)
from flowllm.language.sandbox_methods import ORDERING, Function, paid_key, refuse_absent, replace_text, wide
from flowllm.language.sandbox_text import (
    as_sequence,
    join_texts,
    json_text,
    kind_of,
    percent_format,
    raise_absent,
    to_text,
)

WITHOUT = {
    "attr": "write `x.name` or `x['name']`",
    "pprint": "use `tojson(indent=2)`",
    "random": "a template always gives the same for the same values",
    "urlize": "",
    "xmlattr": "",
}
"""Jinja's filters that are not there, and what to do instead."""
_MAX_EXPONENT = 300
_MAX_INDENT = 16
_SHOWN = 60
"""Characters of a text in an error."""
_DEEPEST = 200
"""Lists and mappings within each other."""
_LISTS = (list, tuple, range, Iterator)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    """How a filter is called, and what it is paid by besides its result."""

    of_text: bool = False
    """It works on text: any other value is made text first, as everywhere."""
    read: bool = True
    """It takes longer the larger its values are."""
    slow: int | None = None
    """It takes longer than others to go through a text: as a shift, characters an operation."""
    lenient: bool = False
    """What goes in may be missing."""

    def applied(self, function: Function) -> Function:
        """The filter by this rule; lists come out instead of iterators."""
        at = 1 if hasattr(function, "jinja_pass_arg") else 0
        of_text, read, slow, lenient = self.of_text, self.read, self.slow, self.lenient

        @functools.wraps(function)
        def filtered(*args: Any, **kwargs: Any) -> Any:
            spend(4)
            if not lenient:
                refuse_absent(args, kwargs)
            if of_text:
                args = (*args[:at], to_text(args[at]), *args[at + 1 :])
            if read:
                for value in args[at:]:
                    spend_size(value)
            if slow is not None and isinstance(args[at], str):
                spend(len(args[at]) >> slow)
            return paid_result(function(*args, **kwargs))

        return filtered


def checked_test(name: str, function: Function) -> Function:
    """The test; only `defined` and `undefined` may be asked of what is not there."""
    if name in {"defined", "undefined"}:
        return function

    @functools.wraps(function)
    def tested(*args: Any, **kwargs: Any) -> bool:
        spend(1)
        refuse_absent(args, kwargs)
        return bool(function(*args, **kwargs))

    return tested


def paid_result(value: Any) -> Any:
    """A result, paid for by its size; an iterator as a list."""
    if isinstance(value, (GeneratorType, itertools.chain, type(reversed([])), type({}.items()))):
        return as_sequence(value)
    spend_size(value)
    return str(value) if isinstance(value, str) else value


def slug(value: str) -> str:
    """A text for file names and addresses: `Été à Paris!` is `ete-a-paris`. Letters of any script are kept."""
    letters = "".join(  # one by one: to bring many marks on one letter into their order takes for ever
        part
        for char in value.casefold()
        for part in unicodedata.normalize("NFKD", char)
        if not unicodedata.combining(part)
    )
    return re.sub(r"[\W_]+", "-", unicodedata.normalize("NFKC", letters)).strip("-")


def _range(*bounds: int) -> range:
    numbers = range(*bounds)
    check_items(len(numbers))
    return numbers


def zip_lists(*lists: Iterable[object]) -> list[list[object]]:
    """`zip(a, b)`: a list of pairs, as many as the shortest has items."""
    return [list(row) for row in zip(*map(as_sequence, lists), strict=False)]


def product(*lists: Iterable[object]) -> list[list[object]]:
    """`product(a, b)`: a list of every pair of an item of a and one of b, the last varying fastest."""
    sides = [as_sequence(side) for side in lists]
    check_items(math.prod(map(len, sides)) * max(1, len(sides)))
    return [list(row) for row in itertools.product(*sides)]


def _dict(*args: Any, **kwargs: object) -> dict[object, object]:
    for pairs in args:
        for pair in pairs if isinstance(pairs, (list, tuple)) else ():
            spend(1)
            paid_key(pair[0] if isinstance(pair, (list, tuple)) and pair else None)
        spend_size(pairs)
    return dict(*args, **kwargs)


def _namespace(*args: Any, **kwargs: object) -> Namespace:
    return Namespace(_dict(*args, **kwargs))


def _int(value: object, default: int = 0, base: int = 10) -> int:
    number = filters.do_int(value, default, base)
    if isinstance(value, str) and number.bit_length() > MAX_BITS:
        raise LimitReached(f"a whole number of over {MAX_BITS} bits")
    return number


def _trim(value: str, chars: str | None = None) -> str:
    spend(len(value) * len(chars or "") >> 5)
    return value.strip(chars)


def _items_of(environment: Environment, value: Any, attribute: str | int | None) -> Iterable[object]:
    items = as_sequence(value)
    return items if attribute is None else map(filters.make_attrgetter(environment, attribute), items)


@pass_environment
def _join(environment: Environment, value: Any, d: object = "", attribute: Any = None) -> str:
    return join_texts([to_text(item) for item in _items_of(environment, value, attribute)], to_text(d))


def _tojson(value: object, indent: int | None = None) -> str:
    if indent is not None and not 0 <= indent <= _MAX_INDENT:
        raise LimitReached(f"an indent of over {_MAX_INDENT}")
    return json_text(value, indent)


def _format(value: str, *args: object, **kwargs: object) -> str:
    if args and kwargs:
        raise RenderFailed("`format` takes values by place or by name, not both")
    return percent_format(value, kwargs or args)


def _indent(value: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    size = width if isinstance(width, int) else len(width)
    check_width(size)
    spend_text(len(value) + max(0, size) * (value.count("\n") + 1))
    return filters.do_indent(value, width, first, blank)


@pass_environment
def _wordwrap(  # noqa: PLR0917 - Jinja's own signature
    environment: Environment,
    value: str,
    width: int = 79,
    break_long_words: bool = True,
    wrapstring: str | None = None,
    break_on_hyphens: bool = True,
) -> str:
    check_width(width)
    check_width(len(wrapstring or ""))
    longest = max(map(len, value.split()), default=0)  # what is left of a word is copied for each of its lines
    spend(longest * longest // max(1, width) >> 8)
    pieces = len(value) // max(1, width) + value.count("\n") + value.count(" ") + 1
    spend_text(len(value) + pieces * len(wrapstring or "\n"))
    return filters.do_wordwrap(environment, value, width, break_long_words, wrapstring, break_on_hyphens)


def _batch(value: Any, linecount: int, fill_with: object = None) -> list[list[object]]:
    items = as_sequence(value)
    if linecount < 1:
        raise RenderFailed("`batch` needs a size of at least 1")
    check_items(linecount if fill_with is not None else 0)
    return list(filters.do_batch(items, linecount, fill_with))


def _slice(value: Any, slices: int, fill_with: object = None) -> list[list[object]]:
    if slices < 1:
        raise RenderFailed("`slice` needs a number of at least 1")
    check_items(slices)
    return list(filters.sync_do_slice(as_sequence(value), slices, fill_with))


def _round(value: float, precision: int = 0, method: Any = "common") -> float:
    if abs(precision) > _MAX_EXPONENT:
        raise LimitReached(f"`round` to over {_MAX_EXPONENT} digits")
    return filters.do_round(value, precision, method)


@pass_environment
def _sum(environment: Environment, value: Any, attribute: Any = None, start: float = 0) -> float:
    total: float = start
    for item in _items_of(environment, value, attribute):
        spend(1)
        if isinstance(item, Undefined):
            raise_absent(item)
        if isinstance(item, bool) or not isinstance(item, (int, float)):
            hint = "`flatten` makes one list of lists" if isinstance(item, (list, tuple)) else ""
            raise RenderFailed(f"`sum` adds numbers, and one of the items is {kind_of(item)}", hint=hint)
        total += item
    return total


def _urlencode(value: object) -> str:
    if isinstance(value, dict):
        return filters.do_urlencode({to_text(key): to_text(item) for key, item in value.items()})
    if isinstance(value, (list, tuple)):
        return filters.do_urlencode([(to_text(key), to_text(item)) for key, item in value])
    return filters.do_urlencode(to_text(value))


# lists and JSON taken apart


def from_json(value: object) -> Json:
    """`text | fromjson`: the value that a text is the JSON of."""
    if not isinstance(value, str):
        raise RenderFailed(
            f"`fromjson` reads a text, and this is {kind_of(value)}",
            hint="it is a value already: leave `| fromjson` out",
        )
    spend_text(len(value))
    spend(value.count(",") + value.count("[") + value.count("{"))
    _check_depth(value)
    try:
        return json.loads(
            value.removeprefix("\ufeff"), parse_constant=_no_number, parse_float=_number, parse_int=_whole
        )
    except json.JSONDecodeError as error:
        shown = value if len(value) <= _SHOWN else f"{value[:_SHOWN]}…"
        place = f"line {error.lineno}, column {error.colno}"
        raise RenderFailed(
            f"this text is not JSON: {error.msg} ({place} of {shown!r})",
            hint="of a model, ask for it with `output: json` or a schema",
        ) from None


def _check_depth(text: str) -> None:
    """Brackets in strings count too: no text of a sensible shape comes near."""
    depth = 0
    for char in text if text.count("[") + text.count("{") > _DEEPEST else "":
        depth += (char in "[{") - (char in "]}")
        if depth > _DEEPEST:
            raise RenderFailed(f"this JSON is nested more than {_DEEPEST} deep")


def _no_number(name: str) -> NoReturn:
    raise RenderFailed(f"this text is not JSON: {name} is no number of JSON")


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise RenderFailed(f"the number {text[:_SHOWN]} is too large")
    return number


def _whole(text: str) -> int:
    if len(text) > MAX_BITS // 4:
        raise RenderFailed(f"a number has too many digits: {len(text):,}")
    return int(text)


def flatten(value: object, levels: int | None = None) -> list[object]:
    """`lists | flatten`: the items of the lists in a list, however deep; `flatten(1)`: of one level alone."""
    if levels is not None and (isinstance(levels, bool) or not isinstance(levels, int) or levels < 0):
        raise RenderFailed("`flatten` takes a number of levels: a whole number from 0")
    flat: list[object] = []
    open_lists = [iter(_list_of(value, "flatten"))]
    while open_lists:
        for item in open_lists[-1]:
            spend(1)
            if isinstance(item, Undefined):
                raise_absent(item)
            if isinstance(item, _LISTS) and (levels is None or len(open_lists) <= levels):
                open_lists.append(iter(as_sequence(item)))
                break
            flat.append(item)
        else:
            open_lists.pop()
    return flat


def pick(value: object, number: int) -> Any:
    """One item of a list by its number from 0; behind the last, counting begins again with the first."""
    items = _list_of(value, "pick")
    if isinstance(number, bool) or not isinstance(number, int):
        raise RenderFailed(f"`pick` takes a whole number, and this is {kind_of(number)}")
    if not items:
        raise RenderFailed("`pick` cannot take an item of an empty list")
    return items[number % len(items)]


def _list_of(value: object, name: str) -> Any:
    if isinstance(value, (str, Mapping)) or value is None:
        raise RenderFailed(f"`{name}` works on a list, and this is {kind_of(value)}")
    return as_sequence(value)


def _jinja(*names: str) -> dict[str, Function]:
    return {name: filters.FILTERS[name] for name in names}


_RULES: Final[tuple[tuple[_Rule, dict[str, Function]], ...]] = (
    (
        _Rule(),
        {
            **_jinja("abs", "filesizeformat", "float", "items", "list", "map", "reject", "rejectattr", "reverse"),
            **_jinja("select", "selectattr"),
            **ORDERING,
            "batch": _batch,
            "flatten": flatten,
            "fromjson": from_json,
            "int": _int,
            "join": _join,
            "product": product,
            "round": _round,
            "slice": _slice,
            "sum": _sum,
            "tojson": _tojson,
            "zip": zip_lists,
        },
    ),
    (_Rule(read=False), {**_jinja("count", "first", "last", "length"), "pick": pick}),
    (_Rule(read=False, lenient=True), _jinja("d", "default")),
    (_Rule(slow=2), {"urlencode": _urlencode}),
    (
        _Rule(of_text=True),
        {
            **_jinja("capitalize", "lower", "upper"),
            **dict.fromkeys(("e", "escape", "forceescape"), html.escape),
            **dict.fromkeys(("safe", "string"), str),
            "center": wide(str.center),
            "format": _format,
            "indent": _indent,
            "replace": replace_text,
        },
    ),
    (_Rule(of_text=True, slow=0), {"slug": slug, "wordwrap": _wordwrap}),
    (_Rule(of_text=True, slow=2), _jinja("striptags", "title", "wordcount")),
    (_Rule(of_text=True, slow=3), {**_jinja("truncate"), "trim": _trim}),
)
FILTERS: Final = {name: rule.applied(function) for rule, functions in _RULES for name, function in functions.items()}
"""All that there are, Jinja's and a few of our own."""
FUNCTIONS: dict[str, Function] = {
    "range": _range,
    "dict": _dict,
    "zip": zip_lists,
    "product": product,
    "cycler": Cycler,
    "joiner": Joiner,
    "namespace": _namespace,
}
