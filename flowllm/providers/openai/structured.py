"""How an author's JSON Schema travels to a model: wrapped where its root is no object, strict where that is allowed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

from flowllm.core.request import OutputFormat
from flowllm.core.types import Json

_SCHEMA_MAPS = ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas")
_SCHEMA_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SCHEMAS = (
    *("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames"),
    *("unevaluatedItems", "unevaluatedProperties", "additionalItems", "contentSchema"),
)
_HOISTED = ("$defs", "definitions")

# OpenAI, "Structured model outputs", section "Supported schemas".
_STRICT_KEYWORDS = frozenset(
    (
        *("type", "properties", "required", "additionalProperties", "items", "enum", "const", "anyOf", "$ref", "$defs"),
        *("definitions", "description", "title", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
        *("multipleOf", "pattern", "format", "minItems", "maxItems"),
    )
)
_STRICT_FORMATS = frozenset(["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"])
_STRICT_DEPTH = 10
_STRICT_PROPERTIES = 5000
_STRICT_ENUM_VALUES = 1000
_STRICT_TEXT = 120_000
_STRICT_REFERENCE = re.compile(r"#(/(\$defs|definitions)/[^/]+)?")


def wire_schema(output: OutputFormat) -> dict[str, Json]:
    """The schema as it is sent: its root is always an object.

    Definitions are lifted out of what is wrapped, and references into it are rewritten, so that it means the same.
    """
    schema = output.schema or {}
    if not output.wrapped:
        return {"type": "object", **{key: value for key, value in schema.items() if key != "type"}}
    inner = dict(schema)
    hoisted: dict[str, Json] = {}
    if "$id" not in inner:  # references inside a resource of its own stay relative to it
        inner.pop("$schema", None)
        inner = _moved(inner)
        hoisted = {key: inner.pop(key) for key in _HOISTED if key in inner}
    return {
        "type": "object",
        "properties": {"value": inner},
        "required": ["value"],
        "additionalProperties": False,
        **hoisted,
    }


def _moved(schema: Json) -> Json:
    """The schema with its references to the root rewritten for its new place."""
    if not isinstance(schema, dict):
        return schema
    result = dict(schema)
    for key, value in schema.items():
        if key == "$ref" and isinstance(value, str):
            inside = value == "#" or value.startswith("#/")
            if inside and not value.startswith(tuple(f"#/{name}/" for name in _HOISTED)):
                result[key] = "#/properties/value" + value.removeprefix("#")
        elif key in _SCHEMA_MAPS and isinstance(value, dict):
            result[key] = {name: _moved(item) for name, item in value.items()}
        elif key in _SCHEMA_LISTS and isinstance(value, list):
            result[key] = [_moved(item) for item in value]
        elif key in _SCHEMAS:
            result[key] = _moved(value)
    return result


def strict_allowed(schema: Mapping[str, Json]) -> bool:
    """Whether OpenAI's strict mode takes this schema as it is; the root must be an object.

    Errs on the side of no: a schema that is not sent as strict is still validated here.
    """
    if schema.get("type") != "object" or "anyOf" in schema:
        return False
    properties = enum_values = text = 0
    for depth, part in _parts(schema, 1):
        if depth > _STRICT_DEPTH or not _strict_part(part):
            return False
        names = [*part.get("properties", {}), *part.get("$defs", {}), *part.get("definitions", {})]
        values = part.get("enum", [])
        properties += len(part.get("properties", {}))
        enum_values += len(values)
        text += sum(map(len, names)) + sum(len(value) for value in values if isinstance(value, str))
    return properties <= _STRICT_PROPERTIES and enum_values <= _STRICT_ENUM_VALUES and text <= _STRICT_TEXT


def _parts(schema: Json, depth: int) -> Iterator[tuple[int, dict[str, Json]]]:
    """The schema and every schema in it, with how many objects deep each is; what is no mapping as `{}`."""
    if not isinstance(schema, dict):
        yield depth, {}
        return
    yield depth, schema
    if depth > _STRICT_DEPTH:
        return
    branches = schema.get("anyOf", [])
    below = [*branches] if isinstance(branches, list) else []
    below += [schema["items"]] if "items" in schema else []
    for key in ("properties", *_HOISTED):
        mapping = schema.get(key, {})
        below += mapping.values() if isinstance(mapping, dict) else ()
    for item in below:
        yield from _parts(item, depth + 1)


def _strict_part(part: Mapping[str, Json]) -> bool:
    """Whether one schema, its parts left out, is allowed."""
    if not _STRICT_KEYWORDS.issuperset(part):
        return False
    if "$ref" in part:
        return set(part) == {"$ref"} and _STRICT_REFERENCE.fullmatch(str(part["$ref"])) is not None
    if "anyOf" in part:
        return isinstance(part["anyOf"], list)
    types = part.get("type")
    types = types if isinstance(types, list) else [types]
    known = all(isinstance(item, str) for item in types)
    return (
        known
        and ("object" not in types or _strict_object(part))
        and ("array" not in types or isinstance(part.get("items"), dict))
        and part.get("format", "date") in _STRICT_FORMATS
    )


def _strict_object(part: Mapping[str, Json]) -> bool:
    properties, required = part.get("properties", {}), part.get("required", [])
    return (
        part.get("additionalProperties") is False
        and isinstance(properties, dict)
        and isinstance(required, list)
        and set(properties) == set(required)
    )


def instruction(schema: Mapping[str, Json] | None) -> str:
    """What a model is told that cannot be given a schema otherwise. Names JSON, which `json_object` demands."""
    if schema is None:
        return "Answer with a single valid JSON value and nothing else: no explanation, no code fence."
    text = json.dumps(schema, ensure_ascii=False, separators=(", ", ": "))
    return (
        "Answer with a single JSON object and nothing else: no explanation, no code fence. "
        f"It must satisfy this JSON Schema:\n{text}"
    )
