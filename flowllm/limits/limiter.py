"""The one limiter: every request of every run in the process is admitted here, or waits here."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping

from flowllm.core.clock import Clock
from flowllm.core.errors import AttemptTimedOut, StepError
from flowllm.core.records import dataclass, fields
from flowllm.core.types import Json, Limits, Priority, Trait
from flowllm.limits.account_limiter import AccountLimiter
from flowllm.limits.adaptive import Departure, lower
from flowllm.limits.breaker import BreakerState
from flowllm.limits.follower import Follower
from flowllm.limits.give_up import FailureReport, judge_failure
from flowllm.limits.prefix_cache import UNSIZED, Lineup
from flowllm.limits.rates import MINUTE
from flowllm.limits.waiter import Admission, WaitListener

IDLE = 900.0
"""Seconds after the last run that used an account in which it is kept; what was learned of it is in the store."""
MOST_COUNTED = 2000
"""Requests in a queue that are told what they have waited before that is over."""
SHORTEST = 5.0
"""Seconds below which a share of a rate means nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauge:
    """One account at one moment. None: not limited, or not known."""

    in_flight: int
    waiting: int
    waits: Mapping[str, Mapping[str, int]]
    """How many wait for which reason at which priority, those too that were admitted and may not go out yet."""
    max_concurrent: int
    """Slots when all is well: as they are written, or as they are found now of all models that were asked."""
    learned_concurrent: int | None
    """Requests in flight that were found to suit the models that were asked, all together."""
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
    requests_sent: int
    tokens_used: int
    refused: int
    """In the last minute: requests that went out, tokens of those that were answered, and 429s."""
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
    waits: dict[str, dict[str, int]] = {}
    for (reason, priority), count in account.waits().items():
        waits.setdefault(reason.value, {})[priority.value] = count
    own = lower(scope.own_rate, _summed([model.scope.own_rate for model in asked]))
    possible = None if own is None or elapsed < SHORTEST else own * elapsed
    return Gauge(
        in_flight=scope.in_flight,
        waiting=account.waiting,
        waits=waits,
        max_concurrent=account.most,
        learned_concurrent=sum(model.found or 0 for model in asked) or None,
        slots=account.breaker.width(account.most, now),
        requests_per_minute=None if rate is None else rate * MINUTE,
        learned_per_minute=None if learned is None else learned * MINUTE,
        requests_left=left,
        tokens_per_minute=scope.limits.tokens_per_minute,
        tokens_left=None if scope.tokens is None else scope.tokens.level(now),
        paused_s=max((0.0, *(model.paused_until - now for model in asked))),
        breaker=account.breaker.state.value,
        requests_sent=account.sent.sum(now),
        tokens_used=account.used.sum(now),
        refused=account.refused.sum(now),
        granted=scope.granted,
        utilisation=None if not possible else min(1.0, scope.granted / possible),
    )


def _summed(rates: list[float | None]) -> float | None:
    """Of all models; one that has none makes it unlimited."""
    return None if not rates or None in rates else sum(rate for rate in rates if rate is not None)


