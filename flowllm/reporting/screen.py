"""Lines for a person: coloured on a terminal, plain everywhere else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, TextIO, TypeAlias

if TYPE_CHECKING:
    from rich.console import Console

_TO_THE_END = "\x1b[K"
"""Erases what stands right of the cursor."""
Part: TypeAlias = str | tuple[str, str]
"""A piece of a line: text, or text and its style in rich's words, such as "bold red"."""


def plain(parts: tuple[Part, ...]) -> str:
    """A line without its styles."""
    return "".join(part if isinstance(part, str) else part[0] for part in parts)


def wants_colour(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether a stream is a terminal that takes colour, and the user does too (https://no-color.org)."""
    return stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


class Screen:
    """Writes lines to a stream. Texts must be harmless already (`observers.text.visible`)."""

    def __init__(self, stream: TextIO, *, colour: bool) -> None:
        self.stream = stream
        self.colour = colour
        self._console: Console | None = None
        self._live = False

    def line(self, *parts: Part) -> None:
        """Write one line and flush it."""
        self.clear()
        if self.colour:
            self._coloured(parts)
        else:
            self.stream.write(plain(parts) + "\n")
        self.stream.flush()

    def live(self, text: str) -> None:
        """Show a text at the bottom of a terminal until the next line is written, or the next such text."""
        self.stream.write(f"\r{text[: self._width() - 1]}{_TO_THE_END}")
        self.stream.flush()
        self._live = True

    def _width(self) -> int:
        """Columns of the terminal that this is drawn on, which need not be that of standard output."""
        try:
            columns = os.get_terminal_size(self.stream.fileno()).columns
        except (OSError, ValueError, AttributeError):
            columns = 0
        return columns or shutil.get_terminal_size().columns

    def clear(self) -> None:
        """Take such a text away."""
        if self._live:
            self.stream.write(f"\r{_TO_THE_END}")
            self.stream.flush()
            self._live = False

    def _coloured(self, parts: tuple[Part, ...]) -> None:
        # rich takes 60 ms to import, and only terminals need it
        from rich.console import Console  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        if self._console is None:
            self._console = Console(file=self.stream, force_terminal=True, highlight=False, markup=False, emoji=False)
        self._console.print(Text.assemble(*parts), soft_wrap=True)
