"""The budget of a run: what is spent and what requests in flight have set aside never passes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from flowllm.core.errors import BudgetExceeded, RequestRejected
from flowllm.core.money import Spend, dollars, price
from flowllm.core.records import dataclass
from flowllm.core.types import Budget, RunStatus

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetReservation:
    """What is set aside for one request, at most."""

    tokens: float
    usd: float | None
    """None: the price is unknown."""


class RunBudget:
    """Keeps the books of one run. What was spent before this run attempt counts too."""

    def __init__(self, budget: Budget, spend: Spend | None = None) -> None:
        """`spend` is what was spent before."""
        self._budget = budget
        self._spend = spend or Spend()
        self._set_aside: list[BudgetReservation] = []
        self._changed = asyncio.Event()

    async def reserve(
        self, reservation: BudgetReservation, *, model: str, waiting: Callable[[], None] | None = None
    ) -> bool:
        """Set that much aside before a request to that model is sent. Whether that had to wait.

        Waits while requests in flight may turn out cheaper than what is set aside for them, and calls `waiting` then. Raises
        BudgetExceeded if there is nothing left to wait for, RequestRejected for a request of unknown price under
        a budget in dollars.
        """
        if self._budget.usd is not None and reservation.usd is None:
            raise RequestRejected(
                f"the run has a budget in dollars, and the price of {model} is not known",
                hint="put its price under `prices` in flowllm.yaml",
            )
        waited = False

        def waits() -> None:
            nonlocal waited
            if waiting is not None and not waited:
                waiting()
            waited = True

        while not self._fits(reservation):
            await self._make_room(reservation, waits)
        self._set(reservation)
        return waited

    async def _make_room(self, more: BudgetReservation, waiting: Callable[[], None]) -> None:
        """Wait until there may be enough. Raises BudgetExceeded."""
        if not self._set_aside:
            raise self._exceeded(more)
        waiting()
        self._changed.clear()
        await self._changed.wait()

    async def look(self) -> None:
        """A second has passed."""

    async def close(self) -> None:
        """Nothing more is spent."""

    def _set(self, reservation: BudgetReservation) -> None:
        self._set_aside.append(reservation)

    def reserve_at_once(self, reservation: BudgetReservation) -> bool:
        """Set that much aside if it is there now; whether it was. It never is for a price that is unknown under a budget in
        dollars."""
        fits = self._fits(reservation) and (self._budget.usd is None or reservation.usd is not None)
        if fits:
            self._set(reservation)
        return fits

    def reconcile(self, reservation: BudgetReservation, spend: Spend) -> None:
        """The request is over and took that much; of an unknown outcome all that was set aside stays so."""
        self._set_aside.remove(reservation)
        self._spend += spend
        self._changed.set()

    def _fits(self, more: BudgetReservation) -> bool:
        tokens = self._spend.tokens + sum(one.tokens for one in self._set_aside) + more.tokens
        usd = self._spend.usd + sum(one.usd or 0.0 for one in self._set_aside) + (more.usd or 0.0)
        over_tokens = self._budget.tokens is not None and tokens > self._budget.tokens
        return not over_tokens and not (self._budget.usd is not None and usd > self._budget.usd + _ROUNDING)

    def _exceeded(self, more: BudgetReservation) -> BudgetExceeded:
        budget, spent, told = self._budget, self._spend, []
        if budget.tokens is not None:
            known = spent.known_input + spent.known_output
            doubt = f", and up to {spent.reserved_tokens:,.0f} more," if spent.reserved_tokens else ""
            told.append(f"{known:,}{doubt} of {budget.tokens:,} tokens are spent, and it may take {more.tokens:,.0f}")
        if budget.usd is not None:
            doubt = "," if spent.reserved_usd else ""
            told.append(
                f"{price(spent.as_dict())}{doubt} of {dollars(budget.usd)} are spent, and it may take {dollars(more.usd or 0.0)}"
            )
        pauses = budget.on_exceed == "pause"
        more_of = f"usd={_twice(budget.usd or 0.0)}" if self._is_dollars(more) else f"tokens={2 * (budget.tokens or 0)}"
        return BudgetExceeded(
            f"the next request could pass the budget: {'; '.join(told)}",
            hint=f"allow more and go on, such as with --budget {more_of}",
            status=RunStatus.PAUSED if pauses else RunStatus.FAILED,
        )

    def _is_dollars(self, more: BudgetReservation) -> bool:
        """Whether dollars are what is too little."""
        budget = self._budget
        return budget.usd is not None and self._spend.usd + (more.usd or 0.0) > budget.usd + _ROUNDING


def _twice(usd: float) -> str:
    return f"{2 * usd:.12f}".rstrip("0").rstrip(".")
