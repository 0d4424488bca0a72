"""What was learned of one model of an account: by its answers' headers, and by its 429s.

Servers limit models, not accounts: what one model's answers say never holds back another. Where a server does limit
the account as a whole, each model learns that by itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from flowllm.core.types import Limits, WaitReason
from flowllm.limits.adaptive import AdaptiveRate, lower
from flowllm.limits.headers import Quota
from flowllm.limits.scope import MINUTE, Hold, LimitScope, longer

PACE = 1.0
"""Requests a second. Headers that allow less are believed once there was a 429: until then nothing is held back by what
may be a misunderstanding, and to ask in vain costs no more than a round trip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Departure:
    """A request on its way: when it went, and how many requests and tokens of its model had gone by then, its own
    included."""

    model: str = ""
    at: float = 0.0
    number: int = 0
    tokens: float = 0.0


class ModelLimits:
    """One model's limits: what is written for it, and what was learned. Pure; times are monotonic seconds."""

    def __init__(self, name: str) -> None:
        self.scope = LimitScope()
        self.adaptive = AdaptiveRate()
        self.paused_until = -math.inf
        self.departed = Departure(model=name)
        self._told: float | None = None
        """Requests a second, as headers say."""
        self._most_left = 0.0
        """Requests that were left when most were: so many may go at once."""

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

    def depart(self, tokens: float, now: float) -> Departure:
        """One goes out."""
        before = self.departed
        self.departed = Departure(model=before.model, at=now, number=before.number + 1, tokens=before.tokens + tokens)
        return self.departed

    def hold(self, tokens: float, now: float) -> Hold | None:
        """What keeps a request from being admitted, as far as this model goes."""
        if self.scope.full(self.scope.limits.max_concurrent):
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
            refilled = (now - departure.at) * (self.scope.rate or 0.0)
            self.scope.lower_requests(max(0.0, left - later + refilled), now)

    def _left_untold(self, account: Limits, now: float) -> None:
        """A limit that shows no rate after one that did, as a window's first answers do: many are left."""
        if self._told is not None:
            self._told = None
            self.retune(account, now)


def per_second(limits: Limits) -> float | None:
    """Requests a second as they are written."""
    return None if limits.requests_per_minute is None else limits.requests_per_minute / MINUTE
