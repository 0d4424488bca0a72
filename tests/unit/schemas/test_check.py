from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from flowllm.schemas.check import SchemaCheck
from flowllm.schemas.patterns import TooLongToCheck, check_pattern, has_match

EVIL = "^([a-z0-9]+-?)+$"
SLUG = "the-quick-brown-fox-jumps-over-the-lazy-dog-and-runs-away-very-fast into the woods"


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {"pattern": EVIL}}},
        {"properties": {"a": {"$ref": "#/$defs/x"}}, "$defs": {"x": {"$schema": "x:y", "pattern": EVIL}}},
        {"$schema": "http://json-schema.org/draft-07/schema#", "items": {"pattern": EVIL}, "pattern": EVIL},
        {"propertyNames": {"pattern": EVIL}},
        {"patternProperties": {EVIL: False}, "additionalProperties": False},
        {"additionalProperties": False, "patternProperties": {"^(a+)+$": True, EVIL: True}},
    ],
)
def test_a_pattern_that_python_never_ends_is_checked_at_once(schema: dict[str, Any]) -> None:
    for value in ({"a": SLUG}, {SLUG: 1}, [SLUG], SLUG):
        SchemaCheck(schema).fits(value)
    with pytest.raises(TooLongToCheck):
        SchemaCheck({"unevaluatedProperties": False, "patternProperties": {EVIL: True}}).fits({SLUG: 1})


def test_what_explodes_otherwise_is_given_up() -> None:
    tree = {"anyOf": [{"type": "array", "items": {"$ref": "#/$defs/t"}}] * 6}
    value: Any = []
    for _ in range(40):
        value = [value, 1]
    with pytest.raises(TooLongToCheck):
        SchemaCheck({"$ref": "#/$defs/t", "$defs": {"t": tree}}).errors(value, within=0.05)
    with pytest.raises(TooLongToCheck):
        SchemaCheck({"items": {"anyOf": [{"type": "string"}] * 50}}).errors([0] * 100_000, within=0.05)


def test_unique_items_of_many_mappings_take_no_square() -> None:
    check = SchemaCheck({"uniqueItems": True})
    many: list[Any] = [{"a": [number]} for number in range(20_000)]
    assert check.fits(many)
    assert not check.fits([*many, {"a": [0.0]}])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.0, 1.0, 0.5, "", "a"]),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.sampled_from("abc"), below, max_size=3),
    max_leaves=8,
)
BOTH: dict[str, Any] = {
    "uniqueItems": True,
    "properties": {"a": {"type": "integer"}},
    "patternProperties": {"^b$": {"type": "string"}},
    "additionalProperties": {"type": "number"},
}


@given(JSON)
def test_it_says_what_the_library_says(value: Any) -> None:
    own = SchemaCheck(BOTH).errors(value)
    theirs = sorted(Draft202012Validator(BOTH).iter_errors(value), key=lambda e: list(map(str, e.path)))
    assert [error.message for error in own] == [error.message for error in theirs]


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ("^(?=.*[0-9])[a-z0-9]{3,}$", "ab1", True),
        ("^(?=.*[0-9])[a-z0-9]{3,}$", "abc", False),
        (r"^(a|b)\1$", "aa", True),
        (r"^\p{L}+$", "Größe", True),
        ("^x{2,3}$", "xx", True),
        ("^.$", "\ud800", True),
    ],
)
def test_what_patterns_mean(pattern: str, text: str, *, matches: bool) -> None:
    assert has_match(pattern, text) is matches


def test_backreferences_are_given_up_after_a_number_of_steps() -> None:
    with pytest.raises(TooLongToCheck):
        has_match(r"^([a-z0-9]+-?)+\1x$", SLUG.partition(" ")[0])


@pytest.mark.parametrize("pattern", ["(", "[a", "(a{1000}){1000}", "(?P<x>a)(?P=x)"])
def test_what_cannot_be_run_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="ECMA"):
        check_pattern(pattern)
