"""What runs learn of accounts' models, handed from the limiter to the store and back to later runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from flowllm.app.wiring import Providers
from flowllm.core.clock import Clock
from flowllm.core.types import Trait
from flowllm.limits.limiter import Limiter
from flowllm.providers.base import Account
from flowllm.runtime.options import MaxConcurrent
from flowllm.storage.base import Store
from flowllm.storage.monitoring import Learned

BELIEVED = 7 * 86_400.0
"""Seconds for which later runs begin with it."""


async def remember(limiter: Limiter, accounts: Iterable[Account], store: Store, clock: Clock) -> None:
    """Begin with what earlier runs learned. Raises StoreError."""
    found = await store.learned(since=clock.now() - BELIEVED)
    for account in accounts:
        prefix = f"{account} model="
        models: dict[str, dict[str, float]] = {}
        for one in found:
            if one.account.startswith(prefix):
                models.setdefault(one.account.removeprefix(prefix), {})[one.name] = one.value
        for model, traits in models.items():
            limiter.remember(account, model, traits)


async def learn(limiter: Limiter, accounts: Iterable[Account], store: Store, clock: Clock) -> None:
    """Keep what the limiter knows by now. Raises StoreError."""
    now = clock.now()
    await store.learn(
        [
            Learned(account=f"{account} model={model}", name=trait, value=value, at=now)
            for account in accounts
            for model, traits in limiter.learned(account).items()
            for trait, value in traits.items()
        ]
    )


async def found_concurrent(
    providers: Providers, store: Store, clock: Clock, cap: MaxConcurrent | None
) -> dict[str, int]:
    """How many requests to the default provider would be in flight at first, by model, where it is needed, earlier runs
    found that and no number is written or given (`cap`). Raises StoreError."""
    account = providers.named_accounts().get(providers.default)
    if account is None or providers.limits(providers.default, cap).max_concurrent is not None:
        return {}
    prefix = f"{account} model="
    return {
        one.account.removeprefix(prefix): round(one.value)
        for one in await store.learned(since=clock.now() - BELIEVED)
        if one.name == Trait.MAX_CONCURRENT and one.account.startswith(prefix)
    }


async def keeps_prefixes(providers: Providers, store: Store, clock: Clock) -> Callable[[str, str], bool]:
    """Whether requests would wait for those whose prompts begin the same, by provider and model. Raises StoreError."""
    found = await store.learned(since=clock.now() - BELIEVED)
    shown = {one.account for one in found if one.name == Trait.CACHES_PREFIXES and one.value > 0}

    def keeps(provider: str, model: str) -> bool:
        mode = providers.limits(provider).prefix_cache
        return mode == "on" or (mode != "off" and f"{providers.get(provider).account} model={model}" in shown)

    return keeps
