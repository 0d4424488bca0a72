"""The keywords of a JSON Schema: one that is not known constrains nothing, and is seldom what was meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Final

from flowllm.language.nodes import Mapping, Node, Scalar, Sequence
from flowllm.language.problems import Problems, nearest

BY_NAME: Final = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies")
"""Keywords whose values are mappings from names to schemas."""
_LISTS: Final = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_SINGLE: Final = (
    *("additionalProperties", "unevaluatedProperties", "items", "additionalItems", "unevaluatedItems"),
    *("contains", "propertyNames", "not", "if", "then", "else", "contentSchema"),
)
_OTHERS: Final = (
    *("$schema", "$id", "id", "$ref", "$comment", "$vocabulary", "type", "enum", "const", "default", "examples"),
    *("title", "description", "readOnly", "writeOnly", "deprecated", "required", "dependentRequired"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength"),
    *("pattern", "format", "minItems", "maxItems", "uniqueItems", "minContains", "maxContains"),
    *("minProperties", "maxProperties", "contentEncoding", "contentMediaType"),
)
_FOREIGN: Final = frozenset(
    {
        # OpenAPI
        *("nullable", "example", "discriminator", "xml", "externalDocs", "components", "schemas"),
        # servers and editors
        *("strict", "name", "propertyOrdering", "propertyOrder", "order", "markdownDescription", "enumNames"),
        *("enumDescriptions", "defaultSnippets", "errorMessage", "deprecationMessage", "doNotSuggest"),
        *("optional", "options", "tsType", "javaType", "unit", "units", "group", "category", "widget", "hidden"),
    }
)
"""Keywords that are no part of JSON Schema, and that tools of others write and read."""
_KEYWORDS: Final = frozenset((*BY_NAME, *_LISTS, *_SINGLE, *_OTHERS))
TYPES: Final = ("array", "boolean", "integer", "null", "number", "object", "string")
_NEAR: Final = 0.8
_PAIRS: Final = (
    ("minimum", "maximum"),
    ("minLength", "maxLength"),
    ("minItems", "maxItems"),
    ("minProperties", "maxProperties"),
)


def check_keywords(document: Node, problems: Problems, step: str) -> None:
    """Add a problem for each keyword that is misspelt and each schema that has none, and warn of unknown ones."""
    for schema in _schemas(document):
        keys = schema.keys()
        first = next((key for key in keys if _is_property(key, schema)), None)
        if first is not None:
            problems.add(
                keys[first],
                f"`{first}` is not a keyword of JSON Schema: nothing would be checked",
                f"for an object with `{first}` write {{type: object, properties: {{{first}: …}}, required: [{first}]}}",
                step=step,
            )
            continue
        for key, where in keys.items():
            if _is_known(key):
                continue
            near = _meant(key)
            if near:
                problems.add(where, f"`{key}` is not a keyword of JSON Schema", f"did you mean `{near}`?", step=step)
            else:
                problems.warn(where, f"`{key}` is not a keyword of JSON Schema: it checks nothing", step=step)
        _check_satisfiable(schema, problems, step)


def _is_property(key: str, schema: Mapping) -> bool:
    """The author means a property: its value is a type, or there is no keyword at all."""
    if key in _KEYWORDS or key.startswith(("x-", "$")) or _meant(key):
        return False
    value = schema.get(key)
    if isinstance(value, Scalar) and value.text in TYPES:
        return True
    return not any(_is_known(entry.key) or _meant(entry.key) for entry in schema.entries)


def _is_known(key: str) -> bool:
    return key in _KEYWORDS or key in _FOREIGN or key.startswith(("x-", "$"))


def _meant(key: str) -> str:
    """The keyword that a key nearly is; empty if there is none."""
    spelt = {known.lower(): known for known in sorted(_KEYWORDS)}
    near = difflib.get_close_matches(key.replace("_", "").replace("-", "").lower(), spelt, n=1, cutoff=_NEAR)
    return spelt[near[0]] if near else ""


def _schemas(node: Node | None) -> Iterator[Mapping]:
    """A schema and those within it, where JSON Schema has one."""
    if not isinstance(node, Mapping):
        return
    yield node
    for entry in node.entries:
        key, value = entry.key, entry.value
        if key in _LISTS and isinstance(value, Sequence):
            for item in value.items:
                yield from _schemas(item)
        elif isinstance(value, Mapping) and key in BY_NAME:
            for inner in value.entries:
                yield from _schemas(inner.value)
        elif isinstance(value, Mapping) and key in _SINGLE:
            yield from _schemas(value)


def _check_satisfiable(schema: Mapping, problems: Problems, step: str) -> None:
    """Add a problem where no value can ever fit."""
    required, named = schema.get("required"), schema.get("properties")
    closed = schema.get("additionalProperties")
    names = list(named.keys()) if isinstance(named, Mapping) else []
    shut = isinstance(closed, Scalar) and closed.value is False and schema.get("patternProperties") is None
    for item in required.items if isinstance(required, Sequence) else ():
        if not isinstance(item, Scalar) or item.text in names:
            continue
        near = nearest(item.text, names)
        if shut:
            message = f"`{item.text}` is required, and `additionalProperties: false` forbids it: nothing fits"
            problems.add(item.where, message, near, step=step)
        elif near.startswith("did"):
            problems.warn(item.where, f"`{item.text}` is required, and not among the `properties`", near, step=step)
    values = schema.get("enum")
    if isinstance(values, Sequence) and not values.items:
        problems.add(values.where, "`enum` has no values: nothing fits", step=step)
    for least, most in _PAIRS:
        low, high = schema.get(least), schema.get(most)
        if isinstance(low, Scalar) and isinstance(high, Scalar) and _above(low.value, high.value):
            problems.add(low.where, f"`{least}` is above `{most}`: nothing fits", step=step)


def _above(low: object, high: object) -> bool:
    numbers = isinstance(low, (int, float)) and isinstance(high, (int, float))
    return numbers and low > high  # type: ignore[operator]
