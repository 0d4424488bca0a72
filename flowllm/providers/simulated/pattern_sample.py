"""A text that matches a regular expression, for the patterns that schemas are written with."""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from random import Random

from flowllm.core.types import Json

_PARSER: Json = getattr(re, "_parser", None)
"""Python's own, which has no public name; a Python without it gives no text (rstr reads with it too, without bounds)."""
_EXTRA_REPEATS = 6
_MAX_PARTS = 50_000
"""Parts of a pattern that are written, repeats included."""
_MAX_RANGE = 200
_PRINTABLE = string.ascii_letters + string.digits + " _-.,"
_CLASSES = {
    "CATEGORY_DIGIT": string.digits,
    "CATEGORY_WORD": string.ascii_letters + string.digits + "_",
    "CATEGORY_SPACE": " ",
    "CATEGORY_NOT_DIGIT": string.ascii_letters,
    "CATEGORY_NOT_WORD": " -.,",
    "CATEGORY_NOT_SPACE": string.ascii_letters + string.digits,
}


class PatternTooLong(Exception):
    """A text for the pattern would be out of proportion."""


def matching(pattern: str, random: Random) -> str:
    """A text in which the pattern is found; the empty text for one that cannot be read. Raises PatternTooLong."""
    try:
        parsed = _PARSER.parse(pattern)
    except (AttributeError, re.error, RecursionError, OverflowError):
        return ""
    return _Writer(random).text(parsed)


class _Writer:
    """Writes out one parsed expression."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._groups: dict[int, str] = {}
        self._parts_left = _MAX_PARTS

    def text(self, parsed: Json) -> str:
        """Text for a sequence of parts."""
        return "".join(self._part(str(kind), value) for kind, value in parsed)

    def _part(self, kind: str, value: Json) -> str:
        self._parts_left -= 1
        if self._parts_left < 0:
            raise PatternTooLong(f"its `pattern` asks for over {_MAX_PARTS:,} characters")
        write: dict[str, Callable[[], str]] = {
            "LITERAL": lambda: chr(value),
            "NOT_LITERAL": lambda: self._random.choice([letter for letter in _PRINTABLE if ord(letter) != value]),
            "ANY": lambda: self._random.choice(string.ascii_lowercase),
            "IN": lambda: self._random.choice(_members(value)),
            **dict.fromkeys(("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"), lambda: self._repeat(*value)),
            "SUBPATTERN": lambda: self._group(value[0], value[-1]),
            "BRANCH": lambda: self.text(self._random.choice(value[1])),
            "GROUPREF": lambda: self._groups.get(value, ""),
            "ATOMIC_GROUP": lambda: self.text(value),
        }
        return write.get(kind, str)()  # anchors and looks ahead write nothing

    def _group(self, number: int, inner: Json) -> str:
        self._groups[number] = written = self.text(inner)
        return written

    def _repeat(self, least: int, most: int, inner: Json) -> str:
        if least > self._parts_left:
            raise PatternTooLong(f"its `pattern` asks for {least:,} repeats, more than a simulated answer has")
        times = self._random.randint(least, min(most, least + _EXTRA_REPEATS))
        return "".join(self.text(inner) for _ in range(times))


def _members(parts: Json) -> list[str]:
    """The characters of a class such as [a-z0-9_]; printable ones for a negated class."""
    found: list[str] = []
    for kind, value in ((str(kind), value) for kind, value in parts):
        if kind == "LITERAL":
            found.append(chr(value))
        elif kind == "RANGE":
            found += map(chr, range(value[0], min(value[1], value[0] + _MAX_RANGE) + 1))
        elif kind == "CATEGORY":
            found += _CLASSES.get(str(value), "")
    if str(parts[0][0]) == "NEGATE":
        found = [letter for letter in _PRINTABLE if letter not in found]
    return found or ["a"]
