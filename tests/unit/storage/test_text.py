from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowllm.storage.sql.rows import content_hash, from_json, from_text, to_json, to_text

ANY_TEXT = st.text(st.characters(exclude_categories=()))  # lone surrogates included
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=10,
)


@given(ANY_JSON)
def test_json_comes_back_equal_and_travels_as_ascii(value: object) -> None:
    text = to_json(value)
    assert text.isascii()
    assert "\0" not in text
    assert repr(from_json(text)) == repr(value)


@given(ANY_TEXT)
def test_short_text_comes_back_equal_and_can_always_be_encoded(text: str) -> None:
    stored = to_text(text)
    stored.encode()
    assert "\0" not in stored
    assert from_text(stored) == text


@given(ANY_TEXT, ANY_TEXT)
def test_different_texts_stay_different(one: str, other: str) -> None:
    assert (to_text(one) == to_text(other)) == (one == other)


@pytest.mark.parametrize("text", ["blog", "Müller", "gpt-4o", "日本", "a/b.yaml"])
def test_ordinary_text_stays_readable(text: str) -> None:
    assert to_text(text) == text


def test_keys_keep_their_order() -> None:
    assert to_json({"b": 1, "a": 2}) == '{"b":1,"a":2}'


def nested(depth: int) -> list[object]:
    value: list[object] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("value", [math.nan, math.inf, {1, 2}, object(), b"x"])
def test_what_json_cannot_hold_is_a_value_error(value: object) -> None:
    with pytest.raises(ValueError):
        to_json(value)


def test_what_is_nested_too_deep_is_a_value_error() -> None:
    with pytest.raises(ValueError):
        to_json(nested(200_000))


def test_json_that_is_too_deep_to_read_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="deep"):
        from_json("[" * 200_000 + "]" * 200_000)


def test_the_hash_tells_texts_apart_that_join_alike() -> None:
    assert content_hash("ab", "c") != content_hash("a", "bc")
