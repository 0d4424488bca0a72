"""What runs learn of accounts' models, handed from the limiter to the store and back to later runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeAlias

from flowllm.core.clock import Clock
from flowllm.limits.limiter import Limiter
from flowllm.providers.base import Account
from flowllm.storage.base import Store
from flowllm.storage.monitoring import Learned

Traits: TypeAlias = dict[str, float]
"""By the names of `Trait`."""
_MODEL: Final = " model="
BELIEVED = 7 * 86_400.0
"""Seconds for which later runs begin with it."""


async def learned_traits(store: Store, clock: Clock) -> dict[str, dict[str, Traits]]:
    """What earlier runs learned, by account (as text) and model. Raises StoreError."""
    found: dict[str, dict[str, Traits]] = {}
    for one in await store.learned(since=clock.now() - BELIEVED):
        account, _, model = one.account.partition(_MODEL)
        found.setdefault(account, {}).setdefault(model, {})[one.name] = one.value
    return found


async def remember(limiter: Limiter, accounts: Iterable[Account], store: Store, clock: Clock) -> None:
    """Begin with what earlier runs learned. Raises StoreError."""
    learned = await learned_traits(store, clock)
    for account in accounts:
        for model, traits in learned.get(str(account), {}).items():
            limiter.remember(account, model, traits)


async def learn(limiter: Limiter, accounts: Iterable[Account], store: Store, clock: Clock) -> None:
    """Keep what the limiter knows by now. Raises StoreError."""
    now = clock.now()
    await store.learn(
        [
            Learned(account=f"{account}{_MODEL}{model}", name=trait, value=value, at=now)
            for account in accounts
            for model, traits in limiter.learned(account).items()
            for trait, value in traits.items()
        ]
    )
