"""The two measures of a rate: a token bucket and a strict window.

A token bucket: so many units a second, saved up to a burst.

Source of the algorithm: J. Turner, "New directions in communications (or which way to the information age?)",
IEEE Communications Magazine 24 (10), 1986, there as the leaky bucket; here in its token form. The level may
go below zero: a correction after the fact (more was used than reserved) is paid back by waiting.
"""

from __future__ import annotations

from collections import deque


class Bucket:
    """Pure: every method is told the time, in seconds of a monotonic clock."""

    __slots__ = ("_at", "_level", "capacity", "rate")

    def __init__(self, *, rate: float, capacity: float, now: float) -> None:
        """`rate` in units a second, `capacity` in units; it starts full."""
        self.rate = rate
        self.capacity = capacity
        self._level = capacity
        self._at = now

    def level(self, now: float) -> float:
        """Units that could be taken now."""
        if now > self._at:
            self._level = min(self.capacity, self._level + (now - self._at) * self.rate)
            self._at = now
        return self._level

    def wait(self, amount: float, now: float) -> float:
        """Seconds until `amount` units are there; 0 if they are. `amount` is at most the capacity."""
        missing = amount - self.level(now)
        return max(0.0, missing / self.rate) if missing > _TOLERANCE else 0.0

    def take(self, amount: float, now: float) -> None:
        """Remove units, whether or not they are there."""
        self._level = self.level(now) - amount

    def give(self, amount: float, now: float) -> None:
        """Put unused units back, never above the capacity."""
        self._level = min(self.capacity, self.level(now) + amount)

    def lower(self, level: float, now: float) -> None:
        """There are at most so many units now."""
        self._level = min(self.level(now), level)

    def set(self, level: float, now: float) -> None:
        """There are so many units now, up to the capacity."""
        self.level(now)
        self._level = min(self.capacity, level)

    def retune(self, *, rate: float, capacity: float, now: float) -> None:
        """Go on at another rate, with another capacity; a bucket that was full stays full."""
        if (rate, capacity) == (self.rate, self.capacity):
            return
        level = self.level(now)
        full = level >= self.capacity
        self.rate, self.capacity = rate, capacity
        self._level = capacity if full else min(capacity, level)


_TOLERANCE = 1e-9
"""Rounding of the refill must not turn into a wait of a femtosecond, again and again."""


class Window:
    """At most so many requests in any span of so many seconds, wherever the span begins: a sliding log of the last
    requests, exact where a counter that is reset each second would let twice as many through around the reset. Pure."""

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
