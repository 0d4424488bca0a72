"""A terminal that a program can read."""

from __future__ import annotations

import io

import pyte

from flowllm.reporting.screen import Screen


class Terminal(io.StringIO):
    """What stands on it is in `shown`; what has been written, and how often, is counted."""

    encoding = "utf-8"

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        super().__init__()
        self.columns, self.rows = columns, rows
        self.writes = 0
        self.screen = pyte.HistoryScreen(columns, rows, history=1000)
        self._stream = pyte.Stream(self.screen)
        self.in_front = True

    def write(self, text: str) -> int:
        self.writes += 1
        self._stream.feed(text.replace("\n", "\r\n"))
        return len(text)

    def isatty(self) -> bool:
        return True

    @property
    def cursor(self) -> tuple[int, int]:
        """Row and column, from 0."""
        return self.screen.cursor.y, self.screen.cursor.x

    def resize(self, columns: int, rows: int) -> None:
        """Wrap anew what stands on it, as most terminals do."""
        lines, at = self.shown, self.cursor
        self.columns, self.rows = columns, rows
        self.screen = pyte.HistoryScreen(columns, rows, history=1000)
        self._stream = pyte.Stream(self.screen)
        self.write("".join(f"{line}\n" for line in lines))
        assert at == (len(lines), 0)

    @property
    def shown(self) -> list[str]:
        """Its lines, without the empty ones at the end."""
        lines = [line.rstrip() for line in self.screen.display]
        while lines and not lines[-1]:
            lines.pop()
        return lines


class TerminalScreen(Screen):
    """Draws on it."""

    def __init__(self, terminal: Terminal) -> None:
        super().__init__(terminal, colour=True)
        self._sized = terminal

    def _terminal(self) -> tuple[int, int]:
        return self._sized.columns, self._sized.rows

    def in_front(self) -> bool:
        return self._sized.in_front
