"""The filters of flowllm's own that take lists and JSON apart: `fromjson`, `flatten` and `pick`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from jinja2.runtime import Undefined

from flowllm.core.types import Json
from flowllm.language.sandbox_limits import MAX_BITS, RenderFailed, spend, spend_text
from flowllm.language.sandbox_text import kind_of, listed, reveal

_SHOWN = 60
"""Characters of a text in an error."""
_DEEPEST = 200
"""Lists and mappings within each other."""
_LISTS = (list, tuple, range, Iterator)


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
    open_lists = [iter(_items(value, "flatten"))]
    while open_lists:
        for item in open_lists[-1]:
            spend(1)
            if isinstance(item, Undefined):
                reveal(item)
            if isinstance(item, _LISTS) and (levels is None or len(open_lists) <= levels):
                open_lists.append(iter(listed(item)))
                break
            flat.append(item)
        else:
            open_lists.pop()
    return flat


def pick(value: object, number: int) -> Any:
    """One item of a list by its number from 0; behind the last, counting begins again with the first."""
    items = _items(value, "pick")
    if isinstance(number, bool) or not isinstance(number, int):
        raise RenderFailed(f"`pick` takes a whole number, and this is {kind_of(number)}")
    if not items:
        raise RenderFailed("`pick` cannot take an item of an empty list")
    return items[number % len(items)]


def _items(value: object, name: str) -> Any:
    if isinstance(value, (str, Mapping)) or value is None:
        raise RenderFailed(f"`{name}` works on a list, and this is {kind_of(value)}")
    return listed(value)
