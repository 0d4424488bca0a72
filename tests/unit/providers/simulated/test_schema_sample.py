from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from flowllm.core.fingerprint import canonical
from flowllm.core.request import OutputFormat
from flowllm.providers.openai.request import wire_schema
from flowllm.providers.simulated.schema_sample import sample

BY_HAND: list[Any] = [
    True,
    {},
    {"const": {"a": 1}},
    {"enum": ["a", 1, None]},
    {"type": "integer", "enum": [1, "x", 2.5]},
    {"type": "null"},
    {"type": ["null", "integer"]},
    {"type": "string", "minLength": 50},
    {"type": "string", "maxLength": 3},
    {"type": "string", "minLength": 4, "maxLength": 4},
    {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
    {"type": "string", "pattern": r"^(yes|no)\d*$", "maxLength": 4},
    {"type": "string", "pattern": r"^\S+@\w+\.(com|org)$"},
    {"type": "integer", "minimum": 3, "maximum": 3},
    {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 2},
    {"type": "integer", "multipleOf": 7, "minimum": 50},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.0001},
    {"type": "number", "minimum": -5.5, "maximum": -5.25},
    {"type": "number", "maximum": -1000},
    {"type": "array", "items": {"type": "string"}, "minItems": 12},
    {"type": "array", "items": {"enum": [1, 2, 3]}, "uniqueItems": True, "minItems": 3},
    {"type": "array", "maxItems": 0},
    {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False, "minItems": 2},
    {"type": "array", "contains": {"const": 9}, "items": {"type": "integer"}, "minContains": 2},
    {"minItems": 2, "items": {"type": "boolean"}},
    {"type": "object", "required": ["unknown"]},
    {"type": "object", "minProperties": 4},
    {"type": "object", "properties": {"a": {}, "b": {}, "c": {}}, "maxProperties": 1},
    {"type": "object", "minProperties": 2, "additionalProperties": {"type": "integer"}},
    {
        "type": "object",
        "patternProperties": {"^x_": {"type": "integer"}},
        "additionalProperties": False,
        "minProperties": 2,
    },
    {"type": "object", "propertyNames": {"pattern": "^[a-z]{3}$"}, "minProperties": 1},
    {"properties": {"a": {"type": "integer"}}, "required": ["a"]},
    {"type": "object", "properties": {"gone": False, "here": True}, "additionalProperties": False},
    {"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 2}]},
    {"oneOf": [{"type": "integer", "multipleOf": 2}, {"type": "integer", "multipleOf": 3}]},
    {"allOf": [{"type": "integer", "minimum": 5}, {"maximum": 6}, {"type": "number"}]},
    {
        "allOf": [
            {"type": "object", "properties": {"a": {"minimum": 3}}},
            {"properties": {"a": {"type": "integer", "maximum": 4}}, "required": ["a"]},
        ]
    },
    {"type": "integer", "minimum": 0, "maximum": 9, "not": {"minimum": 5}},
    {
        "type": "object",
        "properties": {"a": {"enum": [1, 2]}, "b": {"type": "string"}},
        "required": ["a"],
        "if": {"properties": {"a": {"const": 1}}},
        "then": {"required": ["b"]},
    },
    {"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "integer"}}},
    {
        "type": "object",
        "properties": {"name": {"type": "string"}, "children": {"type": "array", "items": {"$ref": "#"}}},
        "required": ["name", "children"],
    },
    {
        "$ref": "#/$defs/list",
        "$defs": {
            "list": {
                "anyOf": [
                    {
                        "type": "object",
                        "properties": {"head": {"type": "integer"}, "tail": {"$ref": "#/$defs/list"}},
                        "required": ["head", "tail"],
                    },
                    {"type": "null"},
                ]
            }
        },
    },
]


@pytest.mark.parametrize("schema", BY_HAND, ids=lambda schema: json.dumps(schema)[:60])
def test_what_is_drawn_satisfies_the_schema(schema: Any) -> None:
    validator = Draft202012Validator(schema)
    for seed in range(25):
        value = sample(schema, random.Random(seed))
        assert validator.is_valid(value), value
        assert json.loads(json.dumps(value)) == value


FORMATS = ["date", "time", "date-time", "email", "ipv4", "ipv6", "uuid", "regex"]


@pytest.mark.parametrize("form", FORMATS)
def test_formats(form: str) -> None:
    checker = Draft202012Validator.FORMAT_CHECKER
    for seed in range(20):
        checker.check(sample({"type": "string", "format": form}, random.Random(seed)), form)


def bounds(low: int, high: int, names: tuple[str, str]) -> st.SearchStrategy[dict[str, int]]:
    pairs = st.tuples(st.integers(low, high), st.integers(0, 5))
    return pairs.flatmap(
        lambda pair: st.sampled_from(
            [{}, {names[0]: pair[0]}, {names[1]: pair[0]}, {names[0]: pair[0], names[1]: pair[0] + pair[1]}]
        )
    )


NAMES = st.sampled_from(["title", "score", "tags", "next", "ok"])
LEAVES = st.one_of(
    bounds(0, 8, ("minLength", "maxLength")).map(lambda found: {"type": "string", **found}),
    bounds(-20, 20, ("minimum", "maximum")).map(lambda found: {"type": "integer", **found}),
    bounds(-20, 20, ("minimum", "maximum")).map(lambda found: {"type": "number", **found}),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {}, {"$ref": "#/$defs/leaf"}]),
    st.lists(st.one_of(st.integers(0, 5), st.text(max_size=3)), min_size=1, max_size=4).map(
        lambda found: {"enum": found}
    ),
)


