"""The rate that a server allows, learned from its answers.

Nothing is held back until the first "too many requests": a server without limits is never slowed down. The first cut
is a guess, and the rate doubles from it every other second until there is a second one. From then on, and from the
first one on where a limit was written down or told, the rate is cut at most once a round trip, to no more than what
the server has lately accepted. It grows back along the cubic of S. Ha, I. Rhee, L. Xu, "CUBIC: A New TCP-Friendly
High-Speed TCP Variant", ACM SIGOPS Operating Systems Review 42 (5), 2008: fast up to where it was cut, flat around
there, then faster and faster, so that a limit that was raised is found within a minute, while one that stands is
bumped into seldom.
"""

from __future__ import annotations

from collections import deque

CUT = 0.92
"""What is left of the rate after a cut."""
DEEPEST = 0.7
"""A cut goes down to what was lately accepted, but not below this share of the rate: a pause accepts nothing."""
PLATEAU = 12.0
"""Seconds from a cut until the rate is back where it was."""
FIRST_GUESS = 2.0
"""Requests a second; the first cut does not go below: too little is known by then."""
DOUBLING = 2.0
"""Seconds in which a rate that is a mere guess doubles."""
LEAST_GUESS = 1.0
"""Requests a second. A server that answers slowly has accepted nothing yet when its first 429 comes."""
SLOWEST = 1 / 60
"""Requests a second; no server is asked less often than once a minute."""
_MEMORY = 2.0
"""Seconds over which accepted requests are counted."""
_SHORTEST_TRIP = 0.1


class AdaptiveRate:
    """Pure: every method is told the time, in seconds of a monotonic clock. Rates are requests a second."""

    def __init__(self, *, ceiling: float | None = None) -> None:
        """`ceiling` is never exceeded; None: unknown."""
        self._ceiling = ceiling
        self._top: float | None = None
        """Where the rate was when it was cut last; None: never cut."""
        self._cut_at = 0.0
        self._floor = 0.0
        self._guessed = False
        """The rate was cut once: it is known to be too low rather than too high."""
        self._accepted: deque[float] = deque()
        self._began: float | None = None

    @property
    def learned(self) -> bool:
        """There was something to learn from."""
        return self._top is not None

    def rate(self, now: float) -> float | None:
        """What may be sent now; None: there is no reason to hold back."""
        if self._top is None:
            return self._ceiling
        if self._guessed:
            grown = self._floor * 2 ** min(60.0, (now - self._cut_at) / DOUBLING)
        else:
            elapsed = (now - self._cut_at - PLATEAU) / PLATEAU
            grown = max(self._floor, self._top * (1 + (1 - self._floor / self._top) * elapsed**3))
        return grown if self._ceiling is None else min(grown, self._ceiling)

    def accepted(self, now: float) -> None:
        """A request was answered, or failed for a reason that is not its rate."""
        self._begin(now)
        self._accepted.append(now)
        self._forget(now)

    def refused(self, now: float, *, sent_at: float, believed: float | None = None) -> bool:
        """A request that was sent then was one too many; whether the rate was cut for it.

        One that was sent before the last cut says nothing about the rate since. `believed` is the rate that the
        server was said to allow; None: nothing was said.
        """
        self._begin(now)
        self._forget(now)
        if self._top is not None and sent_at <= self._cut_at:
            return False
        before = self.rate(now) if self._top is not None else lower(self._ceiling, believed)
        span = max(_SHORTEST_TRIP * 5, min(_MEMORY, now - (now if self._began is None else self._began)))
        lately = len(self._accepted) / span
        limit = max(LEAST_GUESS, lately) if before is None else min(before, max(lately, before * DEEPEST))
        self._guessed = before is None
        self._top = max(SLOWEST, limit)
        self._floor = self._top * CUT  # below the top always, or it would never grow again
        self._cut_at = now
        return True

    def start_at(self, rate: float, now: float) -> None:
        """What an earlier run learned."""
        self._top = max(SLOWEST, rate)
        self._floor = self._top * CUT
        self._cut_at = now - PLATEAU / 2

    def _begin(self, now: float) -> None:
        if self._began is None:
            self._began = now

    def _forget(self, now: float) -> None:
        while self._accepted and self._accepted[0] <= now - _MEMORY:
            self._accepted.popleft()


def lower(a: float | None, b: float | None) -> float | None:
    """The lower of two rates; None: unlimited."""
    return min((x for x in (a, b) if x is not None), default=None)
