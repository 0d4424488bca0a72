"""How an account stands: one object to look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from flowllm.core.types import Json
from flowllm.limits.account_limiter import AccountLimiter
from flowllm.limits.adaptive import lower
from flowllm.limits.scope import MINUTE

SHORTEST = 5.0
"""Seconds below which a share of a rate means nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauge:
    """One account at one moment. None: not limited, or not known."""

    in_flight: int
    waiting: int
    waits: Mapping[str, int]
    """How many wait for which reason, those too that were admitted and may not go out yet."""
    max_concurrent: int
    """Slots when all is well."""
    slots: int
    """Slots as the breaker leaves them now."""
    requests_per_minute: float | None
    """The rate in force: what is written, or what headers say and what was learned of the models that were asked, all
    together; the lowest."""
    learned_per_minute: float | None
    """What the server was found to allow."""
    requests_left: float | None
    """Requests that could go at once."""
    tokens_per_minute: float | None
    tokens_left: float | None
    """Tokens that could be reserved at once."""
    paused_s: float
    """Seconds for which a model is not asked, as the server wants it; the longest."""
    breaker: str
    """closed, open, probing or ramping."""
    granted: int
    """Requests admitted so far."""
    utilisation: float | None
    """Admitted requests as a share of those that the rate in force would have let through, 0 to 1; None in the first
    seconds."""

    def as_dict(self) -> dict[str, Json]:
        """As JSON."""
        return {item.name: getattr(self, item.name) for item in fields(self)}


def read_gauge(account: AccountLimiter, now: float) -> Gauge:
    """The account as it stands at that moment (monotonic seconds)."""
    scope = account.scope
    asked = [model for model in account.models.values() if model.departed.number]
    learned = _summed([model.adaptive.rate(now) for model in asked if model.adaptive.learned])
    rate = lower(scope.rate, _summed([model.scope.rate for model in asked]))
    left = lower(scope.level(now), _summed([model.scope.level(now) for model in asked]))
    elapsed = now - (account.began if account.began is not None else now)
    possible = None if rate is None or elapsed < SHORTEST else rate * elapsed
    return Gauge(
        in_flight=scope.in_flight,
        waiting=account.waiting,
        waits={reason.value: count for reason, count in account.waits().items()},
        max_concurrent=account.most,
        slots=account.breaker.width(account.most, now),
        requests_per_minute=None if rate is None else rate * MINUTE,
        learned_per_minute=None if learned is None else learned * MINUTE,
        requests_left=left,
        tokens_per_minute=scope.limits.tokens_per_minute,
        tokens_left=None if scope.tokens is None else scope.tokens.level(now),
        paused_s=max((0.0, *(model.paused_until - now for model in asked))),
        breaker=account.breaker.state.value,
        granted=scope.granted,
        utilisation=None if not possible else min(1.0, scope.granted / possible),
    )


def _summed(rates: list[float | None]) -> float | None:
    """Of all models; one that has none makes it unlimited."""
    return None if not rates or None in rates else sum(rate for rate in rates if rate is not None)
