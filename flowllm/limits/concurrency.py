"""How many requests in flight suit one model of an account where nobody wrote it down: found by trying. Pure.

Completions a second are requests in flight over the time that each takes (J. Little, "A Proof for the Queuing Formula
L = λW", Operations Research 9 (3), 1961). So a level is judged by the speed at which its requests are served, in tokens
a second of one request, as long answers take longer. Of two levels the *elasticity* says what the higher one brings: 1 if
twice as many in flight make twice as many completions, 0 if they only wait longer.

Four phases, each a standard one. Opening: some go at once, then more by the clock, until the first answer. Slow start
(V. Jacobson, "Congestion Avoidance and Control", SIGCOMM 1988): each answer lets one more go, until the later ones of
those in flight are served more slowly than the first, or CAREFUL is reached. Then trials, as gradients in Netflix's
concurrency-limits (https://github.com/Netflix/concurrency-limits, Gradient2Limit and VegasLimit): one level is measured,
then one a step above or below, which is kept if the elasticity speaks for it; steps grow while they are kept, and are
larger where answers vary. A level that only queues is left for the one that Vegas would choose: the requests in flight
that are being served, n * speed / unhurried speed (L. Brakmo, L. Peterson, "TCP Vegas: End to End Congestion Avoidance on a
Global Internet", IEEE JSAC 13 (8), 1995). A 429 or a timeout halves, and most of that is soon taken back (TCP's ssthresh).
"""

from __future__ import annotations

import math
from typing import TypeAlias

from flowllm.core.records import dataclass

FIRST = 16
"""Requests that go at once to a server of which nothing is known."""
OPENING_PACE = 32.0
"""More of them a second, until the first answer. What is spread comes back spread, and so shows earlier who queues."""
UNHEARD = 48
"""Requests in flight at most while nothing was answered."""
CAREFUL = 64
"""Above that many, trials in place of slow start."""
FLOOR = 4
"""Never fewer: a graph's steps need not wait for each other, and a server with one slot loses nothing by a queue of three."""
CEILING = 512
"""Never more."""
STEP = 0.05
"""Share by which the first trial differs: what is too much by so little is hardly felt."""
GROWTH = 2.5
"""Of steps, while they are kept."""
LONGEST_STEP = 0.5
WORTH = 0.4
"""Elasticity from which the higher of two levels is kept. At 0.5 throughput / latency would be best (L. Kleinrock, "Power and
Deterministic Rules of Thumb", ICC 1979); a run wants its end sooner rather than each answer."""
LEAST = 16
"""Answers that a level is judged by, at least."""
SHARE = 0.75
"""Of the requests in flight that it is judged by, at least."""
SURE = 0.1
"""Standard error of a speed, as a share, up to which more answers are waited for; MOST times as many at most."""
MOST = 4
DOUBT = 4.0
"""Standard errors that a step is wide, at least: then its elasticity is known to about a third."""
BOUND = 0.8
"""Share of the slots that must have been taken for a level to have been tried at all."""
REGAINED = 0.9
"""Of the slots before a 429, which are taken back at once."""
LONGEST_REST = 8
"""Rounds without a trial, where one after the other was not kept."""
FADING = 0.99
"""What is left of the highest speed with each round."""
OVERHEAD = 50.0
"""Tokens that could be written in the time that every answer takes besides."""
FEW = 0.3
MANY = 0.7
"""Shares of the most in flight: what more of them bring is seen between those above the one and above the other."""
UNHURRIED = 0.7
"""Share of the highest speed at which requests hardly queue."""
_TRIED = 4
_LOOK_EVERY = 8
"""Answers from one look at slow start to the next."""
_ROUNDING = 1e-9


Sample: TypeAlias = tuple[float, float, float]
"""Of an answer: how many were in flight when its request left, tokens, seconds."""


@dataclass(slots=True)
class Round:
    """Sums over the answers to requests that left at one level: how many were in flight then, tokens, seconds."""

    count: int = 0
    load: float = 0.0
    work: float = 0.0
    seconds: float = 0.0
    work_squared: float = 0.0
    seconds_squared: float = 0.0
    product: float = 0.0

    def add(self, load: float, work: float, seconds: float) -> None:
        """One more."""
        self.count += 1
        self.load += load
        self.work += work
        self.seconds += seconds
        self.work_squared += work * work
        self.seconds_squared += seconds * seconds
        self.product += work * seconds

    @property
    def level(self) -> float:
        """Requests in flight, on average."""
        return self.load / self.count

    @property
    def speed(self) -> float:
        """Tokens a second of one request."""
        return self.work / self.seconds

    @property
    def error(self) -> float:
        """Standard error of the speed, as a share of it: that of a ratio of sums (W. Cochran, "Sampling Techniques", 1977,
        section 2.11)."""
        pace = self.seconds / self.work
        rest = self.seconds_squared - 2 * pace * self.product + pace * pace * self.work_squared
        return math.sqrt(max(0.0, rest)) / self.seconds


