"""Secrets are masked in every spelling in which they can come back."""

from __future__ import annotations

import base64
import html
import json
import re
from urllib.parse import quote, quote_plus, urlencode

import pytest

from flowllm.redact import MASK, Redactor

SECRET = "pa\"ss\\word ä+/9<&'=x1y2z3"
PARTS = [part for part in re.split(r"[^a-z0-9]+", SECRET) if len(part) > 2]
KEY = "sk-Canary/0123+456789.abcdef=="


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "text",
    [
        SECRET,
        json.dumps({"key": SECRET}),
        json.dumps({"key": SECRET}, ensure_ascii=False),
        f"http://host/?key={quote(SECRET, safe='')}",
        f"http://host/?key={quote_plus(SECRET)}",
        urlencode({"key": SECRET}),
        quote(SECRET),
        re.sub("%..", lambda found: found[0].lower(), quote(SECRET, safe="")),
        quote(quote(SECRET)),
        html.escape(SECRET),
        html.escape(json.dumps(SECRET)),
        html.escape(SECRET).replace("&#x27;", "&#39;").replace("&quot;", "&#34;"),
        SECRET.encode("ascii", "xmlcharrefreplace").decode(),
        repr(SECRET),
        ascii([SECRET]),
        str(SECRET.encode()),
        json.dumps(json.dumps(json.dumps([SECRET]))),
        json.dumps(SECRET).replace("/", "\\/").replace("<", "\\u003c").replace("&", "\\u0026"),
    ],
)
def test_every_spelling_is_masked(text: str) -> None:
    masked = Redactor([SECRET]).text(text)
    assert MASK in masked
    assert not [part for part in PARTS if part in masked], masked


@pytest.mark.parametrize("around", ["", "u:", "us:", "usr:", "Bearer "])
@pytest.mark.parametrize("behind", ["", ":", ":x", ":xy"])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_base64_is_masked_wherever_the_secret_stands_in_it(around: str, behind: str, encode: object) -> None:
    encoded = encode(f"{around}{KEY}{behind}".encode()).decode()
    masked = Redactor([KEY]).text(f"Basic {encoded}.")
    assert MASK in masked
    assert len(masked) <= len(_b64(around)) + len(_b64(behind)) + len("Basic ***.") + 3, masked


def test_other_cases_long_lines_and_numbers_are_masked() -> None:
    pem = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0\nBAQEFAASCBKcwggSjAgEA\n-----END KEY-----\n"
    redactor = Redactor([KEY, pem, "90210042", "trailing-line\n"])
    assert redactor.text(f"{KEY.upper()} {KEY.lower()} trailing-line") == "*** *** ***"
    assert redactor.text("x BAQEFAASCBKcwggSjAgEA x") == "x *** x"
    assert redactor.value([90210042, 1, 0.5, True, None]) == [MASK, 1, 0.5, True, None]


def test_what_ordinary_text_has_is_left_alone() -> None:
    text = "the sky is blue, 2 < 3 & a=b; %20 \\n \\u00e4 " * 20
    assert Redactor([SECRET, KEY]).text(text) == text


def test_of_a_text_that_breaks_off_within_a_secret_nothing_of_it_is_left() -> None:
    redactor, filled = Redactor([KEY]), f"{KEY} {'ooooo ' * 100} {KEY}"
    for cut in range(1, len(KEY)):
        told = redactor.rest(filled + KEY[:cut], lost="end")
        assert told.replace(MASK, "").strip("o ") == ""
        told = redactor.rest(KEY[cut:] + filled, lost="start")
        assert told.replace(MASK, "").strip("o ") == ""


def test_many_backslashes_take_no_time() -> None:
    text = "a" + "\\" * 100_000
    assert Redactor(["a\\\\\\\\b-and-more"]).text(text) == text


def test_keys_and_nested_values_are_masked() -> None:
    value = {"a": [{"secret-1": "the secret-1"}], "n": 1, "none": None}
    assert Redactor(["secret-1"]).value(value) == {"a": [{MASK: f"the {MASK}"}], "n": 1, "none": None}


def test_the_longest_is_masked_first() -> None:
    assert Redactor(["secret", "secret-and-more"]).text("secret-and-more secret") == f"{MASK} {MASK}"


def test_short_values_are_left_alone() -> None:
    assert Redactor(["abc", ""]).text("abcdef") == "abcdef"
