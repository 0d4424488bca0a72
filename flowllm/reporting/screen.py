"""Lines for a person: coloured on a terminal, plain everywhere else."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TextIO, TypeAlias

_TO_THE_END = "\x1b[K"
"""Erases what stands right of the cursor."""
_WIDTH = 80
"""Columns, where a stream is no terminal."""
Part: TypeAlias = str | tuple[str, str]
"""A piece of a line: text, or text and its style, such as "bold red" (see `_CODES`)."""
_CODES = {"bold": 1, "dim": 2, "red": 31, "green": 32, "yellow": 33, "blue": 34, "cyan": 36}
"""Of ECMA-48's SGR."""


def plain(parts: tuple[Part, ...]) -> str:
    """A line without its styles."""
    return "".join(part if isinstance(part, str) else part[0] for part in parts)


def coloured(parts: tuple[Part, ...]) -> str:
    """A line with its styles, as terminals take them."""
    found = []
    for text, style in (part if isinstance(part, tuple) else (part, "") for part in parts):
        codes = ";".join(str(_CODES[word]) for word in style.split())
        found.append(f"\x1b[{codes}m{text}\x1b[0m" if codes and text else text)
    return "".join(found)


def wants_colour(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether a stream is a terminal that takes colour, and the user does too (https://no-color.org)."""
    return stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


class Screen:
    """Writes lines to a stream. Texts must be harmless already (`reporting.text.visible`)."""

    def __init__(self, stream: TextIO, *, colour: bool) -> None:
        self.stream = stream
        self.colour = colour
        self.written = 0
        """How often something was."""
        self._live = False

    def line(self, *parts: Part) -> None:
        """Write one line and flush it."""
        self.clear()
        self.written += 1
        self.stream.write((coloured(parts) if self.colour else plain(parts)) + "\n")
        self.stream.flush()

    def live(self, text: str) -> None:
        """Show a text at the bottom of a terminal until the next line is written, or the next such text."""
        self.stream.write(f"\r{text[: self.width() - 1]}{_TO_THE_END}")
        self.stream.flush()
        self.written += 1
        self._live = True

    def width(self) -> int:
        """Columns of the terminal that this is drawn on, which need not be that of standard output."""
        try:
            columns = os.get_terminal_size(self.stream.fileno()).columns
        except (OSError, ValueError, AttributeError):
            columns = 0
        from shutil import get_terminal_size  # noqa: PLC0415 - its import costs more than most of what is shown

        return columns or get_terminal_size(fallback=(_WIDTH, 24)).columns

    def clear(self) -> None:
        """Take such a text away."""
        if self._live:
            self.stream.write(f"\r{_TO_THE_END}")
            self.stream.flush()
            self._live = False
