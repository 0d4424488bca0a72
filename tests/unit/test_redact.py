"""Secrets are masked in every spelling in which they can come back."""

from __future__ import annotations

import json
from urllib.parse import quote, quote_plus, urlencode

import pytest

from flowllm.redact import MASK, Redactor

SECRET = 'pa"ss\\word ä+/9'


@pytest.mark.parametrize(
    "text",
    [
        SECRET,
        json.dumps({"key": SECRET}),
        json.dumps({"key": SECRET}, ensure_ascii=False),
        f"http://host/?key={quote(SECRET, safe='')}",
        f"http://host/?key={quote_plus(SECRET)}",
        urlencode({"key": SECRET}),
    ],
)
def test_every_spelling_is_masked(text: str) -> None:
    masked = Redactor([SECRET]).text(text)
    assert MASK in masked
    assert "ss" not in masked


def test_keys_and_nested_values_are_masked() -> None:
    value = {"a": [{"secret-1": "the secret-1"}], "n": 1, "none": None}
    assert Redactor(["secret-1"]).value(value) == {"a": [{MASK: f"the {MASK}"}], "n": 1, "none": None}


def test_the_longest_is_masked_first() -> None:
    assert Redactor(["secret", "secret-and-more"]).text("secret-and-more secret") == f"{MASK} {MASK}"


def test_short_values_are_left_alone() -> None:
    assert Redactor(["abc", ""]).text("abcdef") == "abcdef"
