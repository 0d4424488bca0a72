"""What must hold of the limiter whatever happens: played at random under a virtual clock, and against a server."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowllm.core.errors import AttemptTimedOut, ConnectionFailed, RateLimited, RequestRejected, ServerFailed
from flowllm.core.retry_after import LONGEST_PAUSE
from flowllm.core.types import Limits, Priority, Trait, WindowLimit
from flowllm.limits.limiter import Limiter, Permit
from tests.support.virtual import LoopClock, run_virtual

ERRORS = (RateLimited("429"), ServerFailed("500", status=500), ConnectionFailed("reset", reason="reset"))
SPAN, MOST = 5.0, 4


@dataclass
class Log:
    """When requests went out, and how many were under way."""

    departed: list[float] = field(default_factory=list)
    tokens: list[tuple[float, float]] = field(default_factory=list)
    in_flight: int = 0
    peak: int = 0
    done: int = 0


def now() -> float:
    return asyncio.get_running_loop().time()


async def one(limiter: Limiter, log: Log, draw: random.Random, tokens: float, *, fails: float) -> None:
    permit = await limiter.acquire(
        "a", priority=draw.choice(list(Priority)), tokens=tokens, tenant=draw.choice("xyz"), model="m"
    )
    log.tokens.append((now(), tokens))
    log.in_flight += 1
    log.peak = max(log.peak, log.in_flight)
    try:
        await asyncio.sleep(draw.choice([0, 0, 0.3]))  # the attempt is put on record
        await permit.depart()
        log.departed.append(now())
        await asyncio.sleep(draw.random() * 2)
        if draw.random() < fails:
            permit.failed(draw.choice(ERRORS))
        else:
            permit.answered({}, used=tokens * draw.random())
        log.done += 1
    finally:
        log.in_flight -= 1
        permit.release()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_no_limit_is_ever_passed_everyone_goes_and_all_is_given_back(seed: int) -> None:
    draw = random.Random(seed)

    async def main() -> tuple[Log, Limiter, int]:
        log, limiter = Log(), Limiter(LoopClock())
        limits = Limits(
            max_concurrent=5,
            requests_per_minute=120,
            burst=4,
            tokens_per_minute=3000,
            windows=(WindowLimit(requests=MOST, per=SPAN),),
            tokens_charged=draw.choice(["usage", "request", None]),
            models={"m": Limits(max_concurrent=4)},
            give_up_after=1e9,
        )
        limiter.configure("a", limits, holder=1)
        tasks = [asyncio.ensure_future(one(limiter, log, draw, draw.randint(1, 400), fails=0.1)) for _ in range(40)]
        cancelled = 0
        for _ in range(15):
            await asyncio.sleep(draw.random() * 3)
            cancelled += draw.choice(tasks).cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        limiter.close()
        return log, limiter, cancelled

    log, limiter, cancelled = run_virtual(main())
    assert log.peak <= 4
    for begin in log.departed:
        assert sum(begin <= at < begin + SPAN for at in log.departed) <= MOST
        assert sum(begin <= at < begin + 2 for at in log.departed) <= 4 + 2 * 2
    assert log.done >= 40 - cancelled
    account = limiter.account("a")
    for scope in (account.scope, account.models["m"].scope):
        assert scope.in_flight == 0
        assert scope.reserved == pytest.approx(0, abs=1e-6)
    assert account.waiting == 0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_tokens_reserved_in_any_minute_are_never_more_than_a_burst_and_a_minutes_worth(seed: int) -> None:
    draw = random.Random(seed)

    async def main() -> Log:
        log, limiter = Log(), Limiter(LoopClock())
        limiter.configure("a", Limits(max_concurrent=50, tokens_per_minute=1000), holder=1)
        await asyncio.gather(*(one(limiter, log, draw, draw.randint(1, 1000), fails=0.0) for _ in range(30)))
        limiter.close()
        return log

    tokens = run_virtual(main()).tokens
    for begin, _ in tokens:
        assert sum(size for at, size in tokens if begin <= at < begin + 60) <= 2000 + 1e-6


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32))
def test_a_large_request_is_not_starved_by_small_ones_that_keep_coming(seed: int) -> None:
    draw = random.Random(seed)

    async def main() -> float:
        limiter = Limiter(LoopClock())
        limiter.configure("a", Limits(max_concurrent=50, tokens_per_minute=600), holder=1)

        async def small() -> None:
            while True:
                permit = await limiter.acquire("a", tokens=draw.randint(1, 20))
                await permit.depart()
                await asyncio.sleep(draw.random() / 10)
                permit.answered({}, used=1)
                permit.release()

        crowd = [asyncio.ensure_future(small()) for _ in range(20)]
        await asyncio.sleep(100)
        permit = await limiter.acquire("a", tokens=600)
        permit.release()
        for task in crowd:
            task.cancel()
        await asyncio.gather(*crowd, return_exceptions=True)
        limiter.close()
        return permit.queue_s

    assert run_virtual(main()) <= 61 + 20 * 20 / 10


def with_limits(**limits: object) -> Limiter:
    limiter = Limiter(LoopClock())
    limiter.configure("a", Limits(**limits), holder=1)
    return limiter


async def sent(limiter: Limiter, **how: object) -> Permit:
    permit = await limiter.acquire("a", **how)
    await permit.depart()
    return permit


@pytest.mark.parametrize("error", ERRORS)
def test_a_call_that_was_rejected_or_failed_gives_its_tokens_back(error: Exception) -> None:
    async def main() -> float:
        limiter = with_limits(tokens_per_minute=600, adaptive=False)
        permit = await sent(limiter, tokens=600)
        permit.failed(error)
        permit.release()
        await limiter.acquire("a", tokens=600)
        return now()

    assert run_virtual(main()) == 0


def test_a_call_that_timed_out_may_still_be_charged_and_keeps_its_tokens() -> None:
    async def main() -> float:
        limiter = with_limits(tokens_per_minute=600)
        permit = await sent(limiter, tokens=600)
        permit.failed(AttemptTimedOut("slow"))
        permit.release()
        await limiter.acquire("a", tokens=600)
        return now()

    assert run_virtual(main()) == pytest.approx(60, rel=0.02)


def test_a_permit_that_is_released_twice_returns_one_slot() -> None:
    async def main() -> int:
        limiter = with_limits(max_concurrent=2)
        first = await limiter.acquire("a")
        await limiter.acquire("a")
        first.release()
        first.release()
        return limiter.gauges()["a"].in_flight

    assert run_virtual(main()) == 1


def test_a_cancel_in_the_instant_of_admission_loses_no_slot() -> None:
    async def main() -> float:
        limiter = with_limits(max_concurrent=1, tokens_per_minute=100)
        first = await sent(limiter, tokens=50)
        waiting = asyncio.ensure_future(limiter.acquire("a", tokens=50))
        behind = asyncio.ensure_future(limiter.acquire("a", tokens=50))
        await asyncio.sleep(1)
        first.release()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await asyncio.wait_for(behind, 1)
        return now()

    assert run_virtual(main()) == pytest.approx(1)


def test_a_limit_that_was_lowered_refuses_who_waits_for_more_than_it_allows() -> None:
    async def main() -> None:
        limiter = with_limits(tokens_per_minute=600)
        await limiter.acquire("a", tokens=600)
        waiting = asyncio.ensure_future(limiter.acquire("a", tokens=500))
        await asyncio.sleep(1)
        limiter.configure("a", Limits(tokens_per_minute=100), holder=2)
        await asyncio.wait_for(waiting, 10)

    with pytest.raises(RequestRejected):
        run_virtual(main())


def test_only_a_model_whose_own_limit_is_used_up_is_passed_over() -> None:
    async def main() -> list[str]:
        limiter, order = with_limits(max_concurrent=2, models={"big": Limits(max_concurrent=1)}), []

        async def ask(name: str, model: str) -> None:
            permit = await sent(limiter, model=model)
            order.append(name)
            await asyncio.sleep(1)
            permit.release()

        await asyncio.gather(ask("b1", "big"), ask("b2", "big"), ask("s1", "small"), ask("s2", "small"))
        return order

    assert run_virtual(main()) == ["b1", "s1", "b2", "s2"]


def test_requests_of_a_model_with_limits_do_not_overtake_those_that_came_before() -> None:
    async def main() -> list[str]:
        limiter, order = with_limits(max_concurrent=1, models={"big": Limits(max_concurrent=5)}), []

        async def ask(name: str, model: str) -> None:
            permit = await sent(limiter, model=model)
            order.append(name)
            await asyncio.sleep(1)
            permit.release()

        others = [asyncio.ensure_future(ask(f"s{n}", "small")) for n in range(5)]
        await asyncio.sleep(2.5)
        await asyncio.gather(ask("big", "big"), *others)
        return order

    assert run_virtual(main()) == ["s0", "s1", "s2", "s3", "s4", "big"]


def test_a_pause_stops_also_those_that_were_admitted_and_are_not_out_yet() -> None:
    async def main() -> float:
        limiter = with_limits()
        first, second = await sent(limiter), await limiter.acquire("a")
        first.failed(RateLimited("429", retry_after=20))
        await second.depart()
        return now()

    assert run_virtual(main()) == pytest.approx(20, abs=1)


def test_no_server_can_make_an_account_wait_for_ever() -> None:
    async def main() -> float:
        limiter = with_limits()
        (await sent(limiter)).failed(RateLimited("429", retry_after=1e9))
        await sent(limiter)
        return now()

    assert run_virtual(main()) <= LONGEST_PAUSE + 2


def test_a_rate_that_grows_is_used_while_one_waits_for_it() -> None:
    """A timer set at a rate of one a minute must not sleep through the doublings."""

    async def main() -> float:
        limiter = with_limits(max_concurrent=100)
        permits = [await sent(limiter) for _ in range(100)]
        for permit in permits:
            permit.failed(RateLimited("429"))
            permit.release()
        for _ in range(100):
            (await sent(limiter)).release()
        return now()

    assert run_virtual(main()) <= 15


def test_a_429_that_says_nothing_slows_down_and_does_not_stop() -> None:
    async def main() -> float:
        limiter = with_limits(requests_per_minute=600)
        permit = await sent(limiter)
        permit.failed(RateLimited("429"))
        permit.release()
        for _ in range(30):
            (await sent(limiter)).release()
        return now()

    assert run_virtual(main()) <= 6


def test_without_adaptive_a_429_changes_no_rate_but_its_pause_holds() -> None:
    async def main() -> tuple[float, dict]:
        limiter = with_limits(requests_per_minute=600, adaptive=False)
        permit = await sent(limiter)
        permit.failed(RateLimited("429", retry_after=3))
        permit.release()
        await sent(limiter)
        return now(), limiter.learned("a")

    at, learned = run_virtual(main())
    assert at == pytest.approx(3)
    assert not any(learned.values())


def test_the_timer_of_a_slow_rate_does_not_sleep_while_the_rate_grows() -> None:
    async def main() -> float:
        limiter = with_limits()
        limiter.remember("a", "", {Trait.REQUESTS_PER_SECOND: 1.0})
        for _ in range(20):
            (await sent(limiter)).release()
        return now()

    assert run_virtual(main()) < 19


def test_a_very_low_rate_of_an_earlier_run_holds_nothing_back_for_long() -> None:
    async def main() -> float:
        limiter = with_limits()
        limiter.remember("a", "m", {Trait.REQUESTS_PER_SECOND: 1 / 60, "of a later version": 1.0})
        for _ in range(5):
            (await sent(limiter, model="m")).release()
            (await sent(limiter, model="other")).release()
        return now()

    assert run_virtual(main()) <= 5


def test_one_that_leaves_the_head_of_the_queue_makes_way_for_who_stood_behind() -> None:
    async def main() -> float:
        limiter = with_limits(tokens_per_minute=600)
        await sent(limiter, tokens=300)
        large = asyncio.ensure_future(limiter.acquire("a", tokens=600))
        small = asyncio.ensure_future(limiter.acquire("a", tokens=10))
        await asyncio.sleep(1)
        large.cancel()
        await small
        return now()

    assert run_virtual(main()) == pytest.approx(1)
