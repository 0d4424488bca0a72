"""A run's budget: checked before each request is sent, and never passed."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest

from flowllm.calls.budget import BudgetReservation, RunBudget
from flowllm.calls.executor import CallExecutor
from flowllm.calls.response_cache import ResponseCache
from flowllm.calls.single_flight import InFlightCalls
from flowllm.calls.validation import Validator
from flowllm.core.cancel import CallStopped, CancelToken
from flowllm.core.errors import AttemptTimedOut, BudgetExceeded, RateLimited, RequestRejected, ServerFailed
from flowllm.core.money import Spend
from flowllm.core.request import Completion, OutputFormat
from flowllm.core.types import Budget, Limits, RetryPolicy, RunStatus, Usage
from flowllm.limits.limiter import Limiter
from flowllm.storage.base import Owner, RunRecord
from tests.support.calls import FakeProvider, caller, make_call
from tests.support.stores import InlineStore
from tests.support.virtual import LoopClock, run_virtual


def _tokens(tokens: float, usd: float | None = 0.0) -> BudgetReservation:
    return BudgetReservation(tokens=tokens, usd=usd)


def _took(tokens: float, usd: float = 0.0) -> Spend:
    return Spend(reserved_tokens=tokens, known_usd=usd)


async def _reserve(budget: RunBudget, *reservations: BudgetReservation) -> None:
    for one in reservations:
        await budget.reserve(one, model="m")


def test_what_fits_to_the_last_token_is_let_through_and_one_more_is_not() -> None:
    async def main() -> None:
        budget = RunBudget(Budget(tokens=100))
        first = _tokens(60)
        await _reserve(budget, first)
        budget.reconcile(first, _took(60, 0))
        await _reserve(budget, second := _tokens(40))
        budget.reconcile(second, _took(40, 0))
        with pytest.raises(BudgetExceeded, match="100 more, of 100 tokens are spent, and it may take 1"):
            await _reserve(budget, _tokens(1))

    run_virtual(main())


def test_what_is_set_aside_at_once_has_a_known_price_under_a_budget_in_dollars() -> None:
    unknown = _tokens(1, None)
    assert (
        RunBudget(Budget(tokens=9)).reserve_at_once(unknown),
        RunBudget(Budget(usd=9.0)).reserve_at_once(unknown),
    ) == (True, False)


def test_dollars_that_add_up_to_the_budget_but_for_rounding_fit() -> None:
    async def main() -> None:
        budget = RunBudget(Budget(usd=0.3))
        for _ in range(3):
            await _reserve(budget, tenth := _tokens(1, 0.1))
            budget.reconcile(tenth, _took(1, 0.1))
        with pytest.raises(BudgetExceeded, match=r"\$0\.30 of \$0\.30 are spent, and it may take \$0\.0001"):
            await _reserve(budget, _tokens(1, 0.0001))

    run_virtual(main())


def test_both_bounds_hold() -> None:
    async def main() -> None:
        budget = Budget(usd=1, tokens=100)
        with pytest.raises(BudgetExceeded):
            await _reserve(RunBudget(budget), _tokens(101, 0.1))
        with pytest.raises(BudgetExceeded):
            await _reserve(RunBudget(budget), _tokens(1, 1.1))
        await _reserve(RunBudget(budget), _tokens(100, 1.0))

    run_virtual(main())


def test_what_was_spent_before_counts() -> None:
    async def main() -> None:
        with pytest.raises(BudgetExceeded, match="70 more, of 100 tokens"):
            await _reserve(RunBudget(Budget(tokens=100), _took(70)), _tokens(31))
        with pytest.raises(BudgetExceeded):
            await _reserve(RunBudget(Budget(usd=5), _took(0, 4.5)), _tokens(1, 0.6))

    run_virtual(main())


@pytest.mark.parametrize(("on_exceed", "status"), [("pause", RunStatus.PAUSED), ("fail", RunStatus.FAILED)])
def test_what_becomes_of_the_run_is_as_written(on_exceed: str, status: RunStatus) -> None:
    async def main() -> BudgetExceeded:
        with pytest.raises(BudgetExceeded) as caught:
            await _reserve(RunBudget(Budget(tokens=1, on_exceed=on_exceed)), _tokens(2))
        return caught.value

    error = run_virtual(main())
    assert error.status is status
    assert "--budget tokens=2" in error.hint


def test_a_price_that_is_not_known_is_refused_by_name_under_a_budget_in_dollars_only() -> None:
    async def main() -> None:
        with pytest.raises(RequestRejected, match="the price of mystery is not known"):
            await RunBudget(Budget(usd=5)).reserve(_tokens(1, None), model="mystery")
        await RunBudget(Budget(tokens=5)).reserve(_tokens(1, None), model="mystery")

    run_virtual(main())


def test_a_reservation_waits_while_a_request_in_flight_may_turn_out_cheaper() -> None:
    async def main() -> None:
        budget = RunBudget(Budget(tokens=100))
        await _reserve(budget, first := _tokens(80))
        waiting = asyncio.create_task(budget.reserve(_tokens(50), model="m"))
        await asyncio.sleep(10)
        assert not waiting.done()
        budget.reconcile(first, _took(50, 0))
        await waiting

    run_virtual(main())


def test_it_is_refused_once_nothing_is_in_flight_that_could_help() -> None:
    async def main() -> None:
        budget = RunBudget(Budget(tokens=100))
        await _reserve(budget, first := _tokens(40), second := _tokens(40))
        waiting = [asyncio.create_task(budget.reserve(_tokens(50), model="m")) for _ in range(5)]
        await asyncio.sleep(1)
        budget.reconcile(first, _took(40, 0))
        await asyncio.sleep(1)
        assert not any(task.done() for task in waiting)
        budget.reconcile(second, _took(40, 0))
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [BudgetExceeded] * 5

    run_virtual(main())


def test_one_that_leaves_while_it_waits_has_set_nothing_aside() -> None:
    async def main() -> None:
        budget = RunBudget(Budget(tokens=100))
        await _reserve(budget, first := _tokens(80))
        waiting = asyncio.create_task(budget.reserve(_tokens(50), model="m"))
        await asyncio.sleep(1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        budget.reconcile(first, _took(0, 0))
        await _reserve(budget, _tokens(100))

    run_virtual(main())


@pytest.mark.parametrize("seed", range(20))
def test_whatever_requests_take_it_is_never_passed_and_nobody_waits_for_ever(seed: int) -> None:
    """Requests take up to what was set aside; the loop raises when everyone waits in vain."""
    draw = random.Random(seed)
    spent, most = [0.0], 1000.0

    async def one(budget: RunBudget) -> bool:
        await asyncio.sleep(draw.random())
        reservation = _tokens(draw.randrange(1, 200))
        try:
            await budget.reserve(reservation, model="m")
        except BudgetExceeded:
            return False
        await asyncio.sleep(draw.random())
        taken = draw.random() * reservation.tokens
        spent[0] += taken
        budget.reconcile(reservation, _took(taken, 0))
        assert spent[0] <= most
        return True

    async def main() -> list[bool]:
        budget = RunBudget(Budget(tokens=int(most)))
        return await asyncio.gather(*(one(budget) for _ in range(100)))

    outcomes = run_virtual(main())
    assert True in outcomes
    assert False in outcomes
    assert spent[0] > most - 200


# on the line


class Bench:
    """The wing of calls with one run in it that has a budget."""

    def __init__(self, budget: Budget, **limits: object) -> None:
        self.budget = RunBudget(budget)
        self.token = CancelToken()
        self.clock = LoopClock()
        self.store = InlineStore()
        self.limiter = Limiter(self.clock)
        self.limits = Limits(**limits)
        line = CallExecutor(self.limiter, self.store, self.clock, draw=lambda: 0.0)
        self.calls = InFlightCalls(ResponseCache(line, self.store, self.clock), self.clock)

    async def ask(self, provider: FakeProvider, node: str = "a", **how: object) -> object:
        if not self.store.runs_on_record:
            owner = Owner(pid=1, host="h", since=0)
            await self.store.create_run(
                RunRecord(run_id="r1", workflow="w", path="", status=RunStatus.RUNNING, started_at=0, owner=owner)
            )
        self.limiter.configure(provider.account, self.limits, holder="r1")
        who = replace(caller(token=self.token, node=node), budget=self.budget)
        how.setdefault("expected", Usage(input_tokens=10, output_tokens=88))  # 100 are set aside
        return await self.calls.answer(make_call(provider, who, **how))

    async def many(self, provider: FakeProvider, count: int) -> list[object]:
        asks = [self.ask(provider, f"n{n}", key=f"{n:064}") for n in range(count)]
        return await asyncio.gather(*asks, return_exceptions=True)


def _answers(count: int, tokens: int = 50) -> list[Completion]:
    usage = Usage(input_tokens=10, output_tokens=tokens - 10)
    return [Completion(text=f"answer {n}", model="m", usage=usage) for n in range(count)]


@pytest.mark.parametrize("concurrent", [1, 10, 100])
def test_requests_are_sent_while_what_they_may_take_fits(concurrent: int) -> None:
    """Of 1,000 tokens, each sets 100 aside and takes 50: nineteen fit, for the last needs 100 to be left."""

    async def main() -> None:
        bench, provider = Bench(Budget(tokens=1000), max_concurrent=concurrent), FakeProvider(*_answers(40))
        outcomes = await bench.many(provider, 40)
        refused = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert {type(error) for error in refused} == {BudgetExceeded}
        assert len(provider.sent) == 19
        assert len(refused) == 21
        assert provider.peak == min(concurrent, 10)
        assert (await bench.store.spend("r1")).tokens == 950

    run_virtual(main())


@pytest.mark.parametrize("concurrent", [1, 10])
def test_a_run_that_stops_while_requests_wait_for_its_budget_gives_all_slots_back(concurrent: int) -> None:
    async def main() -> None:
        bench = Bench(Budget(tokens=150), max_concurrent=concurrent)
        provider = FakeProvider(*_answers(1), latency=10.0)
        asking = asyncio.create_task(bench.many(provider, 12))
        await asyncio.sleep(1)
        bench.token.stop()
        outcomes = await asking
        assert [type(one) for one in outcomes[1:]] == [CallStopped] * 11
        assert len(provider.sent) == 1
        assert len(await bench.store.attempts("r1")) == 1
        gauge = bench.limiter.gauges()[provider.account]
        assert (gauge.in_flight, gauge.waiting) == (0, 0)

    run_virtual(main())


def test_an_attempt_of_which_nobody_knows_takes_all_that_was_set_aside() -> None:
    async def main() -> None:
        bench = Bench(Budget(tokens=199))
        provider = FakeProvider(AttemptTimedOut("late"), *_answers(1))
        with pytest.raises(BudgetExceeded, match="0, and up to 100 more, of 199 tokens"):
            await bench.ask(provider)
        assert (await bench.store.spend("r1")).tokens == 100

    run_virtual(main())


@pytest.mark.parametrize("error", [RateLimited("429"), ServerFailed("500")])
def test_an_attempt_that_brought_nothing_takes_nothing(error: Exception) -> None:
    async def main() -> None:
        bench = Bench(Budget(tokens=100))
        answer = await bench.ask(FakeProvider(error, error, *_answers(1)), retry=RetryPolicy(max_attempts=3))
        assert answer.attempts == 3

    run_virtual(main())


def test_what_was_added_to_ask_again_is_set_aside_too() -> None:
    async def main() -> None:
        bench = Bench(Budget(tokens=10_000))
        wordy = Completion(text="no JSON " * 300, model="m", usage=Usage(input_tokens=10, output_tokens=80))
        good = Completion(text="{}", model="m", usage=Usage(input_tokens=10, output_tokens=2))
        await bench.ask(FakeProvider(wordy, good), validator=Validator(OutputFormat()))
        first, second = (attempt.reserved_tokens for attempt in await bench.store.attempts("r1"))
        assert first == 100
        assert second > 100 + len(wordy.text) / 3

    run_virtual(main())


class Dated(FakeProvider):
    """Prices are known of the model that is asked, and its answers name a dated version."""

    def cost(self, model: str, usage: Usage, *, tier: str = "") -> float | None:
        return (usage.input_tokens + usage.output_tokens) / 1000 if model == "m" else None


def test_an_answer_by_a_dated_version_costs_what_the_asked_model_does() -> None:
    async def main() -> None:
        bench = Bench(Budget(usd=0.5), max_concurrent=1)
        provider = Dated(*(replace(answer, model="m-2026-01-01") for answer in _answers(40)))
        outcomes = await bench.many(provider, 40)
        assert len(provider.sent) == 9
        assert outcomes[0].cost_usd == pytest.approx(0.05)
        assert outcomes[0].model == "m-2026-01-01"

    run_virtual(main())


def test_a_fifth_more_than_the_prompts_estimate_is_set_aside_in_dollars_too() -> None:
    async def main() -> None:
        bench = Bench(Budget(usd=1))
        await bench.ask(Dated(*_answers(1)))
        (attempt,) = await bench.store.attempts("r1")
        assert (attempt.reserved_tokens, attempt.reserved_usd) == (100, pytest.approx(0.1))

    run_virtual(main())


def test_an_answer_that_was_there_costs_nothing() -> None:
    async def main() -> None:
        bench = Bench(Budget(tokens=100))
        provider = FakeProvider(*_answers(1))
        await bench.ask(provider)
        answer = await bench.ask(provider, "b")
        assert answer.cached
        joined = await asyncio.gather(bench.ask(provider, "c"), bench.ask(provider, "d"))
        assert [one.cached for one in joined] == [True, True]
        assert len(provider.sent) == 1

    run_virtual(main())


def test_who_waits_for_a_budget_holds_no_slot_of_others() -> None:
    async def main() -> list[str]:
        clock, store, provider = LoopClock(), InlineStore(), FakeProvider(latency=10.0)
        for run in ("r1", "r2"):
            await store.create_run(
                RunRecord(
                    run_id=run,
                    workflow="w",
                    path="",
                    status=RunStatus.RUNNING,
                    started_at=0,
                    owner=Owner(pid=1, host="h", since=0),
                )
            )
        limiter = Limiter(clock)
        limiter.configure(provider.account, Limits(max_concurrent=2), holder="r")
        line = CallExecutor(limiter, store, clock, draw=lambda: 0.0)
        calls = InFlightCalls(ResponseCache(line, store, clock), clock)
        budget, done = RunBudget(Budget(tokens=50)), []

        async def ask(name: str, run: str, budget: RunBudget | None) -> None:
            who = replace(caller(run=run, node=name), budget=budget)
            expected = Usage(input_tokens=10, output_tokens=20)
            await calls.answer(make_call(provider, who, key=name, expected=expected, join=False))
            done.append(name)

        first = [asyncio.create_task(ask(name, "r1", budget)) for name in ("a", "b", "c")]
        await asyncio.sleep(1)
        await asyncio.gather(*(ask(name, "r2", None) for name in ("x", "y")))
        await asyncio.gather(*first)
        return done

    assert run_virtual(main()) == ["a", "x", "y", "b", "c"]
