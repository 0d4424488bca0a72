"""Schemas that ask for too much: refused with the place, or answered, and never computed for ever."""

from __future__ import annotations

from random import Random

import pytest

from flowllm.core.types import Json
from flowllm.providers.simulated import schema_sample
from flowllm.providers.simulated.schema_sample import SchemaTooLarge, sample
from flowllm.schemas.check import SchemaCheck

TEXT: Json = {"type": "string"}


def within(schema: Json) -> Json:
    """The schema as the one property of an object."""
    return {"type": "object", "properties": {"a": schema}, "required": ["a"]}


def nested(items: int, levels: int) -> Json:
    schema = TEXT
    for _ in range(levels):
        schema = {"type": "array", "minItems": items, "items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"minLength": 10**9}, "`minLength` is 1000000000"),
        ({"type": "array", "minItems": 10**8}, "`minItems` is 100000000"),
        ({"contains": {"const": 1}, "minContains": 10**8}, "`minContains` is 100000000"),
        ({"minProperties": 10**8}, "`minProperties` is 100000000"),
        ({"prefixItems": [TEXT] * 30_000, "minItems": 30_000}, "`minItems` is 30000"),
        ({"pattern": "a{1000000}"}, "1,000,000 repeats"),
        ({"pattern": "^((a{1000}){1000}){1000}$"}, "`pattern` asks for"),
        ({"type": "number", "minimum": 10**400}, "beyond the numbers"),
        (nested(1000, 3), "over 20,000 values"),
        (nested(2, 20), "over 20,000 values"),
        ({"type": "array", "items": {"type": "boolean"}, "uniqueItems": True, "minItems": 500}, "over 20,000"),
        ({"$ref": "#/$defs/r"}, "over 20,000 values"),
        ({"allOf": [{"minLength": 1}, {"minLength": 10**9}]}, "`minLength` is 1000000000"),
        ({"if": {"type": "string"}, "then": {"minLength": 10**9}, "else": {"minLength": 10**9}}, "`minLength`"),
    ],
)
def test_what_is_too_much_is_refused_with_its_place(
    schema: Json, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema_sample, "_CPU_SECONDS", 60.0)  # what is counted is enough
    below = {
        "type": "object",
        "properties": {"x": {"$ref": "#/$defs/r"}, "y": {"$ref": "#/$defs/r"}},
        "required": ["x", "y"],
    }
    with pytest.raises(SchemaTooLarge, match=f"at `a.*` of the schema: .*{expected}"):
        sample({**within(schema), "$defs": {"r": below}}, Random(1))


@pytest.mark.parametrize(
    "schema",
    [
        {"minLength": 900_000},
        {"type": "array", "items": TEXT, "minItems": 1500},
        {"type": "array", "items": TEXT, "maxItems": 10**12},
        {"type": "array", "contains": {"const": 1}, "minContains": 500},
        {"type": "object", "minProperties": 3000},
        {"type": "integer", "minimum": 10**400},
        {"type": "integer", "multipleOf": 10**400},
        {"type": "number", "minimum": -1.7e308, "maximum": 1.7e308},
        {"type": "number", "exclusiveMinimum": 1e300},
        {"type": "number", "exclusiveMaximum": -1e300},
        {"type": "integer", "enum": list(range(3000)), "minimum": 2999},
        {"type": "object", "properties": {"a": TEXT}, "required": ["a"], "dependentRequired": {"a": ["b"]}},
    ],
)
def test_what_is_only_large_is_answered(schema: Json, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema_sample, "_CPU_SECONDS", 60.0)
    for seed in range(3):
        assert SchemaCheck(schema).fits(sample(schema, Random(seed)), within=60)


def test_time_is_limited_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema_sample, "_CPU_SECONDS", 0.0)
    with pytest.raises(SchemaTooLarge, match="in the time that a simulated answer has"):
        sample(within(TEXT), Random(1))
