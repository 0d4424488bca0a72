"""How fast something goes, by what happened in the last half minute."""

from __future__ import annotations

from collections import deque
from typing import Final

WINDOW: Final = 30.0
"""Seconds over which a rate is taken."""
LEAST: Final = 1.0
"""Seconds that have to be over before there is one."""


class SlidingRate:
    """Counts by whole seconds, no more of them than the window has. Times are wall clock seconds, which may be set back."""

    __slots__ = ("_counts", "_since", "_sum")

    def __init__(self, since: float) -> None:
        """`since` when it is counted."""
        self._since = since
        self._counts: deque[list[float]] = deque()
        self._sum = 0.0

    def add(self, at: float, count: float = 1.0) -> None:
        """So many more happened."""
        counts = self._counts
        if counts and 0.0 <= at - counts[-1][0] < 1.0:
            counts[-1][1] += count
        else:
            self._forget(at)
            counts.append([at, count])
        self._sum += count

    @property
    def count(self) -> float:
        """How many there were in the window."""
        return self._sum

    def per_second(self, now: float) -> float | None:
        """None where too little time is over to tell."""
        self._forget(now)
        span = min(WINDOW, now - self._since)
        return self._sum / span if span >= LEAST else None

    def steady(self, now: float) -> float:
        """The same without its first second, in which as much may go at once as a limit lets through; 0.0 in the beginning."""
        self._forget(now)
        first = self._counts[0] if self._counts else [self._since, 0.0]
        span = now - first[0] - 1.0
        return (self._sum - first[1]) / span if span >= LEAST else 0.0

    def _forget(self, now: float) -> None:
        counts = self._counts
        if now < (counts[-1][0] if counts else self._since):  # the clock was set back
            counts.clear()
            self._sum, self._since = 0.0, now
        while counts and counts[0][0] <= now - WINDOW:
            self._sum -= counts.popleft()[1]
