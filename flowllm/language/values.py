"""What the values of keys may be: one `Value` each, of its reader and its JSON Schema.

A reader takes a node and gives the value, or raises SourceError at the very scalar that is at fault. Where a
template may stand, the node itself is given on, to be compiled with its place.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any, Final, TypeVar

from flowllm.core.types import Json, OnError, Priority
from flowllm.language.keys import Value, value
from flowllm.language.nodes import (
    DURATION_PATTERN,
    SHARE_PATTERN,
    SIZE_PATTERN,
    Mapping,
    Node,
    Scalar,
    Sequence,
    kind_of,
    parse_duration,
    parse_share,
    parse_size,
)
from flowllm.language.problems import SourceError, listing, nearest

E = TypeVar("E", bound=StrEnum)

NAME = re.compile(r"[a-z_][a-z0-9_]*")
ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
PROVIDER_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
MARKS = ("{{", "{%", "{#")
LARGEST = 2**53
SMALLEST_RATE = 1e-6
TEMPLATE: Final[dict[str, Json]] = {"type": "string", "pattern": r"\{[{%#]"}
TEXT: Final[dict[str, Json]] = {"type": ["string", "number", "boolean"]}
NAME_SCHEMA: Final[dict[str, Json]] = {"type": "string", "pattern": f"^{NAME.pattern}$"}
_VARIABLE: Final[dict[str, Json]] = {"type": "string", "pattern": f"^{ENVIRONMENT_NAME.pattern}$"}
DURATION: Final[dict[str, Json]] = {"type": "string", "pattern": DURATION_PATTERN}
SHARE: Final[dict[str, Json]] = {"type": "string", "pattern": SHARE_PATTERN}


def closed(properties: dict[str, Json], *required: str) -> dict[str, Json]:
    """The schema of a mapping that has no other keys."""
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def or_template(schema: dict[str, Json]) -> dict[str, Json]:
    """The schema of what a template may stand for."""
    return {"anyOf": [schema, TEMPLATE]}


def is_template(text: str) -> bool:
    """The text holds something that Jinja would act on."""
    return any(mark in text for mark in MARKS)


# texts


def scalar(node: Node, what: str) -> Scalar:
    """The node, if it is a scalar."""
    if not isinstance(node, Scalar):
        raise SourceError(node.where, f"expected {what}, found {kind_of(node)}")
    return node


@value(TEXT)
def text(node: Node) -> Scalar:
    """A text as written, which may be a template; an unquoted number or word counts as text."""
    found = scalar(node, "a text")
    if not found.text.strip():
        raise SourceError(found.where, "expected a text, found nothing")
    return found


condition: Final = Value(text.read, TEMPLATE)
"""A text that is one {{ expression }}."""


@value(TEXT)
def plain_text(node: Node) -> str:
    """A text as written that is not a template."""
    found = text(node)
    if "{{" in found.text:
        raise SourceError(found.where, "a template cannot stand here", "write the value itself")
    return found.text


@value({"type": ["string", "number", "boolean", "null"]})
def any_text(node: Node) -> str:
    """A text as written, empty or not, whatever is in it."""
    return scalar(node, "a text").text


@value(TEXT)
def written(node: Node) -> Scalar:
    """A text of which nothing may get lost: a comment behind it is an error if it is not quoted."""
    found = text(node)
    if found.comment is not None:
        raise SourceError(
            found.comment, "YAML takes what follows # as a comment, not as part of the text", "quote the text"
        )
    return found


def only(node: Mapping, key: str, place: str, hint: str) -> Node:
    """The value of the one key that a mapping has."""
    for other, where in node.keys().items():
        if other != key:
            raise SourceError(where, f"unknown key `{other}` {place}", hint)
    found = node.get(key)
    if found is None:
        raise SourceError(node.where, f"`{key}` is missing", hint)
    return found


def shown(node: Node) -> str:
    """A value as a sentence shows it."""
    return f"`{node.text}`" if isinstance(node, Scalar) and node.text else kind_of(node)


@value({"type": "string", "pattern": "^https?://"})
def base_url(node: Node) -> str:
    """An http or https address without credentials or fragment; it may have a query, such as `?api-version=…`."""
    found = plain_text(node)
    match = re.fullmatch(r"https?://([^/?#\s]+)(/[^?#\s]*)?(\?[^#\s]*)?", found)
    if not match:
        raise SourceError(node.where, f"`{found}` is not an address", "write it like https://llm.example.com/v1")
    if "@" in match[1]:
        hint = "name the variable that holds the key with `api_key_env`"
        raise SourceError(node.where, "the address holds a password", hint)
    return found.rstrip("/")


@value(_VARIABLE)
def environment_name(node: Node) -> str:
    """The name of an environment variable."""
    found = plain_text(node)
    if not ENVIRONMENT_NAME.fullmatch(found):
        hint = "name the variable that holds the key, never the key itself"
        raise SourceError(node.where, "this is not the name of an environment variable", hint)
    return found


# numbers, durations, words


def number(
    *,
    least: float | None = None,
    most: float | None = None,
    whole: bool = False,
    template: bool = False,
    word: str = "",
) -> Value[Any]:
    """Numbers within bounds; with `template` a text that is a template passes too, and the node is given on; `word` may
    stand in place of a number."""
    what = ("a whole number" if whole else "a number") + (f" or {word}" if word else "")
    kinds = (int,) if whole else (int, float)

    def read(node: Node) -> Any:
        found = scalar(node, what)
        given = found.value
        if word and given == word:
            return word
        if template and isinstance(given, str) and is_template(given):
            return found
        if isinstance(given, bool) or not isinstance(given, kinds):
            shown = f"`{found.text}`" if given is not None else kind_of(found)
            quoted = not found.plain and re.fullmatch(r"[-+]?[0-9][0-9_.]*", found.text)
            raise SourceError(found.where, f"expected {what}, found {shown}", "take the quotes away" if quoted else "")
        if given < (-LARGEST if least is None else least):
            raise SourceError(
                found.where, f"{found.text} is too small: the least is {-LARGEST if least is None else least:g}"
            )
        if given > (LARGEST if most is None else most):
            shown = f"{LARGEST:,}" if most is None else f"{most:g}"
            raise SourceError(found.where, f"{found.text} is too large: the most is {shown}")
        return found if template else given

    bounds = {"minimum": least, "maximum": most}
    schema: dict[str, Json] = {
        "type": "integer" if whole else "number",
        **{k: bound for k, bound in bounds.items() if bound is not None},
    }
    if word:
        schema = {"anyOf": [{"const": word}, schema]}
    return Value(read, or_template(schema) if template else schema)


count: Final[Value[int]] = number(least=1, whole=True)
count_or_auto: Final[Value[int | str]] = number(least=1, whole=True, word="auto")
integer: Final[Value[int]] = number(whole=True)
rate: Final[Value[float]] = Value(number(least=SMALLEST_RATE).read, {"type": "number", "exclusiveMinimum": 0})


@value({"type": "boolean"})
def boolean(node: Node) -> bool:
    """A word: true or false."""
    found = scalar(node, "true or false")
    if not isinstance(found.value, bool):
        hint = "take the quotes away" if found.text in {"true", "false"} else ""
        raise SourceError(node.where, f"expected true or false, found {shown(node)}", hint)
    return found.value


@value(DURATION)
def duration(node: Node) -> float:
    """Seconds, more than none."""
    seconds = duration_or_zero(node)
    if seconds <= 0:
        raise SourceError(node.where, "this duration must be longer than nothing")
    return seconds


@value(DURATION)
def duration_or_zero(node: Node) -> float:
    """Seconds."""
    try:
        return parse_duration(scalar(node, "a duration such as 30s").text)
    except ValueError as error:
        raise SourceError(node.where, str(error)) from None


@value(SHARE)
def share(node: Node) -> float:
    """A share, 0 to 1."""
    try:
        return parse_share(scalar(node, "a share such as 5%").text)
    except ValueError as error:
        raise SourceError(node.where, str(error)) from None


@value({"type": "string", "pattern": SIZE_PATTERN})
def size(node: Node) -> int:
    """Bytes, more than none."""
    try:
        found = parse_size(scalar(node, "a size such as 4GiB").text)
    except ValueError as error:
        raise SourceError(node.where, str(error)) from None
    if not 0 < found <= LARGEST:
        raise SourceError(node.where, f"this size must be {'at most 8192TiB' if found else 'more than nothing'}")
    return found


def choice(*allowed: str) -> Value[str]:
    """One of several words."""

    def read(node: Node) -> str:
        found = scalar(node, listing(allowed, "or"))
        if found.text not in allowed:
            raise SourceError(found.where, f"expected {listing(allowed, 'or')}, found {shown(found)}")
        return found.text

    return Value(read, {"enum": list(allowed)})


def word_of(enum: type[E]) -> Value[E]:
    """One of an enumeration's words."""
    words = choice(*(member.value for member in enum))
    return Value(lambda node: enum(words(node)), words.schema)


