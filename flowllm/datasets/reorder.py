"""Things that end in any order, to be given in the order of their places."""

from __future__ import annotations

from typing import Final

_OPEN: Final = 0
_LEFT_OUT: Final = 1
_WANTED: Final = 2
_LONG: Final = 65_536
"""Places given after which what is kept of them is let go."""


class ReorderBuffer:
    """Which of the places that end in any order come next. Pure; keeps a byte for each place behind an open one."""

    def __init__(self) -> None:
        self._marks = bytearray()
        self._at = 0
        """In `_marks`, of the first place that has not been given."""
        self._first = 0
        """The place of the first mark."""

    def ended(self, place: int, *, wanted: bool) -> None:
        """A place ended; `wanted` False: there is nothing of it to give."""
        at = place - self._first
        if at >= len(self._marks):
            self._marks.extend(bytes(at + 1 - len(self._marks)))
        self._marks[at] = _WANTED if wanted else _LEFT_OUT

    @property
    def ready(self) -> bool:
        """Whether the first place that has not been given has ended."""
        return self._at < len(self._marks) and self._marks[self._at] != _OPEN

    def take(self, most: int) -> list[int]:
        """The wanted ones among the next places that have ended, at most so many of those."""
        start, marks = self._at, self._marks
        end = min(start + most, len(marks))
        while self._at < end and marks[self._at] != _OPEN:
            self._at += 1
        taken = [self._first + at for at in range(start, self._at) if marks[at] == _WANTED]
        if self._at >= _LONG:
            del marks[: self._at]
            self._first += self._at
            self._at = 0
        return taken
