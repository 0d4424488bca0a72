from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowllm.language.nodes import parse_duration, parse_share, resolve

NUMBERS = [
    ("0", 0),
    ("-0", 0),
    ("7", 7),
    ("-3", -3),
    ("+3", 3),
    ("200_000", 200_000),
    ("1.10", 1.1),
    ("1_000.5", 1000.5),
    (".5", 0.5),
    ("5.", 5.0),
    ("1e3", 1000.0),
    ("2.5E-2", 0.025),
]
TEXTS = [
    *("no", "yes", "on", "off", "y", "n", "No", "ON", "True", "TRUE", "False", "Null", "NULL"),
    *("012", "00", "0123.5", "0x1F", "0o17", "0b11", "12:30", "1:2", "2026-11-21", "2026-11-21T10:00:00Z"),
    *(".inf", "-.inf", ".nan", "inf", "nan", "1_", "_1", "1__0", "1e", "e5", "1.2.3", "1,000", "5%", "30s", "1 000"),
    *("1e999", "-", "+", ".", "\u0661\u0662", "9" * 101),
]


@pytest.mark.parametrize(("text", "value"), NUMBERS)
def test_plain_decimal_numbers_are_numbers(text: str, value: float) -> None:
    assert resolve(text) == value
    assert type(resolve(text)) is type(value)


@pytest.mark.parametrize("text", TEXTS)
def test_everything_else_is_text(text: str) -> None:
    assert resolve(text) == text
    assert isinstance(resolve(text), str)


@pytest.mark.parametrize(("text", "value"), [("true", True), ("false", False), ("null", None), ("~", None), ("", None)])
def test_the_words_of_yaml_1_2(text: str, value: object) -> None:
    assert resolve(text) is value


@given(st.integers())
def test_an_integer_that_was_written_is_read(number: int) -> None:
    assert resolve(str(number)) == (number if len(str(number)) <= 100 else str(number))


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_that_was_written_is_read(number: float) -> None:
    assert resolve(repr(number)) == number


@given(st.text())
def test_no_text_is_ever_more_than_json(text: str) -> None:
    value = resolve(text)
    assert value is None or isinstance(value, str | bool | int) or math.isfinite(value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("30s", 30), ("5m", 300), ("1h", 3600), ("7d", 604800), ("1.5h", 5400), ("30 s", 30), ("0s", 0)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["30", "1.5", "1_000"])
def test_a_duration_without_a_unit_says_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match=rf"no unit: write {text}s"):
        parse_duration(text)


@pytest.mark.parametrize(
    "text", ["", "s", "5 minutes", "-3s", "1h30m", "5M", "5S", "1e3s", "12:30", "true", "99999999d"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


def test_shares() -> None:
    assert parse_share("5%") == pytest.approx(0.05)
    assert parse_share("0.5 %") == pytest.approx(0.005)
    assert parse_share("100%") == 1


@pytest.mark.parametrize("text", ["5", "0.05", "101%", "-1%", "%", "five%"])
def test_what_is_no_share(text: str) -> None:
    with pytest.raises(ValueError, match="share"):
        parse_share(text)