priority: Final = word_of(Priority)
on_error: Final = word_of(OnError)


def name_list(pattern: re.Pattern[str], what: str) -> Value[tuple[Scalar, ...]]:
    """A list of names, each once."""

    def read(node: Node) -> tuple[Scalar, ...]:
        if not isinstance(node, Sequence):
            raise SourceError(node.where, f"expected a list, found {kind_of(node)}", "write [a, b]")
        seen: dict[str, Scalar] = {}
        for item in node.items:
            found = scalar(item, what)
            if not pattern.fullmatch(found.text):
                raise SourceError(found.where, f"{shown(found)} is not {what}")
            if found.text in seen:
                raise SourceError(found.where, f"`{found.text}` is named twice")
            seen[found.text] = found
        return tuple(seen.values())

    names = {"type": "string", "pattern": f"^{pattern.pattern}$"}
    return Value(read, {"type": "array", "items": names, "uniqueItems": True})


# mappings


@value({"type": "object"})
def mapping(node: Node) -> Mapping:
    """A mapping of any keys."""
    if not isinstance(node, Mapping):
        raise SourceError(node.where, f"expected a mapping, found {kind_of(node)}", "write {key: value}")
    return node


@value({"type": "object", "additionalProperties": TEXT})
def headers(node: Node) -> dict[str, str]:
    """Names and values of HTTP headers."""
    result = {}
    for entry in mapping(node).entries:
        if not HEADER_NAME.fullmatch(entry.key):
            raise SourceError(entry.where, f"`{entry.key}` cannot be the name of a header")
        result[entry.key] = any_text(entry.value)
        if re.search(r"[\x00-\x1f\x7f]", result[entry.key]):
            raise SourceError(entry.value.where, "a header's value is one line without control characters")
    return result


PRICES: Final = ("input", "output", "cached_input", "cache_write")


@value(closed({key: {"type": "number", "minimum": 0} for key in PRICES}, "input", "output"))
def price(node: Node) -> dict[str, float]:
    """US dollars per million tokens, by kind of token."""
    result = {}
    for entry in mapping(node).entries:
        if entry.key not in PRICES:
            raise SourceError(entry.where, f"unknown key `{entry.key}` in a price", nearest(entry.key, PRICES))
        result[entry.key] = float(number(least=0)(entry.value))
    for key in ("input", "output"):
        if key not in result:
            raise SourceError(node.where, f"`{key}` is missing", "write {input: 0.15, output: 0.60}")
    return result


@value({})
def anything(node: Node) -> Node:
    """Whatever there is."""
    return node


INPUT_TYPES: Final = ("string", "integer", "number", "boolean", "array", "object")
INPUT: Final[dict[str, Json]] = {
    "anyOf": [
        {"type": ["string", "number", "boolean", "null", "array"]},
        {
            "type": "object",
            "properties": {
                "type": {"enum": list(INPUT_TYPES)},
                "default": {},
                "enum": {"type": "array", "minItems": 1},
                "description": {"type": "string"},
            },
            "additionalProperties": False,
        },
    ]
}
