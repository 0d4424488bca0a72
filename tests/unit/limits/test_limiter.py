from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowllm.core.errors import RateLimited, RequestRejected
from flowllm.core.types import Limits, Priority, WindowLimit
from flowllm.limits.limiter import IDLE, Limiter, tightest
from tests.support.virtual import LoopClock, run_virtual


def limiter(**limits: object) -> Limiter:
    made = Limiter(LoopClock())
    made.configure("account", Limits(**limits), holder="run")
    return made


async def hold(made: Limiter, log: list, name: object, seconds: float = 1.0, **how: object) -> None:
    permit = await made.acquire("account", **how)
    await permit.depart()
    log.append((name, asyncio.get_running_loop().time()))
    try:
        await asyncio.sleep(seconds)
    finally:
        permit.release()


def test_never_more_than_max_concurrent_and_no_slot_left_idle() -> None:
    async def main() -> list:
        made, log = limiter(max_concurrent=3), []
        await asyncio.gather(*(hold(made, log, n) for n in range(7)))
        return log

    assert [at for _, at in run_virtual(main())] == [0, 0, 0, 1, 1, 1, 2]


def test_max_concurrent_of_one_is_one() -> None:
    async def main() -> list:
        made, log = limiter(max_concurrent=1), []
        await asyncio.gather(*(hold(made, log, n) for n in range(3)))
        return log

    assert run_virtual(main()) == [(0, 0), (1, 1), (2, 2)]


def test_priorities_go_first_and_first_come_first_served_inside_each() -> None:
    async def main() -> list:
        made, log = limiter(max_concurrent=1), []
        names = [("a", "low"), ("b", "normal"), ("c", "high"), ("d", "normal"), ("e", "high")]
        first = asyncio.create_task(hold(made, log, "first"))
        await asyncio.sleep(0)
        await asyncio.gather(first, *(hold(made, log, n, priority=Priority(p)) for n, p in names))
        return [name for name, _ in log]

    assert run_virtual(main()) == ["first", "c", "e", "b", "d", "a"]


def test_requests_per_minute_with_the_burst_that_was_asked_for() -> None:
    async def main() -> list:
        made, log = limiter(max_concurrent=99, requests_per_minute=60, burst=3), []
        await asyncio.gather(*(hold(made, log, n) for n in range(5)))
        return [at for _, at in log]

    assert run_virtual(main()) == pytest.approx([0, 0, 0, 1, 2], abs=0.1)


def test_tokens_are_reserved_before_and_a_large_request_is_not_overtaken() -> None:
    async def main() -> list:
        made, log = limiter(max_concurrent=99, tokens_per_minute=600), []
        await hold(made, log, "drain", 0, tokens=600)
        tasks = [hold(made, log, "large", tokens=500), *(hold(made, log, n, tokens=1) for n in "xyz")]
        await asyncio.gather(*tasks)
        return [name for name, _ in log]

    assert run_virtual(main()) == ["drain", "large", "x", "y", "z"]


def test_tokens_of_a_request_that_was_not_sent_come_back() -> None:
    async def main() -> float:
        made = limiter(max_concurrent=99, tokens_per_minute=600)
        (await made.acquire("account", tokens=600)).release()
        await made.acquire("account", tokens=600)
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == 0


def test_a_request_larger_than_the_limit_is_refused_at_once() -> None:
    async def main() -> None:
        await limiter(tokens_per_minute=10_000).acquire("account", tokens=10_001)

    with pytest.raises(
        RequestRejected, match="needs about 10,001 tokens, more than the limit of 10,000 tokens per minute"
    ):
        run_virtual(main())


async def refused(made: Limiter, *retry_after: float, model: str = "") -> None:
    """So many 429s at once."""
    permits = [await made.acquire("account", model=model) for _ in retry_after]
    for permit in permits:
        await permit.depart()
    for permit, seconds in zip(permits, retry_after, strict=True):
        permit.failed(RateLimited("429", retry_after=seconds))
        permit.release()


def test_a_pause_holds_back_the_whole_model_and_no_other() -> None:
    async def main() -> list:
        made, log = limiter(max_concurrent=99, adaptive=False), []
        await refused(made, 7, 3, model="m")
        await asyncio.gather(*(hold(made, log, model, model=model) for model in "mmnmn"))
        return log

    assert run_virtual(main()) == [("n", 0), ("n", 0), ("m", 7), ("m", 7), ("m", 7)]


@pytest.mark.parametrize(("asked", "waited"), [(1e9, 3600), (-5, 0)])
def test_a_pause_is_clamped(asked: float, waited: float) -> None:
    async def main() -> float:
        made = limiter(adaptive=False, give_up_after=1e10)
        await refused(made, asked)
        await made.acquire("account")
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == waited


def test_of_two_runs_the_tightest_holds_until_it_is_over() -> None:
    async def main() -> list:
        made, log = limiter(max_concurrent=5), []
        made.configure("account", Limits(max_concurrent=1), holder="other")
        await asyncio.gather(*(hold(made, log, n) for n in range(2)))
        made.withdraw("other")
        await asyncio.gather(*(hold(made, log, n) for n in range(2)))
        return [at for _, at in log]

    assert run_virtual(main()) == [0, 1, 2, 2]


