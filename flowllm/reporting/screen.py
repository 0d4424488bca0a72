"""Lines for a person: coloured on a terminal, plain everywhere else."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TextIO, TypeAlias

from flowllm.core.types import NodeStatus, RunStatus
from flowllm.reporting.text import columns

_BELOW = "\x1b[J"
"""Erases what stands right of the cursor, and all that stands below it."""
_TOGETHER, _DONE = "\x1b[?2026h", "\x1b[?2026l"
"""What is between is shown at once, by terminals that know it."""
_INDENT = "  "
_COLUMNS = re.compile(r"\S {2,}\S")
_COMMAND = re.compile("`flowllm [^`]*`")
_BLANK = re.compile("(?<=[^ ]) (?=[^ ])")
_SIZE = (80, 24)
"""Columns and rows, where a stream is no terminal."""
Part: TypeAlias = str | tuple[str, str]
"""A piece of a line: text, or text and its style, such as "bold red" (see `_CODES`)."""
_CODES = {"bold": 1, "dim": 2, "red": 31, "green": 32, "yellow": 33, "blue": 34, "cyan": 36}
"""Of ECMA-48's SGR."""
_STATUSES = {"succeeded": "bold green", "running": "bold blue", "failed": "bold red", "blocked": "bold red"}


def status_part(status: NodeStatus | RunStatus) -> Part:
    """The status of a run or of a node, with its colour."""
    return status.value, _STATUSES.get(status.value, "bold yellow")


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


def moves_cursor(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether a stream is a terminal that can be drawn on."""
    return stream.isatty() and environ.get("TERM") != "dumb"


def wants_colour(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """The same, and the user wants colour there (https://no-color.org)."""
    return moves_cursor(stream, environ) and not environ.get("NO_COLOR")


def wrapped(parts: Sequence[Part], width: int) -> Iterator[tuple[Part, ...]]:
    """A line in as many as it takes, broken between words; a command, which is bold alone or between backticks, stays whole to
    be copied, and so do columns."""
    if _COLUMNS.search(plain(tuple(parts))):
        yield tuple(parts)
        return
    line: list[Part] = []
    used = 0
    for text, style in (part if isinstance(part, tuple) else (part, "") for part in parts):
        words = [text] if style == "bold" else _words(text)
        for at, word in enumerate(words):
            piece = f" {word}" if at else word
            if used and used + len(piece) > width:
                yield tuple(line)
                line, used, piece = [_INDENT], len(_INDENT), piece.lstrip(" ")
            line.append((piece, style))
            used += len(piece)
    yield tuple(line)


def _words(text: str) -> list[str]:
    whole = _COMMAND.sub(lambda found: found[0].replace(" ", "\0"), text)
    return [word.replace("\0", " ") for word in _BLANK.split(whole)]


class Screen:
    """Writes lines to a stream, from any thread. Texts must be harmless already (`reporting.text.visible`).

    On a terminal a block of lines can stand below all others and be drawn over. The cursor rests below it and is never hidden: a
    process that is killed leaves its last block and a terminal that is as before.
    """

    def __init__(self, stream: TextIO, *, colour: bool, wraps: bool = False) -> None:
        """`wraps`: lines that are wider than a terminal go on in the next."""
        self._wraps = wraps and stream.isatty()
        self.stream = stream
        self.colour = colour
        self.written = 0
        """How often something was."""
        self._block: Sequence[tuple[Part, ...]] = ()
        self._columns = 0
        """Of the terminal as the block was drawn."""
        self._lock = threading.RLock()

    def line(self, *parts: Part) -> None:
        """Write one line and flush it."""
        lines = wrapped(parts, self.size()[0]) if self._wraps else (parts,)
        self.above(self._text(lines))

    def above(self, text: str) -> None:
        """Write whole lines, above the block if there is one."""
        with self._lock:
            self.written += 1
            self._write(self._over(text, self._block) if self._block else text)

    def block(self, lines: Sequence[tuple[Part, ...]], *, above: str = "", stays: bool = False) -> None:
        """Draw these lines in place of those of the block before, and whole lines of others `above` it. They must fit the
        terminal, with one row to spare. What `stays` is drawn over no more."""
        with self._lock:
            self._write(f"{_TOGETHER}{self._over(above, lines)}{_DONE}")
            self._block = () if stays else lines

    def forget_block(self) -> None:
        """What others have written below it stays: the next block is drawn below that."""
        with self._lock:
            self._block = ()

    @property
    def unicode(self) -> bool:
        """Whether the stream can show more than ASCII."""
        return (getattr(self.stream, "encoding", None) or "").lower().replace("-", "").startswith("utf")

    def width(self) -> int:
        """Columns of that terminal; where it is none, as the environment says."""
        from shutil import get_terminal_size  # noqa: PLC0415 - its import costs more than most of what is shown

        return self._terminal()[0] or get_terminal_size(fallback=_SIZE).columns

    def size(self) -> tuple[int, int]:
        """Columns and rows of the terminal that this is drawn on, which need not be that of standard output."""
        columns, rows = self._terminal()
        return columns or _SIZE[0], rows or _SIZE[1]

    def _terminal(self) -> tuple[int, int]:
        try:
            return os.get_terminal_size(self.stream.fileno())
        except (OSError, ValueError, AttributeError):
            return 0, 0

    def in_front(self) -> bool:
        """Whether the terminal's keys are for this process, so that it may draw there."""
        try:
            return os.tcgetpgrp(self.stream.fileno()) == os.getpgrp()
        except (OSError, ValueError, AttributeError):  # not the terminal of this session
            return True

    def _over(self, above: str, lines: Sequence[tuple[Part, ...]]) -> str:
        """What draws lines in place of the block."""
        before, self._columns = self._columns, self.size()[0]
        narrower = self._columns < before  # where terminals wrap lines anew
        rows = sum(max(1, -(-columns(plain(line)) // self._columns)) if narrower else 1 for line in self._block)
        erased = f"\r\x1b[{rows}A{_BELOW}" if rows else ""
        return erased + above + self._text(lines)

    def _text(self, lines: Iterable[tuple[Part, ...]]) -> str:
        return "".join(f"{coloured(line) if self.colour else plain(line)}\n" for line in lines)

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()
