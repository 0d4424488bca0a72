"""Aligned columns."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from flowllm.reporting.screen import Part
from flowllm.reporting.text import columns, visible

_GAP = 2
NARROW = 12
"""Columns that a text of which the rest is cut has at least."""


def table(
    rows: Sequence[Mapping[str, str]],
    *,
    right: Collection[str] = (),
    width: int | None = None,
    spare: Sequence[str] = (),
    cut: str = "",
    least: int = NARROW,
) -> list[tuple[Part, ...]]:
    """Rows under their headers, a line each; a column in which nothing stands is left out. Columns named in `right` are numbers.

    Where that is wider than `width`, the `spare` columns are left out one by one, until it fits with the column `cut`, else the
    first one, as narrow as `least`; that one is cut, further if need be.
    """
    names = [name for name in rows[0] if any(row[name] for row in rows)] if rows else []
    cells = {name: [visible(row[name]) or "-" * (name in right) for row in rows] for name in names}
    widths = {name: max(map(columns, (name, *cells[name]))) for name in names}
    for name in (None, *spare):
        if name is not None:
            widths.pop(name, None)
        longest = widths.get(cut) or next(iter(widths.values()), 0)
        others = sum(widths.values()) + _GAP * (len(widths) - 1) - longest
        if width is None or others + min(longest, least) <= width:
            break
    if width is not None and longest > width - others:
        name = cut if cut in widths else next(iter(widths))
        widths[name] = max(1, width - others)
        cells[name] = [cut_to(cell, widths[name]) for cell in cells[name]]

    def line(row: Iterable[str]) -> str:
        cells = [
            _padded(cell, width, right=name in right) for (name, width), cell in zip(widths.items(), row, strict=True)
        ]
        return (" " * _GAP).join(cells).rstrip()

    body = zip(*(cells[name] for name in widths), strict=True)
    return [((line(widths), "bold"),), *((line(row),) for row in body)]


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


def cut_to(text: str, width: int) -> str:
    """The text in that many columns, with an ellipsis where it is cut."""
    if columns(text) <= width:
        return text
    room, at = width - 1, 0
    while (room := room - columns(text[at])) >= 0:
        at += 1
    return f"{text[:at].rstrip()}…"
