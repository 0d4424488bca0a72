from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from flowllm.language.schema_plain import is_plain

_KEYS = (
    "type",
    "properties",
    "items",
    "additionalProperties",
    "required",
    "enum",
    "title",
    "minItems",
    "minimum",
    "not",
)
_LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 2), st.floats(-2, 2), st.sampled_from(["string", "array", "a", "b"])
)
_SCHEMAS = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_KEYS), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=300)
@given(_SCHEMAS)
def test_what_is_plain_is_a_valid_schema(schema: Any) -> None:
    if is_plain(schema):
        Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {},
        True,
        {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 2, "title": "t"},
        {"type": "object", "properties": {"a": {"enum": ["x", 1]}}, "required": ["a"], "additionalProperties": False},
        {"type": "number", "minimum": 0.5, "maximum": 2, "description": "d"},
    ],
)
def test_the_usual_schemas_are_plain(schema: Any) -> None:
    assert is_plain(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "text"},
        {"type": ["string", "null"]},
        {"properties": ["a"]},
        {"items": "string"},
        {"required": "a"},
        {"required": ["a", "a"]},
        {"required": [1]},
        {"enum": "a"},
        {"minItems": -1},
        {"minItems": True},
        {"maximum": "1"},
        {"title": 1},
        {"$schema": "http://json-schema.org/draft-07/schema#"},
        {"anyOf": []},
    ],
)
def test_all_others_are_left_to_the_meta_schema(schema: Any) -> None:
    assert not is_plain(schema)
