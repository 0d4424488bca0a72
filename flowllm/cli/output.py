"""Results on standard output."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from flowllm.core.clock import timestamp
from flowllm.core.types import Json, RunStatus
from flowllm.reporting.screen import Screen, wants_colour
from flowllm.reporting.text import json_text, readable, visible


def results() -> Screen:
    """Standard output."""
    return Screen(sys.stdout, colour=wants_colour(sys.stdout, os.environ))


def messages() -> Screen:
    """Standard error."""
    return Screen(sys.stderr, colour=wants_colour(sys.stderr, os.environ))


def unicode_output() -> bool:
    """Whether standard output can show more than ASCII."""
    return (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")


def print_json(value: Json) -> None:
    """One JSON value."""
    results().line(json_text(value, ascii_only=not unicode_output()))


def known_outputs(status: RunStatus, outputs: Mapping[str, Json]) -> Mapping[str, Json]:
    """The outputs of a run; of one that has not succeeded only those that are known."""
    if status is RunStatus.SUCCEEDED:
        return outputs
    return {name: value for name, value in outputs.items() if value is not None}


def print_outputs(outputs: Mapping[str, Json]) -> None:
    """Each output under its name."""
    screen = results()
    for number, (name, value) in enumerate(outputs.items()):
        if number:
            screen.line()
        heading(screen, name)
        screen.line(readable(value).rstrip("\n"))


def heading(screen: Screen, text: str) -> None:
    """A name, underlined."""
    shown = visible(text)
    screen.line((shown, "bold"))
    screen.line(("-" * len(shown), "dim"))


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """Aligned columns under their headers; those named in `right` are numbers."""
    screen = results()
    cells = [[visible(cell) for cell in row] for row in rows]
    widths = [max(len(row[at]) for row in [list(headers), *cells]) for at in range(len(headers))]

    def line(row: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if header in right else cell.ljust(width)
            for cell, width, header in zip(row, widths, headers, strict=True)
        ]
        return "  ".join(padded).rstrip()

    screen.line((line(headers), "bold"))
    for row in cells:
        screen.line(line(row))


def clock_time(seconds: float | None) -> str:
    """A wall clock time, seconds since 1970: UTC, to the second; `-` for none."""
    stamp = timestamp(seconds)
    return "-" if stamp is None else f"{stamp[:10]} {stamp[11:19]}Z"
