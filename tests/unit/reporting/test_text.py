from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowllm.reporting.text import (
    dollars,
    duration,
    error_text,
    json_text,
    one_line,
    plural,
    readable,
    visible,
    waits_text,
)

HOSTILE = "a\x1b[31mred\x1b[0m \x00 \x7f \x9b2J \r \u202eabc\u2066 \u200b \ud800 \U000e0041 \u2028"


def test_visible_writes_out_what_could_act_on_a_terminal() -> None:
    assert visible("\x1b[31m") == r"\x1b[31m"
    assert visible("a\rb") == r"a\rb"
    assert visible("\u202e\u2066") == r"\u202e\u2066"
    assert visible("\U000e0041") == r"\U000e0041"
    assert visible("\ud800") == r"\ud800"


def test_visible_keeps_ordinary_text() -> None:
    text = "Line one\n\tindented: naïve café 日本語 👩\u200d💻 €"
    assert visible(text) == text


@given(st.text())
def test_visible_leaves_nothing_that_acts(text: str) -> None:
    for char in visible(text):
        assert char in "\n\t" or unicodedata.category(char) not in {"Cc", "Cs"}
        assert char not in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c"


def test_json_text_is_harmless_and_reads_back() -> None:
    text = json_text({"a": HOSTILE})
    assert visible(text) == text
    assert json.loads(text) == {"a": HOSTILE}


@given(st.recursive(st.none() | st.booleans() | st.text(), st.lists, max_leaves=5))
def test_json_text_is_json(value: object) -> None:
    assert json.loads(json_text(value)) == value
    assert json_text(value, ascii_only=True).isascii()


def test_json_text_keeps_letters_readable() -> None:
    assert json_text(["é"], indent=None) == '["é"]'


def test_json_text_takes_any_mapping_and_tuples_and_refuses_the_rest() -> None:
    class Record(dict[str, int]):
        pass

    assert json_text({"a": Record(x=1), "b": (1, 2)}, indent=None) == '{"a": {"x": 1}, "b": [1, 2]}'
    with pytest.raises(TypeError, match="object is not JSON"):
        json_text(object())


def test_readable_shows_text_as_it_is_and_the_rest_as_json() -> None:
    assert readable("a\nb\x1b") == "a\nb\\x1b"
    assert readable(["x", True, None]) == '[\n  "x",\n  true,\n  null\n]'
    assert readable({"a": [1, -2.5e-07], "b": []}) == '{\n  "a": [1, -2.5e-07],\n  "b": []\n}'
    assert readable(["[\n 1\n]", [3]]) == '[\n  "[\\n 1\\n]",\n  [3]\n]'


def test_one_line_is_cut() -> None:
    assert one_line("a\n  b\tc") == "a b c"
    assert one_line("x" * 50, 10) == "x" * 9 + "…"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "-"),
        (0, "0ms"),
        (0.85, "850ms"),
        (0.9999, "1.0s"),
        (1.24, "1.2s"),
        (59.94, "59.9s"),
        (59.97, "1m 00s"),
        (185, "3m 05s"),
        (7620, "2h 07m"),
    ],
)
def test_duration(seconds: float | None, shown: str) -> None:
    assert duration(seconds) == shown


@pytest.mark.parametrize(
    ("cost", "shown"),
    [
        (None, "unknown"),
        (0.0, "$0"),
        (0.0004, "$0.0004"),
        (0.1, "$0.10"),
        (0.00025245000000001, "$0.0002524"),
        (0.00025244999999999, "$0.0002524"),
        (1.25, "$1.25"),
        (1234.5, "$1,234.50"),
        (0.00001234567, "$0.00001235"),
        (0.00039999, "$0.0004"),
        (0.02005, "$0.02005"),
        (1.23456, "$1.235"),
        (2.0, "$2.00"),
        (98.765, "$98.77"),
    ],
)
def test_dollars(cost: float | None, shown: str) -> None:
    assert dollars(cost) == shown


def test_plural() -> None:
    assert plural(1, "step") == "1 step"
    assert plural(0, "step") == "0 steps"
    assert plural(12_000, "step") == "12,000 steps"


def test_error_text_is_one_harmless_line() -> None:
    assert error_text({"type": "Refused", "message": "no\n\x1b[2J"}) == r"Refused: no \x1b[2J"
    assert error_text(None) == "unknown error"


def test_waits_are_told_with_the_longest_first() -> None:
    assert waits_text({"rate": 0.4, "equal_call": 0.8, "commit": 0.0004}) == "1.2s: equal call 800ms, rate 400ms"
    assert waits_text({"commit": 0.0004}) == waits_text({}) == ""
