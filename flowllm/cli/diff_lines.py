"""Differences between values as lines for a terminal: red and green on one that takes colour, - and + everywhere."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from flowllm.core.types import Json
from flowllm.reporting.screen import Part
from flowllm.reporting.text import columns, json_text, one_line, plural, visible
from flowllm.views.differences import FieldChange, number, signed
from flowllm.views.text_diff import DiffLine

Line = tuple[Part, ...]
MOST_LINES = 12
"""Lines of one text that are shown, before they are wrapped."""
MARGIN = len("    - ")
"""Columns before a line that differs."""
_KEPT = 40
"""Characters that are kept at each end of what is the same in a long line."""
_COLOURS = {"-": "red", "+": "green", " ": "", "…": "dim"}


def field_lines(change: FieldChange, name: str, width: int) -> Iterator[Line]:
    """`score: 0.7 → 0.9 (+0.2)`, or the name and below it the lines that differ; `name` is for a value as a whole."""
    shown = one_line(change.path or name, width - 4)
    if (delta := change.delta) is not None:
        yield ("  ", (shown, "bold"), f": {number(change.before)} → {number(change.after)} ({signed(delta)})")
    elif change.short:
        before, after = (_words(value) for value in (change.before, change.after))
        yield ("  ", (shown, "bold"), ": ", (before, "red"), " → ", (after, "green"))
    else:
        yield ("  ", (shown, "bold"))
        yield from diff_lines(change.lines(width - MARGIN), width)


def diff_lines(lines: Sequence[DiffLine], width: int) -> Iterator[Line]:
    """The first of them, each behind its sign."""
    for line in lines[:MOST_LINES]:
        yield from _wrapped(line, width)
    if len(lines) > MOST_LINES:
        yield ((f"    … and {plural(len(lines) - MOST_LINES, 'more line')}", "dim"),)


def _words(value: Json) -> str:
    return visible(value) or '""' if isinstance(value, str) else json_text(value, indent=None)


def _wrapped(line: DiffLine, width: int) -> Iterator[Line]:
    """The line in as many as it takes, each behind its sign."""
    room, colour = width - MARGIN, _COLOURS[line.sign]
    start = (f"    {line.sign} ", colour)
    row, used = [start], 0
    for text, style in _pieces(line, colour):
        for piece in _cut(text, room):
            if used and used + columns(piece) > room:
                yield _ended(row)
                row, used = [start], 0
                if piece.isspace():
                    continue
            row.append((piece, style))
            used += columns(piece)
    yield _ended(row)


def _ended(row: list[tuple[str, str]]) -> Line:
    """Without the blank at its end, what looks the same in one piece."""
    kept = row[:-1] if row[-1][0].isspace() else row
    return tuple(("".join(text for text, _ in group), style) for style, group in groupby(kept, lambda part: part[1]))


def _pieces(line: DiffLine, colour: str) -> Iterator[tuple[str, str]]:
    """Words with their styles; what is the same for long is left out in its middle."""
    for number_, (text, differs) in enumerate(line.parts):
        shown = visible(text.expandtabs(4))
        if not differs and len(line.parts) > 1 and len(shown) > 2 * _KEPT:
            head = "" if number_ == 0 else shown[:_KEPT].rpartition(" ")[0] or shown[:_KEPT]
            tail = "" if number_ == len(line.parts) - 1 else shown[-_KEPT:].partition(" ")[2] or shown[-_KEPT:]
            shown = f"{head} … {tail}"
        for word in re.findall(r"\s+|\S+", shown):
            yield word, colour if differs else ""


def _cut(text: str, room: int) -> Iterable[str]:
    """A word that is longer than a line, in pieces."""
    if columns(text) <= room:
        return (text,)
    size = max(1, room // 2 if columns(text) > len(text) else room)
    return (text[at : at + size] for at in range(0, len(text), size))