def grown(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    objects = st.tuples(
        st.dictionaries(NAMES, inner, max_size=4), st.booleans(), st.lists(NAMES, max_size=2, unique=True)
    ).map(
        lambda found: {
            "type": "object",
            "properties": found[0],
            "required": list(found[0]) if found[1] else [name for name in found[2] if name in found[0]],
            "additionalProperties": False,
        }
    )
    arrays = st.tuples(inner, bounds(0, 4, ("minItems", "maxItems"))).map(
        lambda found: {"type": "array", "items": found[0], **found[1]}
    )
    return st.one_of(objects, arrays, st.lists(inner, min_size=1, max_size=3).map(lambda found: {"anyOf": found}))


SCHEMAS = st.recursive(LEAVES, grown, max_leaves=12).map(
    lambda schema: {**schema, "$defs": {"leaf": {"type": "string", "minLength": 1}}}
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(schema=SCHEMAS, seed=st.integers(0, 1000))
def test_random_schemas_are_satisfied_also_as_they_travel(schema: dict[str, Any], seed: int) -> None:
    for asked in (schema, wire_schema(OutputFormat(schema=schema))):
        value = sample(asked, random.Random(seed))
        assert Draft202012Validator(asked).is_valid(value), (asked, value)


def test_equal_seeds_draw_equal_values() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "number"}}}
    drawn = [canonical(sample(schema, random.Random(seed))) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_the_number_of_items_is_taken_where_the_schema_allows_it() -> None:
    open_ended = {"type": "array", "items": {"type": "string"}}
    assert len(sample(open_ended, random.Random(1), items=10)) == 10
    assert len(sample({**open_ended, "maxItems": 4}, random.Random(1), items=10)) == 4
    assert len(sample({**open_ended, "minItems": 12}, random.Random(1), items=10)) == 12
    assert len(sample(wire_schema(OutputFormat(schema=open_ended)), random.Random(1), items=10)["value"]) == 10


def test_texts_come_from_the_phrase_by_the_property_s_name() -> None:
    schema = {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]}
    assert sample(schema, random.Random(1), lambda _, name: f"<{name}>") == {"title": "<title>"}


@pytest.mark.parametrize(
    "schema", [{"not": {}}, False, {"$ref": "#/nowhere"}, {"$ref": "#"}, {"type": "string", "pattern": "(?<=x"}]
)
def test_what_cannot_be_satisfied_ends_all_the_same(schema: Any) -> None:
    assert canonical(sample(schema, random.Random(1)))
