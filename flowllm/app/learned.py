"""What runs learn of accounts' models, handed from the limiter to the store and back to later runs."""

from __future__ import annotations

from collections.abc import Iterable

from flowllm.core.clock import Clock
from flowllm.limits.limiter import Limiter
from flowllm.providers.base import Account
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
