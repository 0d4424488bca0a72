"""What a server allows one model of an account, learned from its answers' headers and its 429s. Pure.

Servers limit models, not accounts: what one model's answers say never holds back another. Where a server does limit
the account as a whole, each model learns that by itself.

Nothing is held back until the first "too many requests": a server without limits is never slowed down, nor one that
refuses a few whatever one does (`refusals.py` tells them apart). The first cut is a guess, and the rate doubles from it every other second until there is a second one. From then on, and from the
first one on where a limit was written down or told, the rate is cut at most once a round trip, to no more than what
the server has lately accepted. It grows back along the cubic of S. Ha, I. Rhee, L. Xu, "CUBIC: A New TCP-Friendly
High-Speed TCP Variant", ACM SIGOPS Operating Systems Review 42 (5), 2008: fast up to where it was cut, flat around
there, then faster and faster, so that a limit that was raised is found within a minute, while one that stands is
bumped into seldom.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping

from flowllm.core.records import dataclass
from flowllm.core.shares import LearnedRate
from flowllm.core.types import Limits, Trait, WaitReason
from flowllm.limits.concurrency import CEILING, Concurrency
from flowllm.limits.prefix_cache import PrefixCache
from flowllm.limits.quota_headers import Quota
from flowllm.limits.rates import MINUTE, Hold, longer
from flowllm.limits.refusals import Refusals
from flowllm.limits.scope import LimitScope

CUT = 0.92
"""What is left of the rate after a cut."""
DEEPEST = 0.7
"""A cut goes down to what was lately accepted, but not below this share of the rate: a pause accepts nothing."""
PLATEAU = 12.0
"""Seconds from a cut until the rate is back where it was."""
DOUBLING = 2.0
"""Seconds in which a rate that is a mere guess doubles."""
LEAST_GUESS = 1.0
"""Requests a second. A server that answers slowly has accepted nothing yet when its first 429 comes."""
SLOWEST = 1 / 60
"""Requests a second; no server is asked less often than once a minute."""
_MEMORY = 2.0, 4.0
"""Seconds over which accepted requests are counted, at least and at most: a pause that a server asked for is shorter."""
PACE = 1.0
"""Requests a second. Headers that allow less are believed once there was a 429: until then nothing is held back by what
may be a misunderstanding, and to ask in vain costs no more than a round trip."""


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
        self._undone = False
        """It is a guess as the last cut was for nothing."""
        self._accepted: deque[float] = deque()
        self._began: float | None = None
        self._adopted_at = -math.inf
        self.others = 0.0
        """Requests a second that were lately accepted of other processes."""
        self.edition = 0
        """How often something was learned here."""

    @property
    def learned(self) -> bool:
        """There was something to learn from."""
        return self._top is not None

    def rate(self, now: float) -> float | None:
        """What may be sent now; None: there is no reason to hold back."""
        if self._top is None:
            return self._ceiling
        grown = _grown(self._top, self._floor, now - self._cut_at, guessed=self._guessed)
        if self._guessed:
            grown = max(grown, CUT * (self.lately(now) + self.others))
        return grown if self._ceiling is None else min(grown, self._ceiling)

    @property
    def settled(self) -> bool:
        """It was cut, and stands near what the server allows."""
        return self._top is not None and not self._guessed

    @property
    def suspects(self) -> bool:
        """The first cut was a guess that grows until the next 429."""
        return self._guessed and not self._undone

    def undo(self, now: float) -> None:
        """The cut was for nothing: the rate doubles every other second (RFC 4015 takes such a cut back as well)."""
        self._floor, self._cut_at, self._guessed = self.rate(now) or 0.0, now, True
        self._undone = True
        self.edition += 1

    def calm(self, sent_at: float) -> bool:
        """A 429 for what was sent then could not come of the rate: it was clearly below where it was cut, or held back
        nothing any more."""
        if self._top is None:
            return True
        since = sent_at - self._cut_at
        lasting = 5 * (DOUBLING if self._guessed else PLATEAU)
        return since > lasting or (not self._guessed and 0 < since <= PLATEAU / 2)

    def lately(self, now: float) -> float:
        """Requests a second that were accepted in the last seconds."""
        least, most = _MEMORY
        while self._accepted and self._accepted[0] <= now - most:
            self._accepted.popleft()
        known = now - (now if self._began is None else self._began)
        return len(self._accepted) / max(least, min(most, known))

    def is_old(self, sent_at: float) -> bool:
        """What was sent then says nothing about the rate since the last cut."""
        return self._top is not None and sent_at <= max(self._cut_at, self._adopted_at)

    def accepted(self, now: float) -> None:
        """A request was answered, or failed for a reason that is not its rate."""
        self._began = now if self._began is None else self._began
        self._accepted.append(now)
        self.lately(now)

    def refused(self, now: float, *, sent_at: float, believed: float | None = None) -> bool:
        """A request that was sent then was one too many; whether the rate was cut for it.

        One that was sent before the last cut says nothing about the rate since. `believed` is the rate that the
        server was said to allow; None: nothing was said.
        """
        if self.is_old(sent_at):
            return False
        lately = self.lately(now) + self.others
        now_at = self.rate(now)
        before = now_at if self.settled else lower(self._ceiling, believed)
        limit = max(LEAST_GUESS, lately) if before is None else min(before, max(lately, before * DEEPEST))
        if self._guessed and now_at is not None and believed is not None:
            limit = min(limit, now_at / CUT)  # what is said to be allowed, and was refused, raises no guess
        unheard = self._top is None or (self._guessed and not lately)  # the second of two that nothing was between
        self._guessed, self._undone = unheard and before is None, False
        self._top = max(SLOWEST, limit)
        self._floor = self._top * CUT  # below the top always, or it would never grow again
        self._cut_at = now
        self.edition += 1
        return True

    def start_at(self, rate: float, now: float) -> None:
        """What an earlier run learned."""
        self._top = max(SLOWEST, rate)
        self._floor = self._top * CUT
        self._cut_at = now - PLATEAU / 2
        self.edition += 1

    def told(self, ahead: float) -> LearnedRate | None:
        """What was learned, for a clock that is so many seconds ahead of this one."""
        if self._top is None:
            return None
        return LearnedRate(
            top=self._top, floor=self._floor, cut_at=self._cut_at + ahead, guessed=self._guessed, undone=self._undone
        )

    def adopt(self, learned: LearnedRate | None, ahead: float, now: float) -> None:
        """What all processes learned, by that clock. What was sent before is old."""
        if learned is None:
            self._top = None
            return
        self._top, self._floor, self._cut_at = learned.top, learned.floor, learned.cut_at - ahead
        self._guessed, self._undone = learned.guessed, learned.undone
        self._adopted_at = now


def _grown(top: float, floor: float, since: float, *, guessed: bool) -> float:
    """What became of a rate so many seconds after it was cut."""
    since = max(0.0, since)  # clocks of machines differ
    if guessed:
        return floor * 2 ** min(60.0, since / DOUBLING)
    return max(floor, top * (1 + (1 - floor / top) * ((since - PLATEAU) / PLATEAU) ** 3))


def learned_rate(learned: LearnedRate, now: float) -> float:
    """The rate that it allows at that time."""
    return _grown(learned.top, learned.floor, now - learned.cut_at, guessed=learned.guessed)


def lower(a: float | None, b: float | None) -> float | None:
    """The lower of two rates; None: unlimited."""
    return min((x for x in (a, b) if x is not None), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Departure:
    """A request on its way: when it went, and how many requests and tokens of its model had gone by then, its own
    included."""

    model: str = ""
    at: float = 0.0
    number: int = 0
    tokens: float = 0.0
    in_flight: int = 0
    """Of the model when it went, itself included."""


class ModelLimits:
    """One model's limits: what is written for it, and what was learned. Pure; times are monotonic seconds."""

    def __init__(self, name: str) -> None:
        self.scope = LimitScope()
        self.adaptive = AdaptiveRate()
        self.refusals = Refusals()
        self.prefixes = PrefixCache()
        self.concurrency = Concurrency()
        self._finds = False
        """Nobody wrote how many may be in flight."""
        self.waiting = 0
        """Requests that are to be admitted, or to go out."""
        self.largest = 0.0
        """The most tokens that one of them takes, as long as any waits."""
        self.paused_until = -math.inf
        self.departed = Departure(model=name)
        self._told: float | None = None
        """Requests a second, as headers say."""
        self._most_left = 0.0
        """Requests that were left when most were: so many may go at once."""

    def wait(self, tokens: float) -> None:
        """One more waits."""
        self.largest = max(tokens, self.largest if self.waiting else 0.0)
        self.waiting += 1

    def slots(self, now: float) -> int | None:
        """Requests that may be in flight; None: any number."""
        return self.concurrency.slots(now) if self._finds else self.scope.limits.max_concurrent

    @property
    def heard(self) -> bool:
        """How many may be in flight is not about to grow by the clock alone."""
        return self.concurrency.heard or not self._finds

    @property
    def found(self) -> int | None:
        """Requests in flight that were found to suit it; None: they are written, or it was not found yet."""
        return self.concurrency.found if self._finds else None

    @property
    def particular(self) -> bool:
        """It may have to wait while other models need not."""
        return self.scope.limits != Limits() or self.scope.rate is not None or self.paused_until > -math.inf

    def believed(self, account: Limits) -> float | None:
        """Requests a second that are written down, or told by the server's headers."""
        written = lower(per_second(account), per_second(self.scope.limits))
        return written if account.adaptive is False else lower(written, self._trusted(written))

    def _trusted(self, written: float | None) -> float | None:
        """What is told, unless it would hold back a model that no 429 was for. A number that was written is believed
        rather than one that is lower."""
        if self._told is None or self.adaptive.learned:
            return self._told
        return self._told if self._told >= max(PACE, written or 0.0) else None

    def tune(self, limits: Limits, account: Limits, now: float) -> None:
        """Take these limits of its own, under those of its account."""
        self.prefixes.mode = account.prefix_cache
        self._finds = limits.max_concurrent is None and account.max_concurrent is None
        self.concurrency.ceiling = min(CEILING, account.ceiling or CEILING)
        told = learned = None
        own = per_second(limits)
        if account.adaptive is not False:
            told = self._trusted(lower(own, per_second(account)))
            learned = self.adaptive.rate(now)
        burst = None if learned is not None or own is not None else self._most_left
        self.scope.tune(limits, lower(own, lower(told, learned)), now, burst=burst)

    def retune(self, account: Limits, now: float) -> None:
        """What was learned has changed, or grown."""
        self.tune(self.scope.limits, account, now)

    def learned(self, now: float) -> dict[Trait, float]:
        """What was found out, for later runs to begin with."""
        rate = self.adaptive.rate(now) if self.adaptive.learned else None
        found = {
            Trait.REQUESTS_PER_SECOND: rate,
            Trait.MAX_CONCURRENT: self.found,
            Trait.CACHES_PREFIXES: self.prefixes.shown,
        }
        return {trait: float(value) for trait, value in found.items() if value is not None}

    def remember(self, traits: Mapping[str, float], account: Limits, now: float) -> None:
        """What earlier runs found out. Nothing is held back by a rate that is very low, as no 429 said so in this one."""
        found, rate = traits.get(Trait.MAX_CONCURRENT), traits.get(Trait.REQUESTS_PER_SECOND)
        if found is not None:
            self.concurrency.remember(found)
        if rate is not None and not self.adaptive.learned:
            self.adaptive.start_at(max(rate, LEAST_GUESS), now)
            self.retune(account, now)
        caches = traits.get(Trait.CACHES_PREFIXES)
        if caches is not None and self.prefixes.shown is None:
            self.prefixes.shown = caches > 0

    def depart(self, tokens: float, now: float) -> Departure:
        """One goes out."""
        before = self.departed
        self.departed = Departure(
            model=before.model,
            at=now,
            number=before.number + 1,
            tokens=before.tokens + tokens,
            in_flight=self.scope.in_flight,
        )
        return self.departed

    def answered(self, departure: Departure, now: float, tokens: int | None) -> None:
        """The server did its work: with so many output tokens, or None where it said why it would not."""
        self.adaptive.accepted(now)
        if self.adaptive.calm(departure.at):
            self.refusals.counted()
        if self._finds and tokens is not None and departure.number:
            load, in_flight = departure.in_flight, self.scope.in_flight
            self.concurrency.answered(now, sent_at=departure.at, load=load, in_flight=in_flight, tokens=tokens)

    def refused(self, departure: Departure, account: Limits, now: float) -> None:
        """A 429. If there are too many the rate is cut, and half of the slots go where it had no rate."""
        adaptive = self.adaptive
        if adaptive.is_old(departure.at):
            return
        rate = adaptive.rate(now) if adaptive.learned else lower(self.believed(account), self._told)
        calm = adaptive.calm(departure.at)
        too_many = self.refusals.refused(departure.number, calm=calm, rate=rate, lately=adaptive.lately(now))
        vain = calm and adaptive.settled and self.refusals.vain
        if vain:
            adaptive.undo(now)
            self.refusals.begin_anew(self.departed.number)
            self.retune(account, now)
        if vain or not (too_many or adaptive.suspects):
            return
        if self.scope.rate is None and account.requests_per_minute is None:
            self.dropped(departure, now)  # else it is the rate that was too high
        adaptive.refused(now, sent_at=departure.at, believed=self.believed(account))
        self.refusals.begin_anew(self.departed.number)
        self.retune(account, now)

    def adopt(self, learned: LearnedRate | None, ahead: float, account: Limits, now: float) -> None:
        """What all processes learned of its rate, by a clock that is so far ahead."""
        self.adaptive.adopt(learned, ahead, now)
        self.refusals.begin_anew(self.departed.number)
        self.retune(account, now)

    def dropped(self, departure: Departure, now: float) -> None:
        """A request was one too many, or timed out."""
        if self._finds and departure.number:
            self.concurrency.dropped(now, sent_at=departure.at, load=departure.in_flight)

    def hold(self, tokens: float, now: float) -> Hold | None:
        """What keeps a request from being admitted, as far as this model goes."""
        if self._finds and self.concurrency.full(self.scope.in_flight, now):
            return Hold(WaitReason.SLOT, self.concurrency.more_in(now))
        if self.scope.full(self.scope.limits.max_concurrent, now):
            return Hold(WaitReason.SLOT, math.inf)
        return longer(self.paused(now), self.scope.hold(tokens, now))

    def paused(self, now: float) -> Hold | None:
        """The pause that the server asked for."""
        pause = self.paused_until - now
        return Hold(WaitReason.SERVER_PAUSE, pause) if pause > 0 else None

    def told(self, quotas: list[Quota], departure: Departure, account: Limits, now: float) -> None:
        """Headers of an answer say that of requests. They spoke of the time when its request arrived."""
        rates = [(quota.rate, quota) for quota in quotas]
        rate, quota = min(
            ((rate, quota) for rate, quota in rates if rate is not None), key=lambda one: one[0], default=(None, None)
        )
        if quota is None or rate is None:
            if any(quota.limit for quota in quotas):
                self._left_untold(account, now)
            return
        left = quota.remaining
        most = max(self._most_left, left or 0.0)
        if (rate, most) != (self._told, self._most_left):
            self._told, self._most_left = rate, most
            self.retune(account, now)
        if left is not None:
            later = self.departed.number - departure.number
            refilled = (now - departure.at) * (self.scope.rate or 0.0)  # for all processes, as what is left
            self.scope.lower_requests(max(0.0, left - later + refilled), now)

    def _left_untold(self, account: Limits, now: float) -> None:
        """A limit that shows no rate after one that did, as a window's first answers do: many are left."""
        if self._told is not None:
            self._told = None
            self.retune(account, now)


def per_second(limits: Limits) -> float | None:
    """Requests a second as they are written."""
    return None if limits.requests_per_minute is None else limits.requests_per_minute / MINUTE
