"""JSON Schemas whose keywords are misspelt, missing, those of another tool, or at odds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.workflows import problems, workflow

TOP = "defaults: {provider: simulated, model: m}\nsteps: {a: {prompt: x, output: "


def told(schema: str) -> list[tuple[str, str]]:
    return [(one.message, one.hint) for one in problems(f"{TOP}{schema}}}}}")]


def warned(schema: str) -> list[str]:
    return [one.message for one in workflow(f"{TOP}{schema}}}}}").warnings]


@pytest.mark.parametrize(
    ("schema", "key", "near"),
    [
        ("{type: integer, minimun: 3}", "minimun", "minimum"),
        ("{type: object, properties: {s: {type: integer}}, requierd: [s]}", "requierd", "required"),
        ("{type: object, propertys: {s: {type: integer}}}", "propertys", "properties"),
        ("{type: array, item: {type: string}}", "item", "items"),
        ("{type: array, items: {type: string, enums: [a]}}", "enums", "enum"),
        ("{type: string, max_length: 3}", "max_length", "maxLength"),
        ("{type: object, additional_properties: false}", "additional_properties", "additionalProperties"),
        ("{any_of: [{type: string}]}", "any_of", "anyOf"),
        ("{anyOf: [{type: string, patern: a}]}", "patern", "pattern"),
        ("{$ref: '#/$defs/x', $defs: {x: {type: string, descripton: y}}}", "descripton", "description"),
        ("{type: object, patternProperties: {a: {typ: string}}}", "typ", "type"),
        ("{additionalProperties: {maximun: 1}}", "maximun", "maximum"),
    ],
)
def test_a_misspelt_keyword(schema: str, key: str, near: str) -> None:
    assert told(schema) == [(f"`{key}` is not a keyword of JSON Schema", f"did you mean `{near}`?")]


@pytest.mark.parametrize(
    ("schema", "first"),
    [
        ("{score: integer}", "score"),
        ("{score: {type: integer}}", "score"),
        ("{name: string, age: integer}", "name"),
        ("{title: string, score: number}", "score"),
        ("{type: object, properties: {a: {b: string}}}", "b"),
        ("{type: array, items: {word: string}}", "word"),
        ("{the_score: whole number}", "the_score"),
    ],
)
def test_a_schema_that_is_a_list_of_properties(schema: str, first: str) -> None:
    ((message, hint),) = told(schema)
    assert message == f"`{first}` is not a keyword of JSON Schema: nothing would be checked"
    assert f"properties: {{{first}: …}}" in hint


FOREIGN: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$comment": "c",
    "title": "T",
    "type": "object",
    "nullable": True,
    "example": {"minimun": 3},
    "examples": [{"requierd": 1}],
    "default": {"typ": "x"},
    "discriminator": {"propertyName": "kind", "mapping": {"a": "b"}},
    "xml": {"name": "x"},
    "externalDocs": {"url": "https://example.com"},
    "x-ui": {"type": "widget", "minimun": 3},
    "propertyOrdering": ["minimun"],
    "deprecated": False,
    "readOnly": True,
    "properties": {
        "minimun": {"type": "string", "format": "date-time", "enum": ["requierd"]},
        "name": {"type": "string", "const": "score"},
        "any": {},
        "yes": True,
        "nothing": {"nullable": True, "example": 5},
        "told": {"description": "only words"},
    },
    "required": ["name", "elsewhere"],
    "dependentRequired": {"name": ["minimun"]},
    "definitions": {"old": {"type": "integer", "exclusiveMinimum": 3, "multipleOf": 2}},
    "allOf": [{"if": {"properties": {"name": {"const": 1}}}, "then": {"required": ["any"]}, "else": {"not": {}}}],
}


def test_what_other_tools_write_into_schemas_is_left_alone() -> None:
    assert warned(json.dumps(FOREIGN)) == []


def test_a_keyword_that_is_like_none_is_a_warning() -> None:
    assert warned("{type: string, colour: red}") == ["`colour` is not a keyword of JSON Schema: it checks nothing"]
    assert warned("{type: object, properties: {a: {type: string, description: what it is, in short}}}") == [
        "`in short` is not a keyword of JSON Schema: it checks nothing"
    ]


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (
            "{type: object, properties: {score: {}}, required: [scor], additionalProperties: false}",
            "`scor` is required, and `additionalProperties: false` forbids it: nothing fits",
        ),
        ("{type: integer, minimum: 5, maximum: 1}", "`minimum` is above `maximum`: nothing fits"),
        ("{type: string, enum: []}", "`enum` has no values: nothing fits"),
        (
            "{type: array, items: {type: string, minLength: 5, maxLength: 1}}",
            "`minLength` is above `maxLength`: nothing fits",
        ),
    ],
)
def test_a_schema_that_nothing_fits(schema: str, message: str) -> None:
    assert [one for one, _ in told(schema)] == [message]


def test_a_required_name_that_is_nearly_a_property_is_a_warning() -> None:
    found = warned("{type: object, properties: {score: {}}, required: [scor]}")
    assert found == ["`scor` is required, and not among the `properties`"]
