"""Secrets are masked in every spelling in which they can come back."""

from __future__ import annotations

import base64
import csv
import html
import io
import json
import pprint
import re
import shlex
from collections.abc import Callable
from urllib.parse import quote, quote_plus, urlencode

import pytest
import yaml

from flowllm.core.redact import MASK, Redactor
from flowllm.language.sandbox import Sandbox
from flowllm.language.sandbox_limits import start

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


AWKWARD = (
    KEY,
    SECRET,
    'it\'s "quoted" pass/word',
    "ÄÖÜßstraße-ŒUVRE99",
    "Zoë\tpass\nword-line-Two xyzzy",
    "%41percent%20in-it%zz99",
    "~tilde_under.dot-dash!star*(paren)",
    "correct horse battery staple 42",
)
FILTERS = (
    *("upper", "lower", "title", "capitalize", "reverse", "urlencode", "urlencode | lower", "urlencode | urlencode"),
    *("title | urlencode", "tojson", "tojson | tojson", "upper | tojson", "[x] | tojson(indent=2)", "e", "e | upper"),
    *("title | e", "forceescape | e", "slug", "trim", "center(99)", "indent(6)", "striptags", "replace('-', '_')"),
    *("list | join", "{x: 1} | dictsort | string", "{'a': x} | urlencode", "x.swapcase()", "x.casefold()"),
    *("x.zfill(99)", "'%s|%s' | format(x, x)", "'{!r}'.format(x)", "x.split() | join(', ')", "map('upper') | join"),
)
OTHERS: dict[str, Callable[[str], str]] = {
    "CSV": lambda text: _csv([text, '"']),
    "YAML": lambda text: yaml.safe_dump([text], default_style="'"),
    "YAML in double quotes": lambda text: yaml.safe_dump([text], default_style='"'),
    "a shell": shlex.quote,
    "repr of what a shell takes": lambda text: repr(shlex.quote(text)),
    "pprint": lambda text: pprint.pformat({"a": text}, width=10),
    "SQL": lambda text: text.replace("'", "''"),
    "repr of repr": lambda text: repr(repr([text])),
    "repr of JSON": lambda text: repr(json.dumps(text)),
    "escapes of code points": lambda text: text.encode("unicode_escape").decode(),
}


def _csv(row: list[str]) -> str:
    file = io.StringIO()
    csv.writer(file).writerow(row)
    return file.getvalue()


def _seen(secret: str, masked: str) -> list[str]:
    """Words of a secret that are still there, in any case and direction."""
    lowered = masked.lower()
    words = [word.lower() for word in re.findall(r"[A-Za-z0-9]{4,}", secret)]
    return [word for word in words if word in lowered or word[::-1] in lowered]


@pytest.mark.parametrize("secret", AWKWARD)
def test_what_filters_and_writers_make_of_a_secret_is_masked(secret: str) -> None:
    redactor, sandbox = Redactor([secret]), Sandbox()
    for used in FILTERS:
        expression = used if re.search(r"\bx\b", used) else f"x | {used}"
        start()
        made = sandbox.from_string(f"{{{{ {expression} }}}}").render(x=secret)
        assert _seen(secret, redactor.text(made)) == [], f"{expression} gives {made}"
    for writer, write in OTHERS.items():
        assert _seen(secret, redactor.text(write(secret))) == [], f"{writer} gives {write(secret)}"


def test_what_templates_cut_out_of_a_secret_is_learned() -> None:
    redactor = Redactor([KEY])
    real = {"a": ["Bearer " + KEY, KEY[:14], {"n": 4471129}], "b": f"{KEY} {KEY[-12:]} of ours", "c": True}
    twin = {"a": ["Bearer ***K***", "***K***", {"n": 0}], "b": "***K*** ***K*** of ours", "c": False}
    redactor.derive(real, twin)
    assert redactor.value(real) == {
        "a": [f"Bearer {MASK}", MASK, {"n": MASK}],
        "b": f"{MASK} {MASK} of ours",
        "c": True,
    }
    assert redactor.text("Bearer of ours is True") == "Bearer of ours is True"


def test_of_many_derived_texts_only_some_are_learned() -> None:
    redactor = Redactor([KEY])
    for number in range(200):
        redactor.derive(f"{KEY[:9]}-{number:09}", "***K***")
    assert redactor.text(f"{KEY[:9]}-{3:09}") == MASK
    assert redactor.text(f"{KEY[:9]}-{190:09}") != MASK


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
        told = redactor.partial(filled + KEY[:cut], lost="end")
        assert told.replace(MASK, "").strip("o ") == ""
        told = redactor.partial(KEY[cut:] + filled, lost="start")
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
