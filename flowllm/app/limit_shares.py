"""Balances this process' shares of limits with those of the other processes at its database, once a second while it has runs."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping
from typing import TypeAlias

from flowllm.core.clock import Clock
from flowllm.core.errors import StoreError
from flowllm.core.shares import Decide, Grant
from flowllm.core.tasks import start_task
from flowllm.limits.limiter import Limiter
from flowllm.limits.sharing import SharedLimits
from flowllm.providers.base import Account

Balancing: TypeAlias = Callable[[Mapping[str, Decide]], Awaitable[Mapping[str, Grant]]]


class LimitShares:
    """Of one FlowLLM."""

    def __init__(self, limiter: Limiter, balance: Balancing, clock: Clock) -> None:
        """`balance`: see `Store.balance`."""
        self._limits: SharedLimits[Account] = SharedLimits(limiter, clock, hurry=self._hurry)
        self._store_balance = balance
        self._clock = clock
        self._holders: dict[Account, set[Hashable]] = {}
        """Who uses each account: runs."""
        self._one = asyncio.Lock()
        self._hurries = asyncio.Event()
        """There may be less time until the next balance."""
        self._last = -math.inf
        """When shares were balanced last."""
        self._going: asyncio.Task[None] | None = None

    @property
    def processes(self) -> int:
        """How many use the same accounts, this one included."""
        return self._limits.processes

    async def join(self, accounts: Mapping[Account, Iterable[str]], *, holder: Hashable) -> None:
        """Share these accounts, and wait until it is known what this process may use of them, and of these models; a model
        that is asked later begins with nothing. Raises StoreError."""
        if self._join(accounts, holder):
            async with self._one:
                await self._balance()

    def add(self, accounts: Mapping[Account, Iterable[str]], *, holder: Hashable) -> None:
        """As `join`, for what is found while a run goes on: it begins with nothing."""
        if self._join(accounts, holder):
            self._hurries.set()

    def _join(self, accounts: Mapping[Account, Iterable[str]], holder: Hashable) -> bool:
        for account in accounts:
            self._holders.setdefault(account, set()).add(holder)
        new = [self._limits.join(account, models) for account, models in accounts.items()]
        if self._going is None and accounts:
            self._going = start_task(self._go())
        return any(new)

    def leave(self, holder: Hashable) -> None:
        """That one needs them no more: what nobody here needs is given back soon."""
        for holders in self._holders.values():
            holders.discard(holder)

    async def close(self) -> None:
        """Give everything back."""
        if self._going is not None:
            self._going.cancel()
            self._going = None
        self._holders.clear()
        with contextlib.suppress(StoreError):  # it is free in a few seconds
            async with self._one:
                await self._balance()

    async def _go(self) -> None:
        while self._limits.accounts:
            await self._pause()
            with contextlib.suppress(StoreError):  # whoever writes next hears of it; the shares are over soon
                async with self._one:
                    await self._balance()
        self._going = None

    async def _pause(self) -> None:
        """Until shares are to be balanced again."""
        while (rest := self._last + self._limits.soon - self._clock.monotonic()) > 0:
            sleeping, hurrying = start_task(self._clock.sleep(rest)), start_task(self._hurries.wait())
            try:
                await asyncio.wait({sleeping, hurrying}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                sleeping.cancel()
                hurrying.cancel()
            self._hurries.clear()

    def _hurry(self) -> None:
        self._hurries.set()

    async def _balance(self) -> None:
        """One at a time."""
        self._last = self._clock.monotonic()
        leaving = [account for account in self._limits.accounts if not self._holders.get(account)]
        decisions = self._limits.decisions(leaving)
        if decisions:
            self._limits.take(await self._store_balance(decisions), leaving)
            for account in leaving:
                if self._holders.get(account):  # meanwhile
                    self._limits.join(account, ())
                    self._hurries.set()
                else:
                    self._holders.pop(account, None)
