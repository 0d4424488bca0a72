"""What holds requests back: buckets, strict windows, and the two of them together.

A rate is a token bucket (so many units a second, saved up to a burst) or a strict window. Source of the bucket: J.
Turner, "New directions in communications (or which way to the information age?)", IEEE Communications Magazine 24 (10),
1986, there as the leaky bucket. The level may go below zero: a correction after the fact (more was used than reserved)
is paid back by waiting. Everything here is pure: methods are told the time, in seconds of a monotonic clock.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

from flowllm.core.records import dataclass, field
from flowllm.core.types import Limits, WaitReason

STEADY = 0.99
"""Of a rate is used: what arrives a little early at the server must not be one too many."""
BUNCHING = 0.05
"""Seconds by which requests may run up behind each other on their way: a burst is that much smaller than what a server
takes, and a strict window that much longer."""
GUESSED_BURST = 0.25
"""Seconds of a learned rate that may go at once."""
MINUTE = 60.0
LOOK_AGAIN = 0.25
"""Seconds after which who has no share of a limit looks whether there is one."""
_TOLERANCE = 1e-9
"""Rounding of the refill must not turn into a wait of a femtosecond, again and again."""


class LastMinute:
    """A sum over the last minute, second by second. Pure; times are monotonic seconds."""

    __slots__ = ("_seconds",)

    def __init__(self) -> None:
        self._seconds: deque[list[int]] = deque(maxlen=int(MINUTE))
        """A second and what came in it."""

    def add(self, amount: int, now: float) -> None:
        """So much came now."""
        second = int(now)
        if self._seconds and self._seconds[-1][0] == second:
            self._seconds[-1][1] += amount
        else:
            self._seconds.append([second, amount])

    def sum(self, now: float) -> int:
        """What came in the last minute."""
        return sum(amount for second, amount in self._seconds if second > now - MINUTE)


class Bucket:
    """A token bucket."""

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

    def resize(self, *, rate: float, capacity: float, level: float, now: float) -> None:
        """Go on as another part of a larger one, with that level."""
        self.rate, self.capacity, self._level, self._at = rate, capacity, min(capacity, level), max(self._at, now)


class Window:
    """At most so many requests in any span of so many seconds, wherever the span begins: a sliding log of the last
    requests, exact where a counter that is reset each second would let twice as many through around the reset."""

    __slots__ = ("_log", "limit", "span")

    def __init__(self, *, limit: int, span: float) -> None:
        """`limit` requests in any `span` seconds; it may be changed."""
        self.limit = limit
        self.span = span
        self._log: deque[float] = deque()

    def wait(self, now: float) -> float:
        """Seconds until one more may go; 0 if it may go now."""
        if len(self._log) < self.limit:
            return 0.0
        return max(0.0, self._log[-self.limit] + self.span - now) if self.limit else LOOK_AGAIN

    def take(self, now: float) -> None:
        """One goes."""
        self._log.append(now)
        while self._log[0] <= now - self.span:
            self._log.popleft()

    def count(self, now: float) -> int:
        """Those that went in the last span."""
        return sum(at > now - self.span for at in self._log)


class Hold(NamedTuple):
    """Not now: why, and for about how many seconds; infinite until another request is over."""

    reason: WaitReason
    seconds: float


def longer(one: Hold | None, other: Hold | None) -> Hold | None:
    """The one that lasts longer; None if there is none."""
    if one is None or other is None:
        return one or other
    return one if one.seconds >= other.seconds else other


@dataclass(slots=True, kw_only=True)
class HeldShare:
    """What this process may use of a scope that it shares with others; nothing until it is told."""

    fraction: float = 0.0
    slots: int = 0
    windows: Mapping[str, int] = field(default_factory=dict)
    until: float = -math.inf
    """Monotonic seconds."""


def span_of(seconds: float) -> str:
    """The name of a strict window of so many seconds."""
    return f"{seconds:g}"


class Rates:
    """How often: a bucket of requests, and any number of windows. Pure; times are monotonic seconds."""

    def __init__(self) -> None:
        self._bucket: Bucket | None = None
        self._windows: list[Window] = []
        self._whole = 1.0, 1.0
        """Requests a second and capacity of all processes together."""

    def tune(
        self,
        limits: Limits,
        rate: float | None,
        now: float,
        *,
        burst: float | None = None,
        share: HeldShare | None = None,
    ) -> None:
        """Take these limits' windows and burst, and `rate` requests a second (None: unlimited), or a share of all that.
        `burst` is what a server's headers say, where no limit is written."""
        self._tune_windows(limits, share)
        if rate is None:
            self._bucket = None
            return
        if burst is not None:
            burst = max(1.0, burst)
        elif limits.burst is not None:
            burst = float(limits.burst)
        elif limits.requests_per_minute is not None:
            burst = max(1.0, rate)
        else:  # learned: how much the server takes at once is not known
            burst = max(1.0, rate * GUESSED_BURST)
        self._whole = rate * STEADY, max(1.0, burst - rate * BUNCHING)
        own, capacity = self._parts(1.0 if share is None else share.fraction)
        if self._bucket is None:
            self._bucket = Bucket(rate=own, capacity=capacity, now=now)
        else:
            self._bucket.retune(rate=own, capacity=capacity, now=now)

    def _tune_windows(self, limits: Limits, share: HeldShare | None) -> None:
        spans = [window.per + BUNCHING for window in limits.windows]
        if [window.span for window in self._windows] != spans:
            self._windows = [Window(limit=0, span=span) for span in spans]
        for window, limit in zip(self._windows, limits.windows, strict=True):
            window.limit = limit.requests
            if share is not None:
                window.limit = min(limit.requests, share.windows.get(span_of(window.span), 0))

    def _parts(self, fraction: float) -> tuple[float, float]:
        """Rate and capacity of a share: with a part of a request nothing could go."""
        rate, capacity = self._whole
        return rate * fraction, max(1.0, capacity * fraction) if fraction > 0 else 0.0

    def resize(self, fraction: float, change: float, now: float) -> None:
        """Go on with that share of it, and with a level that differs by so much of the whole."""
        if self._bucket is not None:
            rate, capacity = self._parts(fraction)
            level = self._bucket.level(now) + change * self._whole[1]
            self._bucket.resize(rate=rate, capacity=capacity, level=level, now=now)

    def saved(self, now: float) -> float:
        """The level, as a part of the whole."""
        return 0.0 if self._bucket is None else self._bucket.level(now) / self._whole[1]

    @property
    def capacity(self) -> float | None:
        """Requests that may go at once, of all processes together."""
        return None if self._bucket is None else self._whole[1]

    @property
    def refill(self) -> float | None:
        """Whole buckets that come back in a second; None: not limited."""
        return None if self._bucket is None else self._whole[0] / self._whole[1]

    @property
    def bound(self) -> bool:
        """It is limited."""
        return self._bucket is not None or bool(self._windows)

    def counts(self, now: float) -> dict[str, int]:
        """What went within each window."""
        return {span_of(window.span): window.count(now) for window in self._windows}

    def wait(self, now: float) -> float:
        """Seconds until one more request may go."""
        wait = 0.0 if self._bucket is None else self._bucket.wait(1, now)
        for window in self._windows:
            wait = max(wait, window.wait(now))
        return wait

    def hold(self, now: float) -> Hold | None:
        """What keeps one more request from going."""
        wait = self.wait(now)
        return Hold(WaitReason.RATE, wait) if wait > 0 else None

    def take(self, now: float) -> None:
        """One goes."""
        for window in self._windows:
            window.take(now)
        if self._bucket is not None:
            self._bucket.take(1, now)

    def give(self, now: float) -> None:
        """One did not go after all; a window forgets it by itself."""
        if self._bucket is not None:
            self._bucket.give(1, now)

    def lower(self, remaining: float, now: float) -> None:
        """The server says that no more are left now."""
        if self._bucket is not None:
            self._bucket.lower(remaining, now)

    @property
    def rate(self) -> float | None:
        """Requests a second, as they are allowed to this process."""
        return None if self._bucket is None else self._bucket.rate / STEADY

    @property
    def whole(self) -> float | None:
        """Requests a second, as they are allowed to all processes together."""
        return None if self._bucket is None else self._whole[0] / STEADY

    def level(self, now: float) -> float | None:
        """Requests that could go at once."""
        return None if self._bucket is None else self._bucket.level(now)
