"""A text that matches a regular expression, for the patterns that schemas are written with."""

from __future__ import annotations

import re
import string
from random import Random
from re import _constants as codes  # type: ignore[attr-defined]  # the parser of `re` has no public name
from re import _parser as parser  # type: ignore[attr-defined]

from flowllm.core.types import Json

_MOST_REPEATS = 6
_MOST_PARTS = 50_000
"""Parts of a pattern that are written, repeats included."""
_PRINTABLE = string.ascii_letters + string.digits + " _-.,"
_CLASSES = {
    "CATEGORY_DIGIT": string.digits,
    "CATEGORY_WORD": string.ascii_letters + string.digits + "_",
    "CATEGORY_SPACE": " ",
}
_OUTSIDE = {
    "CATEGORY_NOT_DIGIT": string.ascii_letters,
    "CATEGORY_NOT_WORD": " -.,",
    "CATEGORY_NOT_SPACE": string.ascii_letters + string.digits,
}


class PatternTooLong(Exception):
    """A text for the pattern would be out of proportion."""


def matching(pattern: str, random: Random) -> str:
    """A text in which the pattern is found; the empty text for one that cannot be read. Raises PatternTooLong."""
    try:
        parsed = parser.parse(pattern)
    except (re.error, RecursionError, OverflowError):
        return ""
    return _Writer(random).text(parsed)


class _Writer:
    """Writes out one parsed expression."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._groups: dict[int, str] = {}
        self._left = _MOST_PARTS

    def text(self, parsed: Json) -> str:
        """Text for a sequence of parts."""
        return "".join(self._part(str(kind), value) for kind, value in parsed)

    def _part(self, kind: str, value: Json) -> str:
        self._left -= 1
        if self._left < 0:
            raise PatternTooLong(f"its `pattern` asks for over {_MOST_PARTS:,} characters")
        if kind == "LITERAL":
            return chr(value)
        if kind == "NOT_LITERAL":
            return self._random.choice([letter for letter in _PRINTABLE if ord(letter) != value])
        if kind == "ANY":
            return self._random.choice(string.ascii_lowercase)
        if kind == "IN":
            return self._random.choice(_members(value))
        if kind in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
            least, most, inner = value
            if least > self._left:
                raise PatternTooLong(f"its `pattern` asks for {least:,} repeats, more than a simulated answer has")
            most = least + _MOST_REPEATS if most is codes.MAXREPEAT else min(most, least + _MOST_REPEATS)
            return "".join(self.text(inner) for _ in range(self._random.randint(least, most)))
        return self._group(kind, value)

    def _group(self, kind: str, value: Json) -> str:
        if kind == "SUBPATTERN":
            written = self.text(value[-1])
            self._groups[value[0]] = written
            return written
        if kind == "BRANCH":
            return self.text(self._random.choice(value[1]))
        if kind == "GROUPREF":
            return self._groups.get(value, "")
        return self.text(value) if kind == "ATOMIC_GROUP" else ""  # anchors and looks ahead write nothing


def _members(parts: Json) -> list[str]:
    """The characters of a class such as [a-z0-9_]; printable ones for a negated class."""
    found: list[str] = []
    negated = False
    for kind, value in ((str(kind), value) for kind, value in parts):
        if kind == "NEGATE":
            negated = True
        elif kind == "LITERAL":
            found.append(chr(value))
        elif kind == "RANGE":
            found += [chr(code) for code in range(value[0], min(value[1], value[0] + 200) + 1)]
        elif kind == "CATEGORY":
            found += _CLASSES.get(str(value)) or _OUTSIDE.get(str(value), "")
    if negated:
        found = [letter for letter in _PRINTABLE if letter not in found]
    return found or ["a"]
