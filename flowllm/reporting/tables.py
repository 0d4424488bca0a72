"""Aligned columns."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from flowllm.reporting.screen import Part
from flowllm.reporting.text import visible


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


def columns(text: str) -> int:
    """How many columns of a terminal a harmless text takes: those of East Asia take two a character, marks none."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(one) else 1 + (unicodedata.east_asian_width(one) in "WF") for one in text)


def _padded(cell: str, width: int, *, right: bool) -> str:
    blanks = " " * (width - columns(cell))
    return f"{blanks}{cell}" if right else f"{cell}{blanks}"
