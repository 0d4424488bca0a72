"""Aligned columns."""

from __future__ import annotations

from collections.abc import Sequence

from flowllm.reporting.screen import Part
from flowllm.reporting.text import columns, visible


def table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()
) -> list[tuple[Part, ...]]:
    """Rows under their headers, a line each; columns named in `right` are numbers."""
    cells = [[visible(cell) for cell in row] for row in rows]
    widths = [max(columns(row[at]) for row in [list(headers), *cells]) for at in range(len(headers))]

    def line(row: Sequence[str]) -> str:
        padded = [
            _padded(cell, width, right=header in right)
            for cell, width, header in zip(row, widths, headers, strict=True)
        ]
        return "  ".join(padded).rstrip()

    return [((line(headers), "bold"),), *((line(row),) for row in cells)]


def _padded(cell: str, width: int, *, right: bool) -> str:
    blanks = " " * (width - columns(cell))
    return f"{blanks}{cell}" if right else f"{cell}{blanks}"


def wrapped(text: str, width: int | None, *, indent: str = "") -> list[str]:
    """The lines of a harmless text, none wider than that many columns (None: as they are), broken at blanks where there are any;
    what follows a break stands as far in as its line, or as `indent`."""
    return [part for line in text.split("\n") for part in (_broken(line, width, indent) if width else [line])]


def _broken(line: str, width: int, indent: str) -> list[str]:
    if columns(line) <= width:
        return [line]
    own = line[: len(line) - len(line.lstrip(" "))]
    lead = indent or (own if len(own) <= width // 2 else "")
    found: list[str] = []
    at = 0
    while at < len(line):
        head = lead if found else ""
        end = _end(line, at, width - len(head))
        blank = -1 if end == len(line) else line.rfind(" ", at + 1 + len("" if found else own), end + 1)
        cut = blank if blank > 0 else end
        found.append(head + line[at:cut].rstrip())
        at = cut + len(line[cut : cut + width]) - len(line[cut : cut + width].lstrip(" "))
    return found


def _end(line: str, at: int, width: int) -> int:
    """Behind the last character that has room in so many columns."""
    if (part := line[at : at + width]).isascii():
        return at + len(part)
    end, room = at + 1, width - columns(line[at])
    while end < len(line) and (room := room - columns(line[end])) >= 0:
        end += 1
    return end


def fitted(
    rows: Sequence[Sequence[str]], headers: Sequence[str], width: int | None, *, least: int = 20
) -> list[list[str]]:
    """The rows with their last column cut so that a table of them is not wider than that; None: as they are."""
    if width is None or not rows:
        return [list(row) for row in rows]
    taken = sum(max(columns(row[at]) for row in [headers, *rows]) + 2 for at in range(len(headers) - 1))
    return [[*row[:-1], cut_to(row[-1], max(least, width - taken))] for row in rows]


def cut_to(text: str, width: int) -> str:
    """The text in that many columns, with an ellipsis where it is cut."""
    if columns(text) <= width:
        return text
    room, at = width - 1, 0
    while (room := room - columns(text[at])) >= 0:
        at += 1
    return f"{text[:at].rstrip()}…"