def elasticity(low: Round, high: Round) -> float:
    """How much of its growth from one level to a higher one comes out as throughput; `high.level` is the higher."""
    return 1 + math.log(high.speed / low.speed) / math.log(high.level / low.level)


class Concurrency:
    """Pure: every method is told the time, in seconds of a monotonic clock."""

    def __init__(self) -> None:
        self.ceiling = CEILING
        """Slots at most; what files and connections allow may be less."""
        self._processes = 1
        self.found: int | None = None
        """The level that was kept last; None: none was compared to another, and where there is one it only queues."""
        self._compared = False
        self._slots = float(FIRST)
        self._opened: float | None = None
        """When the first request went; None: none did, or the first is answered already."""
        self.heard = False
        """Something came back."""
        self._started: list[Sample] | None = []
        """The answers of slow start; None: that is over."""
        self._threshold = float(CAREFUL)
        """Slots at which slow start ends."""
        self._goal = 0.0
        self._rise = 0.0
        """Slots for each answer, up to the goal."""
        self._since = -math.inf
        """Requests that left earlier do not count."""
        self._round = Round()
        self._base: Round | None = None
        """The level that the next one is compared to."""
        self._trial = False
        self._up = True
        self._step = STEP
        self._best = 0.0
        """The highest speed, that of requests which do not queue; it fades."""
        self._refusals = 0
        """Trials that were not kept, one after the other."""
        self._rest = 0
        self._next_rest = 1
        self._cut_at = -math.inf
        self._waits = False
        """Nothing was answered since."""

    # what may be done

    def slots(self, now: float) -> int:
        """Requests that may be in flight now."""
        found = self._slots
        if not self.heard and self._opened is not None:
            found = min(UNHEARD, FIRST + (now - self._opened) * OPENING_PACE) / self._processes
        return max(1, min(self.ceiling, int(found + _ROUNDING)))

    def full(self, in_flight: int, now: float) -> bool:
        """No more may go now. The first time that this is asked, the clock of the opening starts."""
        if self._opened is None:
            self._opened = now
        return in_flight >= self.slots(now)

    def more_in(self, now: float) -> float:
        """Seconds until there is one more slot; infinite until there is an answer."""
        slots = self.slots(now)
        if self.heard or self._opened is None or slots >= min(UNHEARD // self._processes, self.ceiling):
            return math.inf
        return max(0.0, self._opened + ((slots + 1) * self._processes - FIRST) / OPENING_PACE - now)

    def remember(self, found: float) -> None:
        """What an earlier run found, to begin with; nothing happens once something was sent. A run of few requests ends
        before anything else is tried."""
        if self._opened is None:
            self.heard, self._compared, self._rest = True, True, 1
            self._slots = self._threshold = float(max(FLOOR, round(found)))

    def open_with(self, processes: int) -> None:
        """So many processes ask it, of which each finds its own part: they open together as one does."""
        if not self.heard:
            self._processes = processes
            self._slots, self._threshold = FIRST / processes, max(FLOOR, CAREFUL / processes)

    # what happened

    def hear(self, now: float) -> None:
        """Something came back, if only a failure: no more slots by the clock."""
        if not self.heard:
            self._slots, self.heard = float(self.slots(now)), True

    def answered(self, now: float, *, sent_at: float, load: int, in_flight: int, tokens: float) -> None:
        """An answer with so many output tokens came. `load` were in flight when its request left, itself included, and
        `in_flight` are now."""
        self.hear(now)
        self._waits = False
        seconds, work = max(now - sent_at, _ROUNDING), tokens + OVERHEAD
        if self._started is not None:
            self._started.append((load, work, seconds))
            self._start(self._started, now, bound=in_flight >= BOUND * self.slots(now))
            return
        if self._slots < self._goal:
            self._slots = min(self._goal, self._slots + self._rise)
            self._since = now if self._slots >= self._goal else math.inf
        if sent_at >= self._since:
            self._round.add(load, work, seconds)
            self._judge(now)

    def dropped(self, now: float, *, sent_at: float, load: int) -> None:
        """A request was one too many, or timed out: half of the slots go, once for all that left before, and until
        something is answered. It says nothing where others were not taken."""
        self.hear(now)
        slots = self.slots(now)
        if sent_at <= self._cut_at or self._waits or load < BOUND * slots:
            return
        self._started, self._base, self._trial, self._cut_at, self._waits = None, None, False, now, True
        self._turn(up=True)
        self._pause()
        self._slots = float(max(FLOOR, slots // 2))
        self._move(slots * REGAINED, now, rise=1.0)

    # slow start

    def _start(self, answers: list[Sample], now: float, *, bound: bool) -> None:
        most = min(self._threshold, self.ceiling)
        self._slots = max(self._slots, min(most, self._slots + bound))
        seen = len(answers) % _LOOK_EVERY == 0 and answers[-1][0] >= LEAST
        knee = self._knee(answers) if seen else None
        if knee is not None:
            self._compared = True
            self._turn(up=False)
        if knee is not None or (self._slots >= most and answers[-1][0] >= BOUND * most):
            self._started = None
            self._move(min(self._slots, knee or most), now)
        elif len(answers) >= 2 * CAREFUL:
            del answers[:CAREFUL]

    def _knee(self, answers: list[Sample]) -> float | None:
        """How many are served at a time, if those that left when most were in flight had to wait for the others."""
        most = max(load for load, _, _ in answers)
        first, low, high = Round(), Round(), Round()
        for place, answer in enumerate(answers):
            if place < _LOOK_EVERY:  # those that waited least
                first.add(*answer)
            if answer[0] > FEW * most:
                (low if answer[0] <= MANY * most else high).add(*answer)
        if min(low.count, high.count) < _TRIED:
            return None
        self._best = max(first.speed, low.speed, high.speed)
        doubt = (low.error + high.error) / math.log(high.level / low.level)
        return None if elasticity(low, high) + doubt >= WORTH else high.level * high.speed / self._best

    # trials

    def _judge(self, now: float) -> None:
        """Is the round over, and what does it say?"""
        done, wanted = self._round, max(LEAST, SHARE * self._slots)
        if done.count < wanted or (done.count < MOST * wanted and done.error > SURE):
            return
        if done.level < BOUND * self._slots:  # there was not enough to do: nothing was tried
            self._again(now)
            return
        self._best = max(self._best * FADING, done.speed)
        if self._base is not None and self._trial:
            self._tried(self._base, done, now)
        else:
            self._based(done, now)

    def _based(self, done: Round, now: float) -> None:
        self._base = done
        if self._compared or done.speed >= UNHURRIED * self._best:
            self.found = round(done.level)
        if self._rest > 0:
            self._rest -= 1
            self._again(now)
        else:
            self._try(done, now)

    def _try(self, base: Round, now: float) -> None:
        """Go one step up or down from the level that was measured last."""
        factor = 1 + min(LONGEST_STEP, max(self._step, DOUBT * base.error))
        level = max(base.level * factor, base.level + 1)
        if not self._up:
            served = base.level * base.speed / self._best
            level = max(base.level / _TRIED, min(served * (1 + STEP), base.level / factor, base.level - 1))
        if FLOOR <= level <= self.ceiling:
            self._trial = True
            self._move(level, now)
        else:
            self._turn(up=not self._up)
            self._pause()
            self._again(now)

    def _tried(self, base: Round, done: Round, now: float) -> None:
        low, high = sorted((base, done), key=lambda one: one.level)
        worth = high.level > low.level and elasticity(low, high) >= WORTH
        self._trial, self._compared = False, True
        if worth is self._up:
            self._refusals, self._next_rest = 0, 1
            self._step = min(LONGEST_STEP, self._step * GROWTH)
            self._base, self.found = done, round(done.level)
            self._try(done, now)
            return
        self.found = round(base.level)
        served = min(done.level, done.level * done.speed / base.speed)
        level = max(low.level, served) if self._up else base.level
        self._turn(up=not self._up)
        self._refusals += 1
        if self._refusals > 1:
            self._pause()
        self._move(level, now)

    def _turn(self, *, up: bool) -> None:
        self._up, self._step = up, STEP

    def _pause(self) -> None:
        self._rest, self._next_rest = self._next_rest, min(LONGEST_REST, self._next_rest * 2)

    def _again(self, now: float) -> None:
        """Measure the same level once more."""
        self._round, self._trial, self._since = Round(), False, now

    def _move(self, level: float, now: float, *, rise: float | None = None) -> None:
        """To another level: down at once, up with the answers, so that what is added is spread over all of them."""
        level = float(min(max(FLOOR, round(level)), self.ceiling))
        self._round, self._goal, self._since = Round(), level, now
        if level <= self._slots:
            self._slots = level
        else:
            self._rise = level / self._slots - 1 if rise is None else rise
            self._since = math.inf
