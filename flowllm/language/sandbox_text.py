"""Values as text and as JSON: what `{{ … }}`, `~`, `join`, `tojson` and `format` make of them."""

from __future__ import annotations

import json
import math
import re
import string
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import NoReturn

from jinja2.runtime import Undefined

from flowllm.core.types import Json
from flowllm.language.sandbox_limits import RenderFailed, check_width, spend, spend_text

_KINDS: dict[type, str] = {
    str: "text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    tuple: "a list",
    range: "a list",
    dict: "a mapping",
    type(None): "null",
}
_PERCENT = re.compile(
    r"%(?:%|(?:\((?P<key>[^)]*)\))?(?P<flags>[-+ #0]*)(?P<width>\*|\d+)?(?:\.(?P<precision>\*|\d+))?"
    r"(?P<type>[diouxXeEfFgGcrsa])?)"
)
_NUMBER = re.compile(r"\d+")


def kind_of(value: object) -> str:
    """What a value is, in the words of a workflow's author."""
    return _KINDS.get(type(value), "no plain value")


_ENCODE = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def raise_absent(absent: Undefined) -> NoReturn:
    """Raise the error that a value which is not there stands for."""
    str(absent)
    raise RenderFailed("an `if` without `else` gave no value here", hint="say what it is otherwise")


def to_text(value: object) -> str:
    """A value in a text: text as it is, numbers, lists, mappings, true and false as JSON.

    Raises RenderFailed for null, for what is not there and for what JSON cannot hold.
    """
    if type(value) is str:
        return value
    if value is None:
        raise RenderFailed(
            "the value is null, and a text cannot show that", hint="write what to show instead: `x or ''`"
        )
    if type(value) is Undefined:
        return ""  # `{{ 'x' if y }}`: nothing is shown where y is false, as everywhere in Jinja
    return json_text(value) if not isinstance(value, str) else str(value)


def json_text(value: object, indent: int | None = None) -> str:
    """JSON as plain UTF-8 text, keys in their order."""
    plain = to_json(value)
    if indent:
        _check_indented(plain, indent)
        text = json.dumps(plain, ensure_ascii=False, allow_nan=False, indent=indent)
    else:
        text = _ENCODE(plain)
    spend_text(len(text))
    return text


def _check_indented(value: Json, indent: int) -> None:
    """Raises LimitReached where white space alone would make the text too long."""
    level: list[Json] = [value]
    depth = blank = 0
    while level:
        within = [part for part in level if isinstance(part, (list, dict))]
        level = [item for part in within for item in (part.values() if isinstance(part, dict) else part)]
        depth += 1
        blank += len(level) * depth * indent
    spend_text(blank)


def to_json(value: object) -> Json:
    """A fresh copy of a value made of plain JSON types; iterators become lists.

    Raises RenderFailed for what JSON cannot hold.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (str, int, float)):
        return _scalar(value)
    if type(value) is dict:  # the usual case, without the slow question whether it is a Mapping of any kind
        spend(6 + len(value))
        return {key if type(key) is str else _key(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        spend(6 + len(value))
        return [to_json(item) for item in value]
    if isinstance(value, Mapping):
        spend(6 + len(value))
        return {_key(key): to_json(item) for key, item in value.items()}
    return _rare(value)


def _scalar(value: float | str) -> float | str:
    """The value as Python's own type, whatever subclass of it came in."""
    if isinstance(value, str):
        spend_text(len(value))
        return str(value)
    if isinstance(value, int):
        return int(value)
    if math.isfinite(value):
        return float(value)
    raise RenderFailed(f"the number is {value}, which JSON cannot hold")


def _rare(value: object) -> Json:
    if isinstance(value, Undefined):
        raise_absent(value)
    if callable(value):
        raise RenderFailed("this is a function, not a value", hint="call it: write `(…)` behind it")
    if isinstance(value, (Iterator, range)):
        return [to_json(item) for item in as_sequence(value)]
    raise RenderFailed(f"a value of type {type(value).__name__} is not one that JSON can hold")


def _key(key: object) -> str:
    if isinstance(key, str):
        return str(key)
    raise RenderFailed(f"a key of a mapping must be text, and one is {kind_of(key)}", hint="write `key | string`")


