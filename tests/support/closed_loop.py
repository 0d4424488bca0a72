"""Servers as queueing theory has them, and a closed loop of requests upon them, in time that is only counted."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from flowllm.limits.concurrency import OVERHEAD, Concurrency

TOKENS = 200.0


@dataclass
class Slots:
    """So many requests are served at a time, in the order in which they came."""

    slots: int
    free: list[float] = field(default_factory=list)

    def __call__(self, now: float, load: int, service: float) -> float | None:
        while len(self.free) > self.slots:
            heapq.heappop(self.free)
        begin = max(now, heapq.heappop(self.free)) if len(self.free) >= self.slots else now
        heapq.heappush(self.free, begin + service)
        return begin + service


@dataclass
class Batching:
    """As a GPU: all are served, each more slowly the more there are; throughput goes on growing, less and less."""

    half: int
    """In flight at which it does half of what it ever could."""

    def __call__(self, now: float, load: int, service: float) -> float | None:
        return now + service * (1 + load / self.half)


@dataclass
class Refusing:
    """A 429 for each that is one too many."""

    most: float

    def __call__(self, now: float, load: int, service: float) -> float | None:
        return now + service if load <= self.most else None


@dataclass
class Played:
    took: float
    latencies: list[float]
    levels: list[tuple[float, int]]
    """Slots, from each moment on."""
    refused: int

    @property
    def p99(self) -> float:
        return sorted(self.latencies)[int(len(self.latencies) * 0.99)]

    @property
    def late(self) -> float:
        """Slots in the second half of the time, on average."""
        half = self.took / 2
        ends = [at for at, _ in self.levels[1:]] + [self.took]
        spans = [(max(0.0, end - max(at, half)), slots) for (at, slots), end in zip(self.levels, ends, strict=True)]
        return sum(span * slots for span, slots in spans) / half


def play(
    server: Callable[[float, int, float], float | None],
    items: int,
    *,
    concurrency: Concurrency | None = None,
    written: int = 0,
    noise: float = 0.0,
    lengths: float = 0.0,
    seed: int = 1,
) -> Played:
    """Send so many requests as the limit lets them go, an answer of about a second each. `noise` and `lengths` are sigmas of
    log-normal factors of the time and of the number of tokens, to which time is in proportion."""
    draw, found = Random(seed), concurrency or Concurrency()
    now, in_flight, left, paused, refused, numbers = 0.0, 0, items, 0.0, 0, 0
    aloft: list[tuple[float, int, float, int, float]] = []
    latencies: list[float] = []
    levels = [(0.0, written or found.slots(0.0))]
    while left or aloft:
        while left and now >= paused and not (in_flight >= written if written else found.full(in_flight, now)):
            tokens = TOKENS * math.exp(draw.gauss(-lengths * lengths / 2, lengths))
            service = (tokens + OVERHEAD) / (TOKENS + OVERHEAD) * math.exp(draw.gauss(-noise * noise / 2, noise))
            left, in_flight, numbers = left - 1, in_flight + 1, numbers + 1
            ends = server(now, in_flight, service)
            heapq.heappush(
                aloft, (now + 0.02 if ends is None else ends, numbers, now, in_flight, tokens if ends else 0)
            )
        more = now + found.more_in(now) + 1e-9 if left and not written else math.inf
        pause = paused if left and paused > now else math.inf
        if min(more, pause) < aloft[0][0]:
            now = min(more, pause)
        else:
            now, _, sent_at, load, answer = heapq.heappop(aloft)
            if answer:
                latencies.append(now - sent_at)
                found.answered(now, sent_at=sent_at, load=load, in_flight=in_flight, tokens=answer)
            else:
                refused, left, paused = refused + 1, left + 1, now + 0.05
                found.dropped(now, sent_at=sent_at, load=load)
            in_flight -= 1
        if not written and found.slots(now) != levels[-1][1]:
            levels.append((now, found.slots(now)))
    return Played(now, latencies, levels, refused)
