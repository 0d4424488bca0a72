"""How many items a range has that one worker carries out: few at first, soon as many as it ends in a few seconds, and few
again at the end, so that all workers end together. Pure."""

from __future__ import annotations

import math
from collections import deque

from flowllm.core.types import Json

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
HEAVIEST = 4 << 20
HEAVIEST_AHEAD = 64 << 20
"""Characters of a range, and of all that is handed out at once, about."""
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
        self._weight = 0.0
        """Characters of an item, on average over the last ones."""

    def begun(self, now: float) -> None:
        """The first items are handed out."""
        self._ended.append((now, 0))

    def weighed(self, characters: int) -> None:
        """An item is that long."""
        self._weight = max(self._weight * 0.98 + characters * 0.02, characters / FIRST)

    @property
    def bearable(self) -> int:
        """Items that may be handed out at once, by their length."""
        return max(1, int(HEAVIEST_AHEAD / max(self._weight, 1.0)))

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
        heaviest = int(HEAVIEST / max(self._weight, 1.0))
        size = min(size, MOST, heaviest, self._largest * GROWTH, max(1, ahead(workers) // (2 * workers)))
        if left is not None:
            size = min(size, math.ceil(left / (SHARES * workers)))
        size = max(1, size)
        self._largest = max(self._largest, size)
        return size


def weight(value: Json) -> int:
    """Characters of a value's texts, about."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum([len(name) + weight(inner) for name, inner in value.items()])
    return sum(map(weight, value)) if isinstance(value, list) else 1


def pause(workers: int) -> float:
    """Seconds from one report of a worker's to the next: so many workers together make at most some hundreds a second."""
    return max(0.25, workers / 400)


def ahead(workers: int) -> int:
    """Items that are handed out to so many workers at once, at most."""
    return max(LEAST_AHEAD, AHEAD_EACH * workers)