def test_tightest_takes_the_smaller_of_each() -> None:
    one = Limits(max_concurrent=9, requests_per_minute=100)
    other = Limits(max_concurrent=20, requests_per_minute=50, tokens_per_minute=7, burst=2)
    assert tightest(one, other) == Limits(max_concurrent=9, requests_per_minute=50, tokens_per_minute=7, burst=2)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 4))
def test_no_wake_up_is_lost_and_slots_balance_when_waiters_are_cancelled(seed: int, slots: int) -> None:
    draw = random.Random(seed)

    async def main() -> None:
        made, log = limiter(max_concurrent=slots, requests_per_minute=6000, burst=slots), []
        tasks = [asyncio.create_task(hold(made, log, n, draw.random())) for n in range(30)]
        for _ in tasks:
            await asyncio.sleep(draw.random() / 10)
            if draw.random() < 0.4:
                draw.choice(tasks).cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        permits = [await made.acquire("account") for _ in range(slots)]
        waiting = asyncio.ensure_future(made.acquire("account"))
        await asyncio.sleep(100)
        assert not waiting.done(), "more slots than there are"
        permits[0].release()
        await asyncio.wait_for(waiting, 10)

    run_virtual(main())


def test_limits_that_are_lowered_while_a_large_request_waits_refuse_it_and_do_not_block_the_rest() -> None:
    """Another run in the same process may allow fewer tokens a minute than a request that waits already needs."""

    async def main() -> None:
        made = limiter(max_concurrent=9, tokens_per_minute=1000)
        await made.acquire("account", tokens=900)
        large = asyncio.ensure_future(made.acquire("account", tokens=900))
        small = asyncio.ensure_future(made.acquire("account", tokens=10))
        await asyncio.sleep(1)
        made.configure("account", Limits(tokens_per_minute=100), holder="other run")
        with pytest.raises(RequestRejected, match="more than the limit of 100 tokens"):
            await large
        await asyncio.wait_for(small, 600)

    run_virtual(main())


def test_a_limit_that_only_an_earlier_run_had_is_gone_with_it() -> None:
    async def main() -> float:
        made = limiter(requests_per_minute=1, burst=1, tokens_per_minute=10)
        made.withdraw("run")
        made.configure("account", Limits(max_concurrent=99), holder="later run")
        for _ in range(20):
            await (await made.acquire("account", tokens=50)).depart()
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == 0


async def use(made: Limiter, account: str, **limits: object) -> None:
    """A run that sends one request to that account, and ends."""
    made.configure(account, Limits(**limits), holder=account)
    permit = await made.acquire(account, model="m")
    await permit.depart()
    permit.release()
    made.withdraw(account)


def test_accounts_that_nobody_uses_are_forgotten_after_a_while() -> None:
    async def main() -> None:
        made = Limiter(LoopClock())
        for number in range(1000):
            await use(made, f"key-{number}")
        assert len(made.gauges()) == 1000
        await asyncio.sleep(IDLE + 1)
        await use(made, "key-7")
        assert set(made.gauges()) == {"key-7"}
        await asyncio.sleep(IDLE / 2)
        await use(made, "key-7")
        await asyncio.sleep(IDLE * 0.75)
        await use(made, "other")
        assert set(made.gauges()) == {"key-7", "other"}

    run_virtual(main())


def test_an_account_is_kept_while_something_goes_on_or_counts() -> None:
    async def main() -> None:
        made = Limiter(LoopClock())
        await use(made, "window", windows=(WindowLimit(requests=1, per=2 * IDLE),))
        made.configure("claimed", Limits(), holder="a run that waits for people")
        made.configure("busy", Limits(max_concurrent=1), holder="over")
        permit = await made.acquire("busy")
        waiter = asyncio.create_task(made.acquire("busy"))
        made.withdraw("over")
        await asyncio.sleep(IDLE + 1)
        await use(made, "next")
        assert set(made.gauges()) == {"window", "claimed", "busy", "next"}
        permit.release()
        (await waiter).release()
        await asyncio.sleep(IDLE + 1)
        await use(made, "last")
        assert set(made.gauges()) == {"claimed", "last"}

    run_virtual(main())


def test_a_pause_that_a_server_asked_for_outlives_its_run() -> None:
    async def main() -> None:
        made = Limiter(LoopClock())
        made.configure("account", Limits(give_up_after=3 * IDLE), holder="run")
        permit = await made.acquire("account", model="m")
        await permit.depart()
        permit.failed(RateLimited("slow", retry_after=IDLE * 2))
        permit.release()
        made.withdraw("run")
        await asyncio.sleep(IDLE * 1.5)
        await use(made, "next")
        assert made.gauges()["account"].paused_s == pytest.approx(IDLE / 2)
        await asyncio.sleep(IDLE)
        await use(made, "last")
        assert set(made.gauges()) == {"last"}

    run_virtual(main())


@pytest.mark.parametrize(("limits", "share"), [({"tokens_per_minute": 1e6}, 10), ({}, 1)])
def test_tenants_share_tokens_where_these_are_limited(limits: dict[str, float], share: int) -> None:
    async def main() -> list:
        made, log = limiter(max_concurrent=1, **limits), []
        asked = [
            hold(made, log, tenant, 0.001, tenant=tenant, tokens=tokens)
            for _ in range(110)
            for tenant, tokens in (("long", 1000), ("short", 100))
        ]
        await asyncio.gather(*asked)
        return [name for name, _ in log[:110]]

    first = run_virtual(main())
    assert first.count("short") / first.count("long") == pytest.approx(share, rel=0.15)