def as_sequence(value: object) -> Sequence[object]:
    """Anything that can be looped over as something that has a length, paid for by its items."""
    if isinstance(value, Undefined):
        raise_absent(value)
    if isinstance(value, (list, tuple, range, str)):
        spend(len(value))
        return value
    if not isinstance(value, Iterable):
        raise RenderFailed(f"{kind_of(value)} cannot be looped over")
    items = []
    for item in value:
        spend(1)
        items.append(item)
    return items


def join_texts(parts: Iterable[str], separator: str = "") -> str:
    """The parts as one text. Raises LimitReached, before it is made, if it is too long."""
    texts = parts if isinstance(parts, (list, tuple)) else list(parts)
    spend_text(sum(map(len, texts)) + len(separator) * max(0, len(texts) - 1))
    return separator.join(texts)


def percent_format(template: str, arguments: object) -> str:
    """Python's `%` on text, with JSON for lists, mappings, true and false, and no widths out of proportion."""
    values = arguments if isinstance(arguments, tuple) else (arguments,)
    named = arguments if isinstance(arguments, Mapping) else {}
    pieces: list[str] = []
    end = used = 0
    by_name = False
    for found in _PERCENT.finditer(template):
        pieces.append(template[end : found.start()])
        end = found.end()
        if found[0] == "%%":
            pieces.append("%")
            continue
        if found["type"] is None or "*" in (found["width"] or "") + (found["precision"] or ""):
            raise RenderFailed(f"`{found[0]}` is not a format", hint="write `%%` for a percent sign")
        key = found["key"]
        value = _argument(used if key is None else key, values, named)
        by_name, used = by_name or key is not None, used + (key is None)
        spec = found[0].replace(f"({key})", "", 1)
        pieces.append(_formatted(value, partial(_percent, spec), found["width"], found["precision"]))
    if not by_name and not isinstance(arguments, Mapping) and used < len(values):
        raise RenderFailed("there are more values than places for them in the format")
    return join_texts([*pieces, template[end:]])


def _percent(spec: str, value: object) -> str:
    return str(spec % (value,))


def _argument(key: int | str, values: Sequence[object], named: Mapping[str, object]) -> object:
    """The value for one place of a format."""
    if isinstance(key, int):
        if key < len(values):
            return values[key]
        raise RenderFailed("there are fewer values than places for them in the format")
    if key in named:
        return named[key]
    raise RenderFailed(f"the format names `{key}`, and there is no value of that name")


def _formatted(value: object, form: Callable[[object], str], *widths: str | None) -> str:
    for number in widths:
        check_width(int(number[:9]) if number else 0)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    piece = form(value if is_number else to_text(value))
    spend(1)
    spend_text(len(piece))
    return piece


class _TextFormatter(string.Formatter):
    """`"…{}…".format(…)`, with JSON for lists, mappings, true and false, and no widths out of proportion."""

    def get_field(
        self, field_name: str, args: Sequence[object], kwargs: Mapping[str, object]
    ) -> tuple[object, int | str]:
        """Only whole values: `{0}` and `{name}`, never `{0.x}` or `{0[x]}`."""
        if "." in field_name or "[" in field_name:
            raise RenderFailed(f"`{{{field_name}}}` cannot be formatted", hint="hand in the very value")
        key: int | str = int(field_name) if field_name.isdecimal() else field_name
        return _argument(key, args, kwargs), key

    def convert_field(self, value: object, conversion: str | None) -> object:
        """`!s`, `!r` and `!a` are all the value as text."""
        return value if conversion is None else to_text(value)

    def format_field(self, value: object, format_spec: str) -> str:
        """One value, its width within bounds."""
        return _formatted(value, lambda shown: format(shown, format_spec), *_NUMBER.findall(format_spec))


def brace_format(template: str, *args: object, **kwargs: object) -> str:
    """Python's `str.format` in its safe form."""
    try:
        return _TextFormatter().vformat(template, args, kwargs)
    except ValueError as error:
        raise RenderFailed(f"the format is wrong: {error}") from None
