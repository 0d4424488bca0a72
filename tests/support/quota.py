"""The limits that a provider enforces on its side: a bucket of requests, one of tokens, strict windows, outages.

Written apart from flowllm's own, so that a mistake in one does not hide in the other: this one counts arrivals.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field, fields
from typing import Any

MINUTE = 60.0


@dataclass(kw_only=True)
class Rules:
    """What a server allows. All of it may be changed while it runs."""

    requests_per_minute: float | None = None
    burst: float = 1.0
    """Requests that it takes at once after a pause."""
    tokens_per_minute: float | None = None
    charged: str = "usage"
    """usage: what prompt and answer really take; request: prompt and max_tokens, whatever comes of it."""
    windows: tuple[tuple[int, float], ...] = ()
    """At most so many requests in any span of so many seconds."""
    headers: bool = False
    """x-ratelimit-* with every answer."""
    retry_after: bool = True
    """A 429 says for how long."""
    failing: bool = False
    """Every request is answered 500 until told otherwise."""
    refuse: int = 0
    """So many requests from now on are answered 429, whatever their rate."""
    answer_tokens: tuple[int, int] | None = None
    """The usage of an answer is drawn from this range, both ends included; None: by its length."""
    seed: int = 1

    def changed(self, order: dict[str, Any]) -> Rules:
        """The same with those that the order names."""
        known = {item.name: getattr(self, item.name) for item in fields(self)}
        new = {**known, **{name: value for name, value in order.items() if name in known}}
        new["windows"] = tuple((int(most), float(span)) for most, span in new["windows"])
        return Rules(**new)


@dataclass(frozen=True, kw_only=True)
class Charge:
    """What one request would take."""

    request: int
    """Tokens by what it asks for."""
    usage: int
    """Tokens that it will turn out to take."""


@dataclass
class Level:
    """A bucket, as the server keeps it."""

    rate: float
    capacity: float
    now: float
    level: float = field(init=False)

    def __post_init__(self) -> None:
        self.level = self.capacity

    def refill(self, now: float) -> None:
        self.level = min(self.capacity, self.level + max(0.0, now - self.now) * self.rate)
        self.now = now

    def retune(self, rate: float, capacity: float, now: float) -> None:
        self.refill(now)
        self.rate, self.capacity = rate, capacity
        self.level = min(capacity, self.level)

    def wait(self, amount: float) -> float:
        return max(0.0, (amount - self.level) / self.rate) if self.rate else MINUTE


class Quota:
    """Counts arrivals against the rules; times are monotonic seconds."""

    def __init__(self) -> None:
        self.rules = Rules()
        self._requests: Level | None = None
        self._tokens: Level | None = None
        self._logs: list[deque[float]] = []
        self._draw = random.Random(self.rules.seed)
        self._to_refuse = 0

    def set(self, rules: Rules, now: float) -> None:
        """Follow these from now on. A bucket that exists keeps its level, a new one is full."""
        if rules.seed != self.rules.seed:
            self._draw = random.Random(rules.seed)
        if rules.windows != self.rules.windows:
            self._logs = [deque(maxlen=most) for most, _ in rules.windows]
        per_minute = rules.requests_per_minute
        self._requests = _tuned(self._requests, per_minute, rules.burst, now)
        self._tokens = _tuned(self._tokens, rules.tokens_per_minute, rules.tokens_per_minute or 0, now)
        self._to_refuse = self._to_refuse if rules.refuse == self.rules.refuse else rules.refuse
        self.rules = rules

    def draw_answer(self) -> int | None:
        """Tokens of the next answer; None: by its length."""
        return None if self.rules.answer_tokens is None else self._draw.randint(*self.rules.answer_tokens)

    def admit(self, charge: Charge, now: float) -> float | None:
        """None: it may pass, and is counted. Otherwise the seconds until it might."""
        tokens = charge.request if self.rules.charged == "request" else charge.usage
        waits = [MINUTE / 60] if self._to_refuse else []
        self._to_refuse = max(0, self._to_refuse - 1)
        for level, amount in ((self._requests, 1.0), (self._tokens, float(tokens))):
            if level is not None:
                level.refill(now)
                waits.append(level.wait(amount) if level.level < amount else 0.0)
        for log, (most, span) in zip(self._logs, self.rules.windows, strict=True):
            waits.append(max(0.0, log[0] + span - now) if len(log) == most else 0.0)
        if any(waits):
            return max(waits)
        for log in self._logs:
            log.append(now)
        for level, amount in ((self._requests, 1.0), (self._tokens, float(tokens))):
            if level is not None:
                level.level -= amount
        return None

    def headers(self) -> dict[str, str]:
        """x-ratelimit-*, of what is limited."""
        told: dict[str, str] = {}
        if not self.rules.headers:
            return told
        for name, level in (("requests", self._requests), ("tokens", self._tokens)):
            if level is not None:
                reset = level.wait(level.capacity)
                told[f"x-ratelimit-limit-{name}"] = f"{level.rate * MINUTE:g}"
                told[f"x-ratelimit-remaining-{name}"] = str(max(0, int(level.level)))
                told[f"x-ratelimit-reset-{name}"] = f"{int(reset // 60)}m{reset % 60:.3f}s"
        return told


def _tuned(level: Level | None, per_minute: float | None, capacity: float, now: float) -> Level | None:
    if per_minute is None:
        return None
    if level is None:
        return Level(per_minute / MINUTE, capacity, now)
    level.retune(per_minute / MINUTE, capacity, now)
    return level
