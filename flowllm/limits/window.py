"""A strict window: at most so many requests in any span of so many seconds, wherever the span begins.

A sliding log: the times of the last requests, as many as the limit has. Exact, where a counter that is reset
each second would let twice as many through around the reset.
"""

from __future__ import annotations

from collections import deque


class Window:
    """Pure: every method is told the time, in seconds of a monotonic clock."""

    __slots__ = ("_log", "limit", "span")

    def __init__(self, *, limit: int, span: float) -> None:
        """`limit` requests in any `span` seconds."""
        self.limit = limit
        self.span = span
        self._log: deque[float] = deque(maxlen=limit)

    def wait(self, now: float) -> float:
        """Seconds until one more may go; 0 if it may go now."""
        if len(self._log) < self.limit:
            return 0.0
        return max(0.0, self._log[0] + self.span - now)

    def take(self, now: float) -> None:
        """One goes."""
        self._log.append(now)