class Permit:
    """One admitted request. It holds a slot until `release`."""

    __slots__ = ("_account", "_admission", "_departure", "_held", "_used", "lineup", "queue_s")

    def __init__(self, account: AccountLimiter, admission: Admission, queue_s: float) -> None:
        self._account = account
        self._admission = admission
        self._departure: Departure | None = None
        self._held = True
        self._used: float | None = None
        self.lineup = admission.lineup
        """Of a second attempt that of the first, whose followers its answer releases too."""
        self.queue_s = queue_s

    @property
    def cache_key(self) -> str:
        """Names the beginning that its prompt shares with others; empty where that does not count."""
        lineup = self.lineup
        return "" if lineup is None or not lineup.key else f"{lineup.key:016x}"

    async def depart(self) -> None:
        """Wait for the moment at which the request may really go out: not during a pause, not above a rate."""
        self._departure = await self._account.depart(self._admission)

    def answered(
        self, headers: Mapping[str, str], *, used: float, cached: int | None = None, output_tokens: int | None = None
    ) -> str | None:
        """The answer is here: what its headers say, the tokens that it took, how many of them were read from the
        server's cache, and how many were written. Gives what people should hear."""
        was_open = self._account.breaker.state is BreakerState.PROBING
        departure = self._departure or Departure(model=self._admission.model)
        self._account.answered(headers, departure, tokens=output_tokens or 0, used=used)
        if self.lineup is not None:
            self._account.cached(self.lineup, departure, cached)
        if self._account.scope.limits.tokens_charged == "usage":
            self._used = used
        return "answers again: requests go out, slowly at first" if was_open else None

    def failed(self, error: StepError) -> FailureReport:
        """No answer came: what that means for the account. The tokens that were reserved are given back, but for
        a request that the server may still be working on."""
        self._used = None if isinstance(error, AttemptTimedOut) else 0.0
        return judge_failure(self._account, error, self._departure or Departure(model=self._admission.model))

    def release(self) -> None:
        """Give the slot back, once; tokens stay charged as reserved unless they were told to be otherwise."""
        if self._held:
            self._held = False
            used = self._admission.tokens if self._used is None else self._used
            sent = self._departure is not None
            self._account.give_back(self._admission, used=used if sent else 0.0, sent=sent)


def tightest(one: Limits, other: Limits) -> Limits:
    """Of two workflows that disagree on an account, the smaller number holds, one by one."""

    def smaller(a: float | None, b: float | None) -> float | None:
        return min((x for x in (a, b) if x is not None), default=None)

    charged = {one.tokens_charged, other.tokens_charged}
    burst = smaller(one.burst, other.burst)
    concurrent = smaller(one.max_concurrent, other.max_concurrent)
    ceiling = smaller(one.ceiling, other.ceiling)
    models = {
        name: tightest(one.models.get(name, Limits()), other.models.get(name, Limits()))
        for name in dict.fromkeys([*one.models, *other.models])
    }
    return Limits(
        max_concurrent=None if concurrent is None else int(concurrent),
        ceiling=None if ceiling is None else int(ceiling),
        requests_per_minute=smaller(one.requests_per_minute, other.requests_per_minute),
        tokens_per_minute=smaller(one.tokens_per_minute, other.tokens_per_minute),
        burst=None if burst is None else int(burst),
        windows=tuple(dict.fromkeys([*one.windows, *other.windows])),
        prefix_cache=_either(one.prefix_cache, other.prefix_cache),
        adaptive=one.adaptive if other.adaptive is None else other.adaptive and one.adaptive is not False,
        tokens_charged="request" if "request" in charged else one.tokens_charged or other.tokens_charged,
        models=models,
        give_up_after=smaller(one.give_up_after, other.give_up_after),
        stop_at_error_rate=smaller(one.stop_at_error_rate, other.stop_at_error_rate),
    )


def _either(one: str | None, other: str | None) -> str | None:
    """Off holds before on."""
    return min((mode for mode in (one, other) if mode in ("off", "on")), default=None)


