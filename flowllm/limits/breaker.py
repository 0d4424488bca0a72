"""A circuit breaker: a provider that fails is left alone, probed now and then, and taken up again slowly.

After M. Nygard, "Release It!", 2007, with two additions. Failures in an unbroken row narrow the passage before the
breaker opens, so that a dead server sees a handful of requests and not as many as there are slots. And after a
good probe the passage widens with each success in place of opening at once.
"""

from __future__ import annotations

from collections import deque
from enum import StrEnum

WINDOW = 30.0
"""Seconds over which outcomes are looked at."""
LEAST = 20
"""Outcomes below which no share of failures means anything."""
SHARE = 0.5
"""Of failures, at which the breaker opens."""
NARROWING = 4
"""Failures in a row after which the passage narrows."""
FIRST_COOLDOWN = 2.0
LONGEST_COOLDOWN = 60.0


class BreakerState(StrEnum):
    """Whether requests go through."""

    CLOSED = "closed"  # they do
    OPEN = "open"  # none does, until the cooldown is over
    PROBING = "probing"  # one does; its outcome decides
    RAMPING = "ramping"  # some do, more with each success


class Breaker:
    """Pure: every method is told the time, in seconds of a monotonic clock."""

    def __init__(self) -> None:
        self.state = BreakerState.CLOSED
        self.failing_since: float | None = None
        """When the row of failures began that no success has broken; None: the last outcome was a success."""
        self._outcomes: deque[tuple[float, bool]] = deque()
        self._failures = 0
        self._in_a_row = 0
        self._cooldown = FIRST_COOLDOWN
        self._opened_at = 0.0
        self._width = 0

    @property
    def narrows(self) -> bool:
        """Not as many as could may be in flight."""
        return self.state is not BreakerState.CLOSED or self._in_a_row >= NARROWING

    def width(self, most: int, now: float) -> int:
        """How many requests may be in flight now, of `most`."""
        if self.state is BreakerState.OPEN and now >= self._opened_at + self._cooldown:
            self.state = BreakerState.PROBING
        if self.state is BreakerState.OPEN:
            return 0
        if self.state is BreakerState.PROBING:
            return 1
        if self.state is BreakerState.RAMPING:
            return min(most, self._width)
        return most if not self.narrows else max(1, most >> min(self._in_a_row - NARROWING + 1, 30))

    def wait(self, now: float) -> float:
        """Seconds until the next probe; 0 if the breaker is not open."""
        if self.state is not BreakerState.OPEN:
            return 0.0
        return max(0.0, self._opened_at + self._cooldown - now)

    @property
    def troubled(self) -> bool:
        """Failures count against the provider and not against the requests that met them."""
        return self.state is not BreakerState.CLOSED

    def succeeded(self, now: float) -> None:
        """The provider answered; a refusal or a rate limit is an answer too."""
        self.failing_since = None
        self._in_a_row = 0
        self._note(now, failed=False)
        if self.state is BreakerState.PROBING:
            self.state, self._width = BreakerState.RAMPING, 2
            self._cooldown = FIRST_COOLDOWN
        elif self.state is BreakerState.RAMPING:
            self._width += 1
            if self._width >= LEAST:
                self._close()

    def failed(self, now: float) -> None:
        """The provider is in trouble: a 5xx, no connection, no answer in time."""
        if self.failing_since is None:
            self.failing_since = now
        self._in_a_row += 1
        self._note(now, failed=True)
        if self.state is BreakerState.PROBING:
            self._cooldown = min(LONGEST_COOLDOWN, self._cooldown * 2)
            self._open(now)
        elif self.state is BreakerState.RAMPING or (self.state is BreakerState.CLOSED and self._too_many()):
            self._open(now)

    def _too_many(self) -> bool:
        return len(self._outcomes) >= LEAST and self._failures >= SHARE * len(self._outcomes)

    def _open(self, now: float) -> None:
        self.state = BreakerState.OPEN
        self._opened_at = now
        self._outcomes.clear()
        self._failures = 0

    def _close(self) -> None:
        self.state = BreakerState.CLOSED
        self._outcomes.clear()
        self._failures = 0

    def _note(self, now: float, *, failed: bool) -> None:
        self._outcomes.append((now, failed))
        self._failures += failed
        while self._outcomes[0][0] <= now - WINDOW:
            self._failures -= self._outcomes.popleft()[1]
