"""Schemas that can be seen to be right without the meta-schema, whose library takes a tenth of a second to import. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from flowllm.core.types import Json
from flowllm.language.schema_keywords import TYPES


def is_plain(schema: Json) -> bool:
    """Whether it has none but these common keywords, in their plain forms: it is a valid schema of the 2020-12 draft then.
    False says nothing about a schema."""
    if isinstance(schema, bool):
        return True
    return isinstance(schema, dict) and all(key in _RIGHT and _RIGHT[key](value) for key, value in schema.items())


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value)) and len(set(value)) == len(value)


_RIGHT: Final[dict[str, Callable[[Any], bool]]] = {
    "type": lambda value: _is_text(value) and value in TYPES,
    "properties": lambda value: isinstance(value, dict) and all(map(is_plain, value.values())),
    "required": _are_names,
    "enum": lambda value: isinstance(value, list),
    **dict.fromkeys(("items", "additionalProperties"), is_plain),
    **dict.fromkeys(("title", "description"), _is_text),
    **dict.fromkeys(("minimum", "maximum"), _is_number),
    **dict.fromkeys(("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"), _is_count),
}
"""Whether the value of a keyword is right."""
