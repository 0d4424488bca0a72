"""How fast a run may be, as `plan` reckons with it: what accounts and their models allow, and how long requests take."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Final, TypeAlias

from flowllm.app.learned import Traits
from flowllm.app.wiring import SIMULATED, Providers
from flowllm.core.records import replace
from flowllm.core.types import Limits, Trait
from flowllm.explain.load import Lane, Lanes
from flowllm.language.workflow import ProviderSettings, Workflow
from flowllm.limits.concurrency import CAREFUL, FIRST, OPENING_PACE, UNHEARD
from flowllm.limits.limiter import tightest
from flowllm.limits.rates import MINUTE, STEADY
from flowllm.runtime.options import MaxConcurrent
from flowllm.storage.base import Store

Learned: TypeAlias = Mapping[str, Mapping[str, Traits]]
"""By account (as text) and model."""
_DRAWS: Final = 100
"""Latencies that are looked at, or stand for a distribution."""


def found_concurrent(providers: Providers, cap: MaxConcurrent | None, learned: Learned) -> dict[str, int]:
    """How many requests to the default provider would be in flight at first, by model, where it is needed, earlier runs
    found that and no number is written or given (`cap`)."""
    account = providers.named_accounts().get(providers.default)
    if account is None or providers.limits(providers.default, cap).max_concurrent is not None:
        return {}
    models = learned.get(str(account), {})
    return {
        model: round(traits[Trait.MAX_CONCURRENT]) for model, traits in models.items() if Trait.MAX_CONCURRENT in traits
    }


def planned_lanes(providers: Providers, workflow: Workflow, cap: MaxConcurrent | None, learned: Learned) -> Lanes:
    """What each account allows, and each of its models."""
    names = {name: str(account) for name, account in providers.named_accounts().items()}
    limits: dict[str, Limits] = {}
    slots: dict[str, float] = {}
    for name, account in names.items():
        own, settings = providers.limits(name, cap), workflow.providers[name]
        limits[account] = tightest(limits[account], own) if account in limits else own
        slots[account] = _served(settings)
    models = {}
    for account, whole in limits.items():
        known = learned.get(account, {})
        for model in {"", *whole.models, *known}:
            lane = _lane(whole.models.get(model, Limits()), math.inf)
            models[account, model] = _found(lane, known.get(model, {}), whole, slots[account])
    whole_lanes = {account: _lane(found, slots[account]) for account, found in limits.items()}
    return Lanes(accounts=names, whole=whole_lanes, models=models)


def _served(settings: ProviderSettings) -> float:
    """What a server takes at the same time, as far as it is known."""
    return math.inf if settings.type != SIMULATED or settings.slots is None else settings.slots


def _lane(limits: Limits, served: float) -> Lane:
    rates = [(window.requests / window.per, float(window.requests)) for window in limits.windows]
    if limits.requests_per_minute:
        rate = limits.requests_per_minute / MINUTE
        rates.append((rate, float(limits.burst or max(1.0, rate))))
    rate, burst = min(rates, default=(math.inf, 1.0))
    tokens = limits.tokens_per_minute
    return Lane(
        slots=min(served, math.inf if limits.max_concurrent is None else limits.max_concurrent),
        requests_per_second=rate * STEADY,
        burst=burst,
        tokens_per_second=math.inf if tokens is None else tokens / MINUTE * STEADY,
        token_burst=tokens or 0.0,
        charges_usage=limits.tokens_charged == "usage",
    )


def _found(lane: Lane, traits: Traits, account: Limits, served: float) -> Lane:
    """With what earlier runs found of a model, or with what a run finds out while it goes on."""
    if Trait.REQUESTS_PER_SECOND in traits and account.adaptive is not False:
        rate = min(lane.requests_per_second, traits[Trait.REQUESTS_PER_SECOND])
        lane = replace(lane, requests_per_second=rate, burst=min(lane.burst, max(1.0, rate)))
    if account.max_concurrent is not None or lane.slots < math.inf:
        return lane
    if Trait.MAX_CONCURRENT in traits:
        return replace(lane, slots=min(served, traits[Trait.MAX_CONCURRENT]))
    most = min(served, CAREFUL)
    return replace(lane, slots=min(served, FIRST), grows_to=most, opening=OPENING_PACE, unheard=min(UNHEARD, most))


class Latencies:
    """How long requests take where the step itself has no earlier one."""

    def __init__(self, workflow: Workflow, store: Store) -> None:
        self._workflow = workflow
        self._store = store
        self._known: dict[tuple[str, str], tuple[Sequence[float], str]] = {}

    async def of(self, provider: str, model: str) -> tuple[Sequence[float], str]:
        """Seconds: of a simulated provider as it is set, of others as the newest requests to that model took, else to another
        model of it, which is named. Raises StoreError."""
        settings = self._workflow.providers.get(provider)
        if settings is not None and settings.type == SIMULATED:
            return _lognormal(settings.latency, settings.latency_sigma), model
        if (provider, model) not in self._known:
            self._known[provider, model] = await self._measured(provider, model)
        return self._known[provider, model]

    async def _measured(self, provider: str, model: str) -> tuple[Sequence[float], str]:
        for asked in (model, ""):
            found = await self._store.past_answers(provider, asked, limit=_DRAWS)
            timed = [one for one in found if one.finished_at is not None and one.model == found[0].model]
            if timed:
                return [one.finished_at - one.started_at for one in timed if one.finished_at is not None], timed[
                    0
                ].model
        return (), ""


def _lognormal(median: float, sigma: float) -> tuple[float, ...]:
    """Quantiles of that distribution, evenly spaced."""
    if not sigma:
        return (median,)
    normal = NormalDist()
    return tuple(median * math.exp(sigma * normal.inv_cdf((n + 0.5) / _DRAWS)) for n in range(_DRAWS))
