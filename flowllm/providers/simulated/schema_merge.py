"""A JSON Schema without `$ref`, `allOf`, `anyOf`, `oneOf` and `if`: what they ask for, joined into one schema."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from flowllm.core.types import Json


def merged(one: Mapping[str, Json], other: Json, *, without: tuple[str, ...] = ()) -> dict[str, Json]:
    """A schema for what satisfies both, keys `without` left out of `one`; where they cannot be joined, `other` wins."""
    result = {key: value for key, value in one.items() if key not in without}
    for key, value in other.items() if isinstance(other, Mapping) else ():
        join = _JOINS.get(key)
        result[key] = join(result[key], value) if join is not None and key in result else value
    return result


def resolved(reference: Json, root: Json) -> Json:
    """What a local reference points to (RFC 6901); True for one that points nowhere."""
    target = root
    for part in str(reference).removeprefix("#").split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(target, list) and key.isdigit() and int(key) < len(target):
            target = target[int(key)]
        else:
            target = target.get(key, True) if isinstance(target, Mapping) else True
    return target


def _maps(one: Json, other: Json) -> Json:
    return {**one, **other, **{name: {"allOf": [one[name], other[name]]} for name in one if name in other}}


def _types(one: Json, other: Json) -> Json:
    """An integer is a number too."""
    firsts, seconds = ({kinds} if isinstance(kinds, str) else set(kinds) for kinds in (one, other))
    if ("integer" in firsts and "number" in seconds) or ("number" in firsts and "integer" in seconds):
        firsts, seconds = firsts | {"integer"}, seconds | {"integer"}
    return sorted(firsts & seconds) or other


_JOINS: dict[str, Callable[[Json, Json], Json]] = {
    **dict.fromkeys(("properties", "$defs", "definitions", "patternProperties"), _maps),
    **dict.fromkeys(("required", "allOf"), lambda one, other: [*one, *(item for item in other if item not in one)]),
    **dict.fromkeys(
        ("items", "additionalProperties", "contains", "propertyNames"), lambda one, other: {"allOf": [one, other]}
    ),
    **dict.fromkeys(("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"), max),
    **dict.fromkeys(("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"), min),
    "enum": lambda one, other: [item for item in other if item in one] or other,
    "type": _types,
}
