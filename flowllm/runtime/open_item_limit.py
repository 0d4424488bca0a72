"""How many items of all foreaches of a run may be open at once: bounds its memory, holds up nobody for good."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable


class OpenItemLimit:
    """Open items of the whole run. A foreach without any may always open one, so that nesting cannot deadlock."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open = 0
        self._waiting: deque[Callable[[], bool]] = deque()

    def may_open(self, mine: int) -> bool:
        """Whether a foreach that has `mine` open items may open one more."""
        return mine == 0 or self._open < self._limit

    def opened(self) -> None:
        """One more is open."""
        self._open += 1

    def closed(self) -> None:
        """One has ended; whoever waited longest, and still has an item to open, is called back."""
        self._open -= 1
        while self._waiting and not self._waiting.popleft()():
            pass

    def wait(self, callback: Callable[[], bool]) -> None:
        """Call back, once, when there may be room; it says whether that is still of use."""
        self._waiting.append(callback)
