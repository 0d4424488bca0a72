"""How many items a range has that one worker carries out: few at first, soon as many as it ends in a few seconds, and few
again at the end, so that all workers end together. Pure."""

from __future__ import annotations

import math
from collections import deque

FIRST = 16
"""Items of a range while nobody knows how quickly they end."""
MOST = 1000
SECONDS = 3.0
"""That a worker is to take for a range, about."""
RECENT = 10.0
"""Seconds over which it is counted how quickly items end."""
GROWTH = 4
"""A range has at most so many times as many items as the largest before it."""
SHARES = 2
"""Of what is left each worker's next range takes at most one part of so many for each worker."""
LEAST_AHEAD = 4000
AHEAD_EACH = 200
"""Items that are handed out at once: at most so many in all, or so many for each worker if that is more."""


class RangeSizes:
    """For one foreach. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._ended: deque[tuple[float, int]] = deque()
        """When items ended, and how many there were by then."""
        self._count = 0
        self._largest = FIRST

    def begun(self, now: float) -> None:
        """The first items are handed out."""
        self._ended.append((now, 0))

    def ended(self, count: int, now: float) -> None:
        """So many more items have ended."""
        self._count += count
        self._ended.append((now, self._count))
        while self._ended[1][0] < now - RECENT:
            self._ended.popleft()

    @property
    def rate(self) -> float:
        """Items a second, of all workers; 0: not known yet."""
        if not self._count:
            return 0.0
        (since, before), (until, count) = self._ended[0], self._ended[-1]
        return (count - before) / max(until - since, 1e-3)

    def next(self, *, workers: int, left: int | None) -> int:
        """Items of the next range, for one of so many workers; `left` are to be handed out, None: not known."""
        workers = max(1, workers)
        size = math.ceil(self.rate / workers * SECONDS) or FIRST
        size = min(size, MOST, self._largest * GROWTH, max(1, ahead(workers) // (2 * workers)))
        if left is not None:
            size = min(size, math.ceil(left / (SHARES * workers)))
        size = max(1, size)
        self._largest = max(self._largest, size)
        return size


def ahead(workers: int) -> int:
    """Items that are handed out to so many workers at once, at most."""
    return max(LEAST_AHEAD, AHEAD_EACH * workers)
