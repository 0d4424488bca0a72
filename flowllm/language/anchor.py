"""From a place inside a text to its place in the YAML file that holds the text."""

from __future__ import annotations

from collections.abc import Callable

from flowllm.language.nodes import Scalar
from flowllm.language.reference import Location

_BLANK = " \t\n"
_ESCAPE_LENGTHS = {"x": 4, "u": 6, "U": 10}


def anchor_of(scalar: Scalar) -> Callable[[int, int], Location]:
    """A function from line and column (from 1) inside the scalar's text to the place in its file.

    Exact for every character that is not white space; folded lines and escapes are followed. A scalar that
    stands in no file has one place.
    """
    offsets: list[int] = []
    places: dict[int, Location] = {}

    def locate(line: int, column: int) -> Location:
        if not scalar.source:
            return scalar.where
        if not offsets:
            offsets.extend(_align(scalar))
        index = min(_offset(scalar.text, line, column), len(offsets) - 1)
        if index not in places:
            places[index] = _place(scalar, offsets[index])
        return places[index]

    return locate


def file_anchor(file: str) -> Callable[[int, int], Location]:
    """The same for a text that is a whole file."""
    return lambda line, column: Location(file=file, line=line, column=column)


def _place(scalar: Scalar, offset: int) -> Location:
    before = scalar.source.count("\n", 0, offset)
    column = offset - scalar.source.rfind("\n", 0, offset)
    return Location(file=scalar.where.file, line=before + 1, column=column)


def _offset(text: str, line: int, column: int) -> int:
    start = 0
    for _ in range(line - 1):
        found = text.find("\n", start)
        if found < 0:
            break
        start = found + 1
    return max(0, start + column - 1)


def _align(scalar: Scalar) -> list[int]:
    """The offset in the file of each character of the scalar's text, and of its end."""
    source, at = scalar.source, _content_start(scalar)
    offsets: list[int] = []
    for char in scalar.text:
        at = _seek(source, at, char, scalar.style)
        offsets.append(at)
        at += _width(source, at, char, scalar.style)
    offsets.append(min(at, len(source)))
    return offsets


def _content_start(scalar: Scalar) -> int:
    source, at = scalar.source, scalar.start
    while at < len(source) and source[at] in _BLANK:
        at += 1
    if scalar.style in {"|", ">"}:
        end = source.find("\n", at)
        return len(source) if end < 0 else end + 1
    return at + 1 if scalar.style else at


def _seek(source: str, at: int, char: str, style: str) -> int:
    """Where the character stands: past the indentation and line ends that folding took away."""
    if char in _BLANK and at < len(source) and source[at] == char:
        return at
    while at < len(source):
        if style == '"' and source.startswith("\\\n", at):
            at += 2
        elif source[at] in _BLANK and char not in _BLANK:
            at += 1
        else:
            break
    return min(at, max(0, len(source) - 1))


def _width(source: str, at: int, char: str, style: str) -> int:
    """How many characters of the file stand for one of the text."""
    if style == '"' and source.startswith("\\", at):
        return _ESCAPE_LENGTHS.get(source[at + 1 : at + 2], 2)
    if style == "'" and char == "'":
        return 2
    if char in _BLANK and source[at : at + 1] not in _BLANK:
        return 0
    return 1
