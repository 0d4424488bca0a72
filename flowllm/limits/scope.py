"""What holds requests back in one scope, an account or one model of it: slots, rates, strict windows, tokens.

Rates are kept twice. At admission, so that nobody takes a slot to wait for a rate. And once more on the wire, at the
moment in which a request really goes out: recording an attempt takes a varying while, and a server counts arrivals,
not admissions.

A rate is a token bucket (so many units a second, saved up to a burst) or a strict window. Source of the bucket: J.
Turner, "New directions in communications (or which way to the information age?)", IEEE Communications Magazine 24 (10),
1986, there as the leaky bucket. The level may go below zero: a correction after the fact (more was used than reserved)
is paid back by waiting. Everything here is pure: methods are told the time, in seconds of a monotonic clock.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from flowllm.core.types import Limits, WaitReason

STEADY = 0.99
"""Of a rate is used: what arrives a little early at the server must not be one too many."""
BUNCHING = 0.05
"""Seconds by which requests may run up behind each other on their way: a burst is that much smaller than what a server
takes, and a strict window that much longer."""
GUESSED_BURST = 0.25
"""Seconds of a learned rate that may go at once."""
MINUTE = 60.0
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


class Window:
    """At most so many requests in any span of so many seconds, wherever the span begins: a sliding log of the last
    requests, exact where a counter that is reset each second would let twice as many through around the reset."""

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


class Hold(NamedTuple):
    """Not now: why, and for about how many seconds; infinite until another request is over."""

    reason: WaitReason
    seconds: float


def longer(one: Hold | None, other: Hold | None) -> Hold | None:
    """The one that lasts longer; None if there is none."""
    if one is None or other is None:
        return one or other
    return one if one.seconds >= other.seconds else other


class Rates:
    """How often: a bucket of requests, and any number of windows. Pure; times are monotonic seconds."""

    def __init__(self) -> None:
        self._bucket: Bucket | None = None
        self._windows: list[Window] = []

    def tune(self, limits: Limits, rate: float | None, now: float, *, burst: float | None = None) -> None:
        """Take these limits' windows and burst, and `rate` requests a second (None: unlimited). `burst` is what a
        server's headers say, where no limit is written."""
        wanted = [(window.requests, window.per + BUNCHING) for window in limits.windows]
        if [(window.limit, window.span) for window in self._windows] != wanted:
            self._windows = [Window(limit=limit, span=span) for limit, span in wanted]
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
        capacity = max(1.0, burst - rate * BUNCHING)
        if self._bucket is None:
            self._bucket = Bucket(rate=rate * STEADY, capacity=capacity, now=now)
        else:
            self._bucket.retune(rate=rate * STEADY, capacity=capacity, now=now)

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
        """Requests a second, as they are allowed."""
        return None if self._bucket is None else self._bucket.rate / STEADY

    def level(self, now: float) -> float | None:
        """Requests that could go at once."""
        return None if self._bucket is None else self._bucket.level(now)


class LimitScope:
    """All limits of one scope. Pure; times are monotonic seconds."""

    def __init__(self) -> None:
        self.limits = Limits()
        self.in_flight = 0
        self.reserved = 0.0
        """Tokens that requests in flight have reserved."""
        self.granted = 0
        self.wire = Rates()
        self.tokens: Bucket | None = None
        self._admission = Rates()

    def tune(self, limits: Limits, rate: float | None, now: float, *, burst: float | None = None) -> None:
        """Take these limits; `rate` (requests a second) may be lower than what they say. `burst`: see Rates."""
        self.limits = limits
        self._admission.tune(limits, rate, now, burst=burst)
        self.wire.tune(limits, rate, now, burst=burst)
        per_minute = limits.tokens_per_minute
        if per_minute is None:
            self.tokens = None
            return
        per_second = per_minute / MINUTE
        rate, capacity = per_second * STEADY, per_minute - per_second * BUNCHING
        if self.tokens is None:
            self.tokens = Bucket(rate=rate, capacity=capacity, now=now)
        else:
            self.tokens.retune(rate=rate, capacity=capacity, now=now)

    def too_large(self, tokens: float) -> bool:
        """A request that reserves so much could never go."""
        return self.limits.tokens_per_minute is not None and tokens > self.limits.tokens_per_minute

    def full(self, most: int | None) -> bool:
        """All slots are taken; `most` of them, None: any number."""
        return most is not None and self.in_flight >= most

    def hold(self, tokens: float, now: float) -> Hold | None:
        """What keeps a request that reserves so many tokens from being admitted, slots left aside."""
        wait = self._admission.wait(now)
        if self.tokens is not None:
            for_tokens = self.tokens.wait(min(tokens, self.tokens.capacity), now)
            if for_tokens > wait:
                return Hold(WaitReason.TOKENS, for_tokens)
        return Hold(WaitReason.RATE, wait) if wait > 0 else None

    def take(self, tokens: float, now: float) -> None:
        """One is admitted."""
        self.in_flight += 1
        self.granted += 1
        self.reserved += tokens
        self._admission.take(now)
        if self.tokens is not None:
            self.tokens.take(tokens, now)

    def give_back(self, reserved: float, used: float, now: float, *, sent: bool) -> None:
        """One is over: its slot returns, and the tokens that it did not use."""
        self.in_flight -= 1
        self.reserved -= reserved
        if self.tokens is not None:
            self.tokens.give(reserved - used, now)
        if not sent:
            self._admission.give(now)

    def lower_requests(self, left: float, now: float) -> None:
        """The server says that no more requests than that are left."""
        self._admission.lower(left, now)
        self.wire.lower(left, now)

    @property
    def rate(self) -> float | None:
        """Requests a second."""
        return self._admission.rate

    def level(self, now: float) -> float | None:
        """Requests that could be admitted at once."""
        return self._admission.level(now)
