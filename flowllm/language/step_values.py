"""What the values of the keys of steps may be: see values.py."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from flowllm.core.types import CachePolicy, OnTruncated
from flowllm.language.keys import Value, value
from flowllm.language.nodes import Mapping, Node, Scalar, Sequence, kind_of
from flowllm.language.problems import SourceError, nearest
from flowllm.language.values import (
    DURATION,
    NAME,
    NAME_SCHEMA,
    SHARE,
    TEMPLATE,
    TEXT,
    anything,
    closed,
    count,
    duration,
    is_template,
    mapping,
    number,
    only,
    or_template,
    plain_text,
    scalar,
    share,
    shown,
    text,
    word_of,
    written,
)

item_name: Final = Value(text.read, NAME_SCHEMA)


@value({"anyOf": [TEXT, closed({"file": {"type": "string"}}, "file")]})
def prompt(node: Node) -> Scalar | Mapping:
    """A text, or `{file: path}`."""
    if not isinstance(node, Mapping):
        return written(node)
    plain_text(only(node, "file", "here", "a prompt is a text or `{file: ./prompt.md}`"))
    return node


@value({"type": "string", "minLength": 1, "maxLength": 1})
def delimiter(node: Node) -> str:
    """One character."""
    found = scalar(node, "a character")
    if len(found.text) != 1 or found.text in '\r\n"':
        raise SourceError(found.where, f"`{found.text}` is not one character", 'write one, such as ";"')
    return found.text


@value(TEXT)
def command(node: Node) -> Scalar:
    """A command line, in which nothing is filled in."""
    found = written(node)
    if "{{" in found.text:
        raise SourceError(
            found.where,
            "a command is never a template: what a model wrote must not become a command",
            'values go in by `stdin:` and `env:`; use those as "$NAME"',
        )
    return found


@value({"anyOf": [{"type": "integer", "minimum": 0}, SHARE]})
def count_or_share(node: Node) -> int | float:
    """A whole number as int, or a share such as 5% as a float from 0 to 1."""
    found = scalar(node, "a number or a share")
    if found.text.strip().endswith("%"):
        return float(share(found))
    if found.is_text or found.value is None:
        raise SourceError(found.where, f"expected a whole number or a share such as 5%, found `{found.text}`")
    counted: int = number(least=0, whole=True)(found)
    return counted


on_truncated: Final = word_of(OnTruncated)


@value({"anyOf": [{"enum": ["auto", "off"]}, DURATION]})
def hedge(node: Node) -> str | float:
    """auto, off, or seconds."""
    expected = "auto, off or a duration such as 30s"
    found = scalar(node, expected)
    if found.text in {"auto", "off"}:
        return found.text
    try:
        return duration(found)
    except SourceError:
        raise SourceError(found.where, f"expected {expected}, found {shown(found)}") from None


@value({"anyOf": [{"type": "boolean"}, closed({"ttl": DURATION}, "ttl")]})
def cache(node: Node) -> CachePolicy:
    """What is kept: true, false or {ttl: 7d}."""
    if isinstance(node, Mapping):
        return CachePolicy(enabled=True, ttl=duration(only(node, "ttl", "in `cache`", "write {ttl: 7d}")))
    given = node.value if isinstance(node, Scalar) else None
    if not isinstance(given, bool):
        raise SourceError(node.where, f"expected true, false or {{ttl: 7d}}, found {shown(node)}")
    return CachePolicy(enabled=given)


def _texts(first: Value[Scalar], item: Callable[[Node], object], *empty: str) -> Value[Scalar | Sequence]:
    """A text, or a list of texts; each may be a template. `empty` is what is said of an empty list, if it may not be."""

    def read(node: Node) -> Scalar | Sequence:
        if not isinstance(node, Sequence):
            return first(node)
        if empty and not node.items:
            raise SourceError(node.where, *empty)
        for each in node.items:
            item(each)
        return node

    return Value(read, {"anyOf": [TEXT, {"type": "array", "items": TEXT, **({"minItems": 1} if empty else {})}]})


def _not_empty(node: Node) -> None:
    if scalar(node, "a text").text == "":
        raise SourceError(node.where, "expected a text, found nothing")


stop: Final = _texts(text, _not_empty, "this list is empty")
images: Final = _texts(text, text, "the list of images is empty", "leave `images` out")
texts: Final = _texts(written, written)

ROLES: Final = ("system", "developer", "user", "assistant", "tool", "function")

_CONTENTS: Final = ("content", "tool_calls", "refusal", "audio", "function_call")

_MESSAGES: Final = "write `- {role: user, content: …}`"


@value(or_template({"type": "array", "minItems": 1, "items": or_template({"type": "object", "required": ["role"]})}))
def messages(node: Node) -> Sequence | Scalar:
    """A list of messages in the API's own shape, or one template that gives such a list."""
    if isinstance(node, Scalar) and is_template(node.text):
        return node
    if not isinstance(node, Sequence):
        raise SourceError(node.where, f"expected a list of messages, found {kind_of(node)}", _MESSAGES)
    if not node.items:
        raise SourceError(node.where, "this list is empty", _MESSAGES)
    for item in node.items:
        if not (isinstance(item, Scalar) and is_template(item.text)):
            _check_message(mapping(item))
    return node


