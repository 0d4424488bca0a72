"""A budget that several processes spend: never more than it is, and no request waits for ever for what is there."""

from __future__ import annotations

import asyncio
import random
from functools import partial

import pytest

from flowllm.calls.budget import BudgetReservation
from flowllm.calls.shared_budget import SharedBudget
from flowllm.core.errors import BudgetExceeded
from flowllm.core.money import Spend
from flowllm.core.portions import Portion, PortionGrant, divide
from flowllm.core.types import Budget, Usage
from tests.support.virtual import LoopClock, run_virtual

BUDGET = Budget(tokens=1000)


def of(tokens: float, usd: float = 0.0) -> BudgetReservation:
    return BudgetReservation(tokens=tokens, usd=usd)


def spent(tokens: int, usd: float = 0.0) -> Spend:
    return Spend.of(Usage(input_tokens=tokens, output_tokens=0), usd, reserved_tokens=0, reserved_usd=0)


async def looks(budget: SharedBudget) -> None:
    """As a run does."""
    while True:
        await asyncio.sleep(1)
        await budget.look()


class Books:
    """What the database has of one run."""

    def __init__(self, budget: Budget = BUDGET) -> None:
        self.budget = budget
        self.held: dict[int, Portion] = {}
        self.ended = Spend()
        self.begun: dict[int, list[BudgetReservation]] = {}
        self.asked = 0

    async def take(self, process: int, held: Portion, want: Portion | None) -> PortionGrant:
        self.asked += 1
        await asyncio.sleep(0.001)
        spend = self.ended
        for one in (one for of in self.begun.values() for one in of):
            spend += Spend(unknown=1, reserved_tokens=one.tokens, reserved_usd=one.usd)
        others = [portion for number, portion in self.held.items() if number != process]
        more = None if want is None else divide(self.budget, spend, held, others, want)
        self.held[process] = held if more is None else held + more
        await asyncio.sleep(0.001)
        return PortionGrant(portion=more, spend=spend, others=any(one != Portion() for one in others))

    def process(self, number: int) -> SharedBudget:
        return SharedBudget(self.budget, partial(self.take, number), LoopClock())

    async def call(self, budget: SharedBudget, number: int, most: int, takes: int) -> None:
        """A request: set aside, on record, answered."""
        reservation = of(most)
        await budget.reserve(reservation, model="m")
        await asyncio.sleep(0.003)
        self.begun.setdefault(number, []).append(reservation)
        await asyncio.sleep(0.5)
        self.begun[number].remove(reservation)
        self.ended += spent(takes)
        budget.reconcile(reservation, spent(takes))


@pytest.mark.parametrize("seed", range(5))
def test_processes_together_never_spend_more_and_hardly_less(seed: int) -> None:
    async def main() -> tuple[Books, int]:
        books, draw, exceeded = Books(), random.Random(seed), 0

        async def process(number: int) -> None:
            nonlocal exceeded
            budget = books.process(number)

            async def worker() -> None:
                while True:
                    await books.call(budget, number, 20, draw.randint(5, 20))

            looking = asyncio.ensure_future(looks(budget))
            outcomes = await asyncio.gather(*(worker() for _ in range(4)), return_exceptions=True)
            looking.cancel()
            await budget.close()
            assert all(isinstance(one, BudgetExceeded) for one in outcomes)
            exceeded += len(outcomes)

        await asyncio.gather(*(process(number) for number in range(1, 4)))
        return books, exceeded

    books, exceeded = run_virtual(main())
    assert exceeded == 12
    assert 1000 - 20 <= books.ended.tokens <= 1000
    assert all(portion == Portion() for portion in books.held.values())


def test_a_large_budget_is_asked_about_seldom() -> None:
    async def main() -> Books:
        books = Books(Budget(tokens=1_000_000))
        budget = books.process(1)
        await asyncio.gather(*(books.call(budget, 1, 100, 50) for _ in range(1000)))
        return books

    assert run_virtual(main()).asked <= 3


def test_what_an_idle_process_holds_comes_to_one_that_needs_it() -> None:
    async def main() -> float:
        books = Books()
        idle, busy = books.process(1), books.process(2)
        await books.call(idle, 1, 100, 100)
        asking = asyncio.ensure_future(books.call(busy, 2, 850, 850))
        for _ in range(3):
            await asyncio.sleep(1)
            await idle.look()
        await asking
        return books.ended.tokens

    assert run_virtual(main()) == 950


def test_two_that_hold_too_little_for_their_requests_do_not_wait_for_each_other() -> None:
    async def main() -> list[object]:
        books = Books(Budget(tokens=100))
        budgets = [books.process(1), books.process(2)]
        for budget in budgets:
            await books.take(budgets.index(budget) + 1, Portion(), Portion(tokens=1))
        for number, budget in enumerate(budgets, 1):
            budget._left = budget._told = books.held[number]
        calls = (books.call(budget, number, 90, 90) for number, budget in enumerate(budgets, 1))
        looking = [asyncio.ensure_future(looks(budget)) for budget in budgets]
        found = await asyncio.gather(*calls, return_exceptions=True)
        for task in looking:
            task.cancel()
        return found

    first, second = sorted(run_virtual(main()), key=lambda one: one is not None)
    assert first is None
    assert isinstance(second, BudgetExceeded)
    assert "90 of 100 tokens are spent" in str(second)


def test_of_both_amounts_the_tighter_holds() -> None:
    budget = Budget(tokens=100, usd=1.0)
    assert divide(budget, Spend(), Portion(), [], Portion(tokens=101, usd=0.1)) is None
    assert divide(budget, Spend(), Portion(), [], Portion(tokens=10, usd=1.1)) is None
    assert divide(budget, Spend(), Portion(), [Portion(usd=0.5)], Portion(tokens=10, usd=0.6)) is None
    assert divide(budget, Spend(), Portion(), [], Portion(tokens=10, usd=0.1)) == Portion(tokens=50, usd=0.5)
    assert divide(Budget(usd=1.0), Spend(), Portion(), [], Portion(tokens=10, usd=0.8)) == Portion(usd=0.8)
