"""Which requests in flight take so much longer than their like that they are sent once more. Pure.

A request that is late is sent again after J. Dean, L. A. Barroso, "The Tail at Scale", Communications of the ACM 56 (2),
2013: once it has taken longer than nearly all of its like did, so that few are. Its like are the latest requests to the same
model of the same account whose answers were expected to be about as long, or all of its latest ones while there are too few
of these; where a process has seen none yet, those on record. How many are sent again is bounded by a bucket
that each request fills a little, as gRPC throttles retries and hedges ("A6: gRPC Retry Design", 2017): where a whole server is
slow, everything is late, and to ask for it twice would make it slower still.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar

LEAST_KNOWN = 20
"""Latencies below which nothing is known of what is usual."""
USUAL = 0.95
"""The share of its like that is faster than what is usual at most."""
LATE = 2.0
"""So many times that long is late."""
SOONEST = 0.5
"""Seconds; what is faster is late for reasons of our own."""
KEPT = 200
"""The latest latencies of a kind that count."""
OLDEST = 900.0
"""Seconds after which one no longer counts."""
ONE_IN = 50
"""Of so many requests one is sent again: 2 %."""
MOST_SAVED = 10
"""Second attempts that may follow at once after a time without any."""
MOST_KINDS = 500
"""Kinds of requests that are remembered, besides those in flight."""
RECALLED_AFTER = 2.0
"""Seconds that a request takes before it is asked what is on record of its like, where nothing else is known of them."""
_REVIEW = 10
"""Latencies after which what is late is reckoned anew."""
_AGAIN = 1.0
"""Seconds after which one that is late is looked at again, where the budget is used up."""
_TICK = 0.01
"""Seconds; nothing is looked at sooner than that."""
F = TypeVar("F", bound=Hashable)
Kind = tuple[Hashable, str, bool, int]
"""What requests that are alike have in common: the account, the model, whether it must read the prompt, and about how long
the answers are."""


class Latencies:
    """The latest latencies of requests that are alike, in seconds."""

    __slots__ = ("_at", "_seconds", "_unseen", "late", "recalled")

    def __init__(self) -> None:
        self._at: deque[float] = deque(maxlen=KEPT)
        self._seconds: deque[float] = deque(maxlen=KEPT)
        self._unseen = 0
        self.late = math.inf
        """Seconds after which a request is late; infinite until enough is known."""
        self.recalled = False
        """It was asked what is on record of them."""

    def remember(self, seconds: Sequence[float], now: float) -> None:
        """What is on record of earlier ones, the oldest first, counts as of now: a model stays about as quick as it was."""
        known = [(self._at[0] if self._at else now, each) for each in seconds]
        known += zip(self._at, self._seconds, strict=True)
        self._at = deque((at for at, _ in known), maxlen=KEPT)
        self._seconds = deque((each for _, each in known), maxlen=KEPT)
        if known:
            self._review(now)

    def add(self, seconds: float, now: float) -> None:
        """One more, of now."""
        self._at.append(now)
        self._seconds.append(seconds)
        self._unseen += 1
        if self._unseen >= _REVIEW:
            self._review(now)

    def _review(self, now: float) -> None:
        self._unseen = 0
        while self._at[0] < now - OLDEST:
            self._at.popleft()
            self._seconds.popleft()
        known = sorted(self._seconds)
        enough = len(known) >= LEAST_KNOWN
        self.late = max(SOONEST, LATE * known[math.ceil(USUAL * len(known)) - 1]) if enough else math.inf


class HedgeBudget:
    """How many second attempts an account may have: a share of its requests, the first of them lent."""

    __slots__ = ("_debt", "_level")

    def __init__(self) -> None:
        self._level = ONE_IN
        self._debt = ONE_IN

    def earn(self) -> None:
        """A request is sent."""
        if self._debt:
            self._debt -= 1
        elif self._level < MOST_SAVED * ONE_IN:
            self._level += 1

    def take(self) -> bool:
        """Whether one may be sent again, which is taken off then."""
        if self._level < ONE_IN:
            return False
        self._level -= ONE_IN
        return True

    def give_back(self) -> None:
        """It was not sent after all."""
        self._level += ONE_IN


class Line(Generic[F]):
    """Requests in flight that are alike, the one that was sent first in front."""

    __slots__ = ("budget", "fixed", "flights", "latencies", "of_model")

    def __init__(self, budget: HedgeBudget, of_model: Latencies, fixed: float | None) -> None:
        self.budget = budget
        self.of_model = of_model
        """Of all its requests, whatever their length."""
        self.fixed = fixed
        self.flights: dict[F, float] = {}
        self.latencies = Latencies()

    def landed(self, flight: F, now: float, took: float | None) -> bool:
        """One is over. It took so many seconds, or would have taken more, where the server worked for it that long; None:
        nobody knows. Whether it is known for the first time of some how long is late."""
        self.flights.pop(flight, None)
        if took is None or self.fixed is not None:
            return False
        unknown = math.inf in {self.latencies.late, self.of_model.late}
        self.of_model.add(took, now)
        self.latencies.add(took, now)
        return unknown and self.late < math.inf

    @property
    def late(self) -> float:
        """Seconds after which one is late; infinite where too little is known."""
        if self.fixed is not None:
            return self.fixed
        return self.latencies.late if self.latencies.late < math.inf else self.of_model.late

    @property
    def due(self) -> float:
        """Seconds after which one is to be looked at: it is late, or what is on record has to tell."""
        unknown = self.fixed is None and self.late == math.inf and not self.of_model.recalled
        return RECALLED_AFTER if unknown else self.late


class HedgePolicy(Generic[F]):
    """Knows the requests in flight. Every method is told the time, in seconds of a monotonic clock."""

    def __init__(self) -> None:
        self._budgets: dict[Hashable, HedgeBudget] = {}
        self._models: dict[tuple[Hashable, str, bool], Latencies] = {}
        self._lines: dict[tuple[Kind, float | None], Line[F]] = {}

    def departed(self, flight: F, kind: Kind, fixed: float | None, now: float) -> Line[F]:
        """One goes out, and is late after `fixed` seconds, else as its like were. Gives its line, for `landed`."""
        line = self._lines.get((kind, fixed)) or self._line(kind, fixed)
        line.budget.earn()
        line.flights[flight] = now
        return line

    def unknown(self, now: float) -> list[F]:
        """Those that take long while nothing is known of their like, one of each model, and each once: what is on record is
        to be asked for, and given to its `line.of_model`."""
        found: list[F] = []
        for line in self._lines.values():
            flight, since = next(iter(line.flights.items()), (None, now))
            if flight is not None and line.due < line.late and since + line.due <= now:
                line.of_model.recalled = True
                found.append(flight)
        return found

    def late(self, now: float) -> tuple[list[F], float]:
        """Those that are to be sent again now, and the seconds until there may be more."""
        found: list[F] = []
        soonest = math.inf
        for line in self._lines.values():
            before = len(found)
            for flight, since in line.flights.items():
                left = since + line.due - now
                if left <= 0 and line.late < math.inf and line.budget.take():
                    found.append(flight)
                    continue
                soonest = min(soonest, max(left, _TICK) if left > 0 else _AGAIN)
                break
            for flight in found[before:]:
                del line.flights[flight]
        return found, soonest

    def _line(self, kind: Kind, fixed: float | None) -> Line[F]:
        if len(self._lines) >= MOST_KINDS:
            self._lines = {key: line for key, line in self._lines.items() if line.flights}
            used = {kind[:3] for kind, _ in self._lines}
            self._models = {model: known for model, known in self._models.items() if model in used}
            accounts = {account for account, _, _ in used}
            self._budgets = {account: budget for account, budget in self._budgets.items() if account in accounts}
        budget = self._budgets.setdefault(kind[0], HedgeBudget())
        of_model = self._models.setdefault(kind[:3], Latencies())
        line = self._lines[kind, fixed] = Line(budget, of_model, fixed)
        return line