def _check_message(found: Mapping) -> None:
    keys = found.keys()
    if "role" not in keys:
        raise SourceError(found.where, "`role` is missing", "write {role: user, content: …}")
    if not any(key in keys for key in _CONTENTS):
        raise SourceError(found.where, "`content` is missing", "write {role: user, content: …}")
    role, content = found.get("role"), found.get("content")
    if isinstance(role, Scalar) and not is_template(role.text) and role.text not in ROLES:
        raise SourceError(role.where, f"unknown role {shown(role)}", nearest(role.text, ROLES))
    if isinstance(content, Scalar) and content.text:
        written(content)


@value({"type": "array", "items": {"anyOf": [TEXT, closed({"provider": TEXT, "model": TEXT}, "model")]}})
def fallback(node: Node) -> tuple[tuple[Scalar, Scalar | None], ...]:
    """Targets to ask when the first fails, as (model, provider or None)."""
    if not isinstance(node, Sequence):
        hint = "write [model, {provider: p, model: m}]"
        raise SourceError(node.where, f"expected a list of models, found {kind_of(node)}", hint)
    return tuple(_target(item) for item in node.items)


def _target(node: Node) -> tuple[Scalar, Scalar | None]:
    if isinstance(node, Scalar):
        return text(node), None
    found = mapping(node)
    for key, where in found.keys().items():
        if key not in {"provider", "model"}:
            raise SourceError(where, f"unknown key `{key}` here", nearest(key, ["provider", "model"]))
    model, provider = found.get("model"), found.get("provider")
    if model is None:
        raise SourceError(found.where, "`model` is missing", "write {provider: p, model: m}")
    return text(model), None if provider is None else text(provider)


@value({"type": "object"})
def arguments(node: Node) -> Mapping:
    """Keyword arguments."""
    found = mapping(node)
    for key, where in found.keys().items():
        if not key.isidentifier():
            raise SourceError(where, f"`{key}` cannot be the name of an argument")
    return found


@value(or_template({"type": "object"}))
def arguments_or_template(node: Node) -> Mapping | Scalar:
    """Inputs of a graph, or one template that gives a mapping of them."""
    return node if isinstance(node, Scalar) and is_template(node.text) else arguments(node)


def params_without(instead: dict[str, str]) -> Value[Mapping]:
    """What else an API takes; but for these keys, each with what to write instead."""

    def read(node: Node) -> Mapping:
        found = mapping(node)
        for key, where in found.keys().items():
            if key in instead:
                raise SourceError(where, f"`{key}` does not belong under `params`", instead[key])
        return found

    return Value(read, {"type": "object", "propertyNames": {"not": {"enum": list(instead)}}})


def _own_keys(*keys: str) -> dict[str, str]:
    return {key: f"it is a key of its own: `{key}: …`" for key in keys}


chat_params: Final = params_without(
    {
        **_own_keys("model", "messages", "max_tokens", "temperature", "top_p", "seed", "stop"),
        "stream": "answers are taken whole; it cannot be set",
        "n": "use `samples` to ask several times",
        "response_format": "use `output`",
    }
)

embed_params: Final = params_without({**_own_keys("model", "dimensions"), "input": "it is what stands under `embed`"})


def texts_by_name(pattern: re.Pattern[str], what: str) -> Value[Mapping]:
    """Texts under names; a text may be empty, and a template."""

    def read(node: Node) -> Mapping:
        found = mapping(node)
        for entry in found.entries:
            if not pattern.fullmatch(entry.key):
                raise SourceError(entry.where, f"`{entry.key}` cannot be the name of {what}")
            given = scalar(entry.value, "a text")
            if given.value is None:
                raise SourceError(given.where, f"expected a text, found {kind_of(given)}", 'write "" for an empty one')
        return found

    return Value(read, {"type": "object", "additionalProperties": TEXT})


@value({"type": "object", "additionalProperties": texts.schema})
def query(node: Node) -> Mapping:
    """Parameters of an address: texts and numbers, or lists of them, by name."""
    found = mapping(node)
    for entry in found.entries:
        for item in entry.value.items if isinstance(entry.value, Sequence) else (entry.value,):
            scalar(item, "a text, a number or a list of them")
    return found


@value({"type": ["string", "object"]})
def output(node: Node) -> Scalar | Mapping:
    """`json`, a JSON Schema, or the path of a schema's file."""
    if isinstance(node, Mapping):
        return node
    if isinstance(node, Sequence) or not node.text or not node.is_text:
        raise SourceError(node.where, f"expected `json`, a JSON Schema or a schema's file, found {shown(node)}")
    if is_template(node.text):
        raise SourceError(node.where, "`output` cannot be a template")
    return node


@value({"type": ["string", "object"]})
def graph(node: Node) -> Scalar | Mapping:
    """A file's name, or the graph itself."""
    if isinstance(node, Mapping):
        return node
    found = written(node)
    if is_template(found.text):
        raise SourceError(found.where, "the name of a workflow cannot be a template", "write its path")
    return found


DATA_FORMATS: Final = ("jsonl", "json", "csv", "lines")

DATA_FILE: Final = closed(
    {"file": TEXT, "format": {"enum": list(DATA_FORMATS)}, "delimiter": delimiter.schema, "limit": count.schema}, "file"
)

_AXIS: Final = [TEMPLATE, {"type": "array"}, DATA_FILE, closed({"files": TEXT, "limit": count.schema}, "files")]

_MATRIX: Final = {
    "type": "object",
    "propertyNames": {"pattern": f"^{NAME.pattern}$"},
    "minProperties": 1,
    "additionalProperties": {"anyOf": _AXIS},
}

foreach_source: Final = Value(anything.read, {"anyOf": [*_AXIS, closed({"matrix": _MATRIX}, "matrix")]})
