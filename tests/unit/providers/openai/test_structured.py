from __future__ import annotations

from typing import Any

import pytest
from jsonschema import Draft202012Validator

from flowllm.core.request import OutputFormat
from flowllm.providers.openai.request import instruction, strict_allowed, wire_schema

OBJECT = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}


def within(item: dict[str, Any]) -> dict[str, Any]:
    return {**OBJECT, "properties": {"a": item}}


@pytest.mark.parametrize(
    "schema",
    [
        OBJECT,
        within({"type": ["string", "null"]}),
        within({"type": "array", "items": OBJECT, "minItems": 2}),
        within({"anyOf": [{"type": "string", "enum": ["x"]}, {"type": "null"}]}),
        within({"type": "string", "format": "date", "pattern": "^2"}),
        {**within({"$ref": "#/$defs/x"}), "$defs": {"x": {"type": "integer", "minimum": 1}}},
        within({"$ref": "#"}),
        {"type": "object", "properties": {}, "required": [], "additionalProperties": False},
    ],
)
def test_strict_mode_takes(schema: dict[str, Any]) -> None:
    assert strict_allowed(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "items": {"type": "string"}},
        {**OBJECT, "required": []},
        {key: value for key, value in OBJECT.items() if key != "additionalProperties"},
        {**OBJECT, "additionalProperties": {"type": "string"}},
        {**OBJECT, "anyOf": [OBJECT]},
        {**OBJECT, "allOf": [OBJECT]},
        within({}),
        within(True),  # type: ignore[arg-type]
        within({"type": "array"}),
        within({"type": "string", "minLength": 1}),
        within({"type": "string", "default": "x"}),
        within({"type": "string", "format": "uri"}),
        within({"oneOf": [{"type": "string"}]}),
        within({"$ref": "#/$defs/x", "description": "d"}),
        within({"$ref": "https://example.com/schema"}),
        within({"type": "object", "properties": {"b": {"type": "string"}}, "required": ["b"]}),
        within({"type": "string", "enum": [str(n) for n in range(1001)]}),
    ],
)
def test_strict_mode_does_not_take(schema: dict[str, Any]) -> None:
    assert not strict_allowed(schema)


def test_strict_mode_ends_at_ten_levels() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(9):
        schema = within(schema)
    assert strict_allowed(schema)
    assert not strict_allowed(within(within(schema)))


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (None, False),
        (OBJECT, False),
        ({"properties": {}}, False),
        ({"type": "array"}, True),
        ({"type": "string"}, True),
        ({}, True),
        ({"$ref": "#/$defs/x"}, True),
        ({"anyOf": [OBJECT]}, True),
        ({**OBJECT, "type": ["object", "null"]}, True),
        ({**OBJECT, "type": ["object"]}, False),
        ({"properties": {}, "anyOf": [{"type": "object"}, {"type": "null"}]}, True),
    ],
)
def test_what_is_wrapped(schema: dict[str, Any] | None, expected: bool) -> None:
    assert OutputFormat(schema=schema).wrapped is expected


RECURSIVE = {"type": "array", "items": {"anyOf": [{"type": "integer"}, {"$ref": "#"}]}}
DEFINED = {"$ref": "#/$defs/tree", "$defs": {"tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}}}}
POINTED = {"type": "array", "prefixItems": [{"type": "integer"}, {"$ref": "#/prefixItems/0"}], "items": False}
LITERAL = {"enum": [{"$ref": "#"}, "x"]}
NAMED = {
    "anyOf": [{"properties": {"$ref": {"type": "integer"}, "o": {"$ref": "#"}}, "type": "object"}, {"type": "null"}]
}
OWN_ID = {"$id": "https://example.com/s", "type": "array", "items": {"anyOf": [{"type": "integer"}, {"$ref": "#"}]}}


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (RECURSIVE, [1, [2, [3]]], [1, ["x"]]),
        (DEFINED, [[], [[]]], [["x"]]),
        (POINTED, [1, 2], [1, "x"]),
        (LITERAL, {"$ref": "#"}, {"$ref": "#/properties/value"}),
        (NAMED, {"$ref": 1, "o": {"o": None}}, {"o": {"$ref": "x"}}),
        (OWN_ID, [1, [2]], [["x"]]),
    ],
)
def test_a_wrapped_schema_means_the_same(schema: dict[str, Any], good: object, bad: object) -> None:
    sent = wire_schema(OutputFormat(schema=schema))
    Draft202012Validator.check_schema(sent)
    validator = Draft202012Validator(sent)
    assert Draft202012Validator(schema).is_valid(good)
    assert not Draft202012Validator(schema).is_valid(bad)
    assert validator.is_valid({"value": good})
    assert not validator.is_valid({"value": bad})
    assert not validator.is_valid(good)


def test_wrapping_leaves_the_author_s_schema_alone() -> None:
    schema = {"type": "array", "items": {"$ref": "#/$defs/x"}, "$defs": {"x": {"type": "string"}}}
    wire_schema(OutputFormat(schema=schema))
    assert schema == {"type": "array", "items": {"$ref": "#/$defs/x"}, "$defs": {"x": {"type": "string"}}}


def test_an_object_without_a_type_gets_one() -> None:
    assert wire_schema(OutputFormat(schema={"properties": {}})) == {"type": "object", "properties": {}}


def test_instructions_name_json() -> None:
    assert "JSON" in instruction(None)
    assert '"überschrift"' in instruction({"properties": {"überschrift": {}}})
