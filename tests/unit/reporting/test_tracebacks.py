from __future__ import annotations

from flowllm.reporting.screen import plain
from flowllm.reporting.tracebacks import traceback_lines

ONE = """Traceback (most recent call last):
  File "/home/me/a.py", line 7, in run
    return load(text)
           ^^^^^^^^^^
  File "/usr/lib/python3.11/json/__init__.py", line 346, in loads
    return \x1b[31mdecode(s)
ValueError: bad"""
TWO = """Traceback (most recent call last):
  File "/home/me/b.py", line 3
KeyError: 'x'"""
CAUSED = "\n\nThe above exception was the direct cause of the following exception:\n\n"


def lines(text: str) -> list[str]:
    return [plain(line) for line in traceback_lines(text)]


def test_what_broke_comes_first_and_own_code_before_that_of_libraries() -> None:
    assert lines(ONE) == [
        "  at /home/me/a.py:7, in run",
        "      return load(text)",
        "  within libraries:",
        "      json/__init__.py:346, in loads  return \\x1b[31mdecode(s)",
    ]


def test_a_cause_stands_behind_what_it_caused() -> None:
    assert lines(TWO + CAUSED + ONE) == [*lines(ONE), "  caused by:", "  KeyError: 'x'", *lines(TWO)]


def test_what_is_of_another_form_stands_as_it_is() -> None:
    for text in (
        "  + Exception Group Traceback (most recent call last):\n  |   x",
        ONE[:150] + "\n… 9 characters …",
        "x",
    ):
        assert lines(text) == [f"  {line}".replace("\x1b", "\\x1b") for line in text.split("\n")]
