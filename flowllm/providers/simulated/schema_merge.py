"""Two JSON Schemas as one that asks for both, as far as keywords can be joined."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from flowllm.core.types import Json


def merged(one: Mapping[str, Json], other: Json) -> dict[str, Json]:
    """A schema for what satisfies both; where they cannot be joined, `other` wins."""
    if not isinstance(other, Mapping):
        return dict(one)
    result = dict(one)
    for key, value in other.items():
        join = _JOINS.get(key)
        result[key] = join(result[key], value) if join is not None and key in result else value
    return result


def _maps(one: Json, other: Json) -> Json:
    shared = {name: {"allOf": [one[name], other[name]]} for name in one if name in other}
    return {**one, **other, **shared}


def _lists(one: Json, other: Json) -> Json:
    return [*one, *(item for item in other if item not in one)]


def _both(one: Json, other: Json) -> Json:
    return {"allOf": [one, other]}


def _common(one: Json, other: Json) -> Json:
    return [item for item in other if item in one] or other


def _types(one: Json, other: Json) -> Json:
    """An integer is a number too."""
    firsts, seconds = ({kinds} if isinstance(kinds, str) else set(kinds) for kinds in (one, other))
    if ("integer" in firsts and "number" in seconds) or ("number" in firsts and "integer" in seconds):
        firsts, seconds = firsts | {"integer"}, seconds | {"integer"}
    return sorted(firsts & seconds) or other


_JOINS: dict[str, Callable[[Json, Json], Json]] = {
    **dict.fromkeys(("properties", "$defs", "definitions", "patternProperties"), _maps),
    **dict.fromkeys(("required", "allOf"), _lists),
    **dict.fromkeys(("items", "additionalProperties", "contains", "propertyNames"), _both),
    **dict.fromkeys(("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"), max),
    **dict.fromkeys(("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"), min),
    "enum": _common,
    "type": _types,
}