class Limiter:
    """Admission for all accounts of the process."""

    def __init__(self, clock: Clock, *, weights: Mapping[str, float] | None = None) -> None:
        """`weights` of tenants; one that has none weighs 1."""
        self._clock = clock
        self._weights = dict(weights or {})
        self._accounts: dict[Hashable, AccountLimiter] = {}
        self._claims: dict[Hashable, dict[object, Limits]] = {}
        self._idle: dict[Hashable, float] = {}
        """Accounts that no run claims, and since when (monotonic seconds), the longest first."""

    def configure(self, account: Hashable, limits: Limits, *, holder: object) -> None:
        """Say what `holder` (a run) allows on that account, until `withdraw`. Of several the tightest holds."""
        self._idle.pop(account, None)
        claims = self._claims.setdefault(account, {})
        claims[holder] = tightest(claims[holder], limits) if holder in claims else limits
        self._apply(account)

    def withdraw(self, holder: object) -> None:
        """That run is over: its limits no longer count."""
        for account, claims in list(self._claims.items()):
            if claims.pop(holder, None) is None:
                continue
            if claims:
                self._apply(account)
            else:
                del self._claims[account]
                self._idle[account] = self._clock.monotonic()
        self._forget_idle()

    def _forget_idle(self) -> None:
        """Drop accounts that nobody has used for long: a process may serve thousands of keys, one after the other."""
        now = self._clock.monotonic()
        for account, since in list(itertools.takewhile(lambda one: one[1] <= now - IDLE, self._idle.items())):
            del self._idle[account]
            if self._accounts[account].at_rest(now, idle_s=now - since):
                self._accounts.pop(account).stop_timer()
            else:
                self._idle[account] = since  # once more with the next run

    def _apply(self, account: Hashable) -> None:
        claims = iter(self._claims[account].values())
        limits = next(claims)
        for other in claims:
            limits = tightest(limits, other)
        self.account(account).set_limits(limits)

    async def acquire(
        self,
        account: Hashable,
        *,
        priority: Priority = Priority.NORMAL,
        tokens: float = 0.0,
        model: str = "",
        tenant: str = "",
        listener: WaitListener | None = None,
        lineup: Lineup | None = None,
        ahead: bool = False,
    ) -> Permit | Follower:
        """Wait until a request that reserves that many tokens may be sent; the permit must be released. A request that has
        a `lineup` may be told to wait for another first; one that goes `ahead` goes before all others of its tenant.

        Raises RequestRejected for one that is larger than a whole minute's limit: it could never go. Raises
        ProviderDown when the provider is given up while this waits.
        """
        admission = Admission(
            priority=priority,
            tokens=tokens,
            model=model,
            tenant=tenant,
            weight=self._weights.get(tenant, 1.0),
            listener=listener,
            lineup=lineup,
            ahead=ahead,
        )
        found = self.account(account)
        waited = await found.acquire(admission)
        if lineup is not None and lineup.follows is not None:
            return Follower(found, admission, lineup, queue_s=waited)
        return Permit(found, admission, waited)

    def learned(self, account: Hashable) -> dict[str, dict[Trait, float]]:
        """What was found out of each model of the account."""
        now = self._clock.monotonic()
        return {name: model.learned(now) for name, model in self.account(account).models.items()}

    def remember(self, account: Hashable, model: str, traits: Mapping[str, float]) -> None:
        """What earlier runs learned of a model, by the names of `Trait`, to begin with; unknown names are passed over."""
        self.account(account).remember(model, traits)

    def ahead(self, account: Hashable) -> int:
        """How many requests of that account may be ready, for those to be found whose prompts begin the same; 0 where none
        waits for another (`prefix_cache.py`)."""
        found = self.account(account)
        models = [model.prefixes.ahead for model in found.models.values() if model.prefixes.pays]
        return min(models, default=UNSIZED if found.scope.limits.prefix_cache == "on" else 0)

    def slots(self, account: Hashable) -> int:
        """Requests to the account that may be in flight soon, when all is well."""
        return self.account(account).soon

    def written(self, account: Hashable) -> int | None:
        """Requests in flight as they are written down for the account."""
        return self.account(account).scope.limits.max_concurrent

    def count_waits(self) -> None:
        """Tell those who wait in queues what they have waited so far, where they are not so many that this takes long."""
        now = self._clock.monotonic()
        for queue in (queue for account in self._accounts.values() for queue in account.queues.values()):
            if len(queue) <= MOST_COUNTED:
                for _, waiter in queue:
                    waiter.count(now)
                    waiter.enter(queue, now)

    def gauges(self) -> dict[Hashable, Gauge]:
        """How each account stands."""
        now = self._clock.monotonic()
        return {name: read_gauge(account, now) for name, account in self._accounts.items()}

    def account(self, account: Hashable) -> AccountLimiter:
        """The limiter of that account."""
        if account not in self._accounts:
            self._accounts[account] = AccountLimiter(self._clock)
        return self._accounts[account]

    def close(self) -> None:
        """Stop the timers."""
        for account in self._accounts.values():
            account.stop_timer()
