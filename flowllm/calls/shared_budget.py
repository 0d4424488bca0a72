"""The budget of a run that several processes carry out: this one spends out of portions (`core/portions.py`)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from flowllm.calls.budget import BudgetReservation, RunBudget
from flowllm.core.clock import Clock
from flowllm.core.errors import StoreError
from flowllm.core.money import Spend
from flowllm.core.portions import Portion, PortionGrant
from flowllm.core.tasks import start_task
from flowllm.core.types import Budget

LOOK_AGAIN = 0.1
"""Seconds after which who waits for what others hold asks again."""
Take: TypeAlias = Callable[[Portion, Portion | None], Awaitable[PortionGrant]]
"""Of what this process holds, and of what it wants besides: see `Store.take_portion`."""


class SharedBudget(RunBudget):
    """Keeps the books of one process."""

    def __init__(self, budget: Budget, take: Take, clock: Clock) -> None:
        super().__init__(budget)
        self._take = take
        self._clock = clock
        self._left = Portion()
        """Of its portion."""
        self._one = asyncio.Lock()
        self._used = False
        """Since it was looked at last."""
        self._last: Spend | None = None
        """What was spent when there was nothing left to wait for."""
        self._told = Portion()
        """What others know that it holds."""

    async def _make_room(self, more: BudgetReservation, waiting: Callable[[], None]) -> None:
        """Take a portion, or wait until one may be there."""
        async with self._one:
            if self._fits(more):
                return
            missing = (_portion(more) + _negative(self._left)).of(self._budget)
            grant = await self._ask(Portion(tokens=max(0.0, missing.tokens), usd=max(0.0, missing.usd)))
            self._spend = grant.spend
            if grant.portion is not None:
                self._left += grant.portion
                return
            if not grant.others and not self._set_aside:
                if self._last == grant.spend:  # else what has just ended is about to be on record
                    raise self._exceeded(more)
                self._last = grant.spend
            if self._left != Portion() and not self._set_aside:
                self._left = (
                    Portion()
                )  # too little for this one: others may need it, or it comes back with what they have
                await self._ask(None)
        waiting()
        self._changed.clear()
        looking, changing = start_task(self._clock.sleep(LOOK_AGAIN)), start_task(self._changed.wait())
        try:
            await asyncio.wait({looking, changing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            looking.cancel()
            changing.cancel()

    async def _ask(self, want: Portion | None) -> PortionGrant:
        set_aside = (_portion(one) for one in self._set_aside)
        held = sum(set_aside, start=self._left).of(self._budget)
        grant = await self._take(held, want)
        self._told = held if grant.portion is None else held + grant.portion
        return grant

    async def look(self) -> None:
        """A second has passed: what was not used is given back, and others hear of what is over."""
        used, self._used = self._used, False
        if used or self._set_aside or self._one.locked() or self._told == Portion():
            return
        await self.close()

    async def close(self) -> None:
        """Give back what is left."""
        async with self._one:
            self._left = Portion()
            if self._told != Portion():
                with contextlib.suppress(StoreError):
                    await self._ask(None)

    def _fits(self, more: BudgetReservation) -> bool:
        return self._left.covers(_portion(more).of(self._budget))

    def _set(self, reservation: BudgetReservation) -> None:
        self._used = True
        super()._set(reservation)
        self._left += _negative(_portion(reservation))

    def reconcile(self, reservation: BudgetReservation, spend: Spend) -> None:
        """The request is over and took that much."""
        super().reconcile(reservation, spend)
        self._used = True
        self._left += _portion(reservation) + _negative(Portion(tokens=spend.tokens, usd=spend.usd))


def _portion(reservation: BudgetReservation) -> Portion:
    return Portion(tokens=reservation.tokens, usd=reservation.usd or 0.0)


def _negative(portion: Portion) -> Portion:
    return Portion(tokens=-portion.tokens, usd=-portion.usd)
