"""Several processes at one database, under a virtual clock: their shares of limits, and loads that use them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial

from flowllm.app.limit_shares import LimitShares
from flowllm.core.errors import StorageFailed
from flowllm.core.shares import Decide, Grant, Ledger, Pool, Share
from flowllm.core.types import Limits
from tests.support.rates import ACCOUNT, Load, Server


class Ledgers:
    """What the database has of shares; each transaction takes a moment, and is done whole."""

    def __init__(self, *, takes: float = 0.005, ahead: float = 1e6) -> None:
        self.takes = takes
        self.ahead = ahead
        """Seconds by which its clock is ahead."""
        self.away = False
        self.pools: dict[str, Pool] = {}
        self.shares: dict[str, dict[int, Share]] = {}
        self.gone: set[int] = set()
        self.count = 0

    async def balance(self, process: int, decisions: Mapping[str, Decide]) -> dict[str, Grant]:
        await asyncio.sleep(self.takes)
        if self.away:
            raise StorageFailed("the database is away")
        now = asyncio.get_running_loop().time() + self.ahead
        found = {name: self.decide(process, name, decide, now) for name, decide in sorted(decisions.items())}
        self.count += 1
        await asyncio.sleep(self.takes)
        return found

    def decide(self, process: int, name: str, decide: Decide, now: float) -> Grant:
        shares = self.shares.setdefault(name, {})
        ledger = Ledger(
            process=process, pool=self.pools.get(name), shares=list(shares.values()), gone=self.gone, now=now
        )
        made = decide(ledger)
        self.pools[name] = made.pool
        for gone in made.remove:
            del shares[gone]
        for share in made.write:
            shares[share.process] = share
        return made.grant


class Process:
    """One process with a load."""

    def __init__(self, ledgers: Ledgers, number: int, server: Server, limits: Limits) -> None:
        self.server = server
        self.limits = limits
        self.ledgers = ledgers
        self.number = number
        self.load = Load(server, limits, seed=number)
        self.shares = LimitShares(self.load.limiter, partial(ledgers.balance, number), self.load.clock)
        self.offset = number * 1_000_000
        self.workers: list[asyncio.Task[None]] = []

    async def begin(self) -> None:
        await self.shares.join({ACCOUNT: ["m"]}, holder="run")

    async def steady(self, begin: float, end: float, *, backlog: int = 30) -> None:
        """Always a backlog, in that time; it leaves properly then."""
        await asyncio.sleep(begin)
        await self.begin()
        numbers = iter(range(self.offset, self.offset + 10**6))

        async def worker() -> None:
            while asyncio.get_running_loop().time() < end:
                await self.load.call(next(numbers))

        self.workers = [asyncio.ensure_future(worker()) for _ in range(backlog)]
        await asyncio.sleep(max(0.0, end - begin))
        await self.stop()
        await self.shares.close()

    async def stop(self) -> None:
        for task in self.workers:
            task.cancel()
        await asyncio.gather(*self.workers, return_exceptions=True)

    async def kill(self) -> None:
        """It does nothing any more, and tells nobody."""
        if self.shares._going is not None:
            self.shares._going.cancel()
            self.shares._going = None
        await self.stop()
        self.load.limiter.close()
