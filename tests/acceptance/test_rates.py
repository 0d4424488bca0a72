"""The limiter against servers with limits, under a virtual clock: the figures of docs/limits.md."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from flowllm.core.types import Limits, Priority
from tests.support.rates import Load, Server
from tests.support.virtual import run_virtual


@pytest.mark.parametrize("seed", range(5))
def test_a_known_limit_is_used_and_never_passed(seed: int) -> None:
    """600 a minute, burst 10, 300 calls of 50 ms: no 429, at least 97 % of the ideal rate."""

    async def main() -> tuple[Server, float]:
        server = Server(seed=seed)
        limits = Limits(max_concurrent=20, requests_per_minute=600, burst=10)
        return server, await Load(server, limits).many(300)

    server, took = run_virtual(main())
    ideal = (300 - 10) / 10
    assert server.refused == []
    assert ideal / took >= 0.97


def test_a_client_that_takes_long_to_load_makes_no_burst_of_what_was_admitted_meanwhile() -> None:
    async def main() -> Server:
        server = Server(load_s=1.5)
        await Load(server, Limits(max_concurrent=20, requests_per_minute=600, burst=10)).many(40)
        return server

    assert run_virtual(main()).refused == []


@pytest.mark.parametrize("seed", range(3))
def test_tokens_per_minute_bind_with_answers_of_any_length(seed: int) -> None:
    async def main() -> tuple[Server, float]:
        server = Server(rate=1e6, burst=1e6, tokens_per_minute=60_000, answer_tokens=(10, 1000), latency=1.0, seed=seed)
        limits = Limits(max_concurrent=200, tokens_per_minute=60_000, tokens_charged="usage")
        return server, await Load(server, limits).many(600, reserve=1000.0)

    server, took = run_virtual(main())
    spent = 505 * 600
    ideal = (spent - 60_000) / 1000
    assert server.refused == []
    assert ideal / took >= 0.90


@pytest.mark.parametrize("tell", [True, False])
@pytest.mark.parametrize("retry_after", [None, 1.0])
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.soak) for seed in (1, 2))])
def test_an_unknown_limit_is_found(tell: bool, retry_after: float | None, seed: int) -> None:
    async def main() -> Server:
        server = Server(tell=tell, retry_after=retry_after, seed=seed)
        await Load(server, Limits(max_concurrent=10)).steady(120)
        return server

    server = run_virtual(main())
    share = len(server.refused) / (len(server.refused) + len(server.accepted))
    assert server.throughput(0, 120) >= 0.85 * 10, server.throughput(0, 120)
    assert share <= 0.03, share


@pytest.mark.parametrize(("stray", "retry_after"), [(0.02, None), (0.05, None), (0.02, 1.0)])
def test_429s_that_have_nothing_to_do_with_the_rate_hardly_slow_a_run(stray: float, retry_after: float | None) -> None:
    """Against `adaptive: false`, which waits as long as it is told and learns nothing."""

    async def main(adaptive: bool | None) -> float:
        server = Server(rate=1e9, burst=1e9, latency=1.0, stray=stray, retry_after=retry_after)
        load = Load(server, Limits(max_concurrent=64, adaptive=adaptive))
        took = await load.many(1500)
        load.limiter.close()
        return took

    assert run_virtual(main(None)) <= 1.5 * run_virtual(main(False))


def test_slots_that_are_found_leave_a_limit_of_the_rate_to_the_rate() -> None:
    async def main() -> Server:
        server = Server(latency=2.0)  # twenty must be in flight
        await Load(server, Limits()).steady(90)
        return server

    server = run_virtual(main())
    assert server.throughput(30, 90) >= 0.85 * 10
    assert len(server.refused) <= 0.08 * len(server.arrived)


@pytest.mark.parametrize(
    ("tell", "retry_after"),
    [(True, None), (False, 1.0), *(pytest.param(*way, marks=pytest.mark.soak) for way in ((True, 1.0), (False, None)))],
)
@pytest.mark.parametrize(("factor", "within"), [(0.5, 15), (2.0, 60)])
def test_a_limit_that_changes_is_followed(tell: bool, retry_after: float | None, factor: float, within: float) -> None:
    async def main() -> Server:
        server = Server(tell=tell, retry_after=retry_after)
        load = Load(server, Limits(max_concurrent=10))
        going = asyncio.ensure_future(load.steady(60 + within + 21))
        await asyncio.sleep(60)
        server.set_rate(10 * factor)
        await going
        return server

    server = run_virtual(main())
    after = 60 + within
    assert server.throughput(after, after + 20) >= 0.85 * 10 * factor
    assert len(server.refused) <= 0.03 * len(server.arrived), len(server.refused) / len(server.arrived)


def test_a_hundred_429s_at_once_make_no_herd() -> None:
    async def main() -> Server:
        server = Server(rate=0, burst=1e6)
        server._level = 0
        load = Load(server, Limits(max_concurrent=100))
        going = asyncio.ensure_future(load.many(100))
        await asyncio.sleep(0.011)
        server.rate, server._level = 1e6, 1e6
        await going
        return server

    server = run_virtual(main())
    assert len(server.refused) >= 100
    retries = server.arrived[100:]
    herd = max(Counter(int(at * 10) for at in retries).values())
    assert len(retries) < 150
    assert herd <= 30, herd


@pytest.mark.parametrize("seed", range(5))
def test_a_server_that_fails_for_30_s_is_left_alone_and_no_node_fails(seed: int) -> None:
    async def main() -> tuple[Server, Load]:
        server = Server(rate=1e6, burst=1e6, failing_until=30.0, seed=seed)
        load = Load(server, Limits(max_concurrent=10), seed=seed)
        await load.many(200)
        return server, load

    server, load = run_virtual(main())
    assert sum(at < 30 for at in server.arrived) < 30
    assert load.failed == []
    assert len(server.accepted) == 200


def test_ten_thousand_requests_take_the_twenty_minutes_that_they_must() -> None:
    async def main() -> tuple[Server, float]:
        server = Server(rate=1e9, burst=1e9, latency=1.0, answer_tokens=(400, 400))
        limits = Limits(max_concurrent=100, requests_per_minute=500, tokens_per_minute=200_000)
        load = Load(server, limits)

        async def ask(number: int) -> None:
            permit = await load.limiter.acquire(server.account, tokens=400)
            await permit.depart()
            await asyncio.sleep(1.0)
            permit.answered({}, used=400)
            permit.release()

        await asyncio.gather(*(ask(number) for number in range(10_000)))
        return server, load.clock.monotonic()

    _, took = run_virtual(main())
    assert took / 60 == pytest.approx(20, rel=0.02)


async def served(waiting: list[tuple[str, int]], total: int, weights: dict | None = None) -> list[str]:
    """The tenants in the order in which they were served, one at a time."""
    load = Load(Server(), Limits(max_concurrent=1), weights=weights)
    order: list[str] = []

    async def ask(tenant: str) -> None:
        permit = await load.limiter.acquire(load.server.account, tenant=tenant)
        order.append(tenant)
        await asyncio.sleep(1)
        permit.release()

    tasks = []
    for tenant, count in waiting:
        tasks += [asyncio.ensure_future(ask(tenant)) for _ in range(count)]
        await asyncio.sleep(10)
    while len(order) < total:
        await asyncio.sleep(1)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return order


def test_a_small_tenant_is_not_held_up_by_a_large_one() -> None:
    order = run_virtual(served([("a", 10_000), ("b", 10)], 200))
    first, last = order.index("b"), len(order) - 1 - order[::-1].index("b")
    assert last - first <= 2 * 2 * 10
    assert order.count("b") == 10


def test_weights_of_three_to_one_give_three_to_one() -> None:
    order = run_virtual(served([("a", 3000), ("b", 3000)], 2000, {"a": 3.0}))[20:]
    assert order.count("a") / order.count("b") == pytest.approx(3, rel=0.05)


def test_priorities_come_before_fairness() -> None:
    async def main() -> list[str]:
        load, order = Load(Server(), Limits(max_concurrent=1)), []

        async def ask(name: str, priority: Priority) -> None:
            permit = await load.limiter.acquire(load.server.account, priority=priority, tenant=name[0])
            order.append(name)
            await asyncio.sleep(1)
            permit.release()

        names = [("a1", "low"), ("a2", "normal"), ("b1", "low"), ("b2", "high")]
        await asyncio.gather(ask("c0", Priority.NORMAL), *(ask(n, Priority(p)) for n, p in names))
        return order

    assert run_virtual(main()) == ["c0", "b2", "a2", "a1", "b1"]
