from __future__ import annotations

import asyncio
import json

import pytest

from flowllm.core.errors import RateLimited, ServerFailed
from flowllm.core.types import Limits
from flowllm.limits.concurrency import FIRST
from flowllm.limits.limiter import Gauge, Limiter
from tests.support.virtual import LoopClock, run_virtual


def test_an_account_without_limits_knows_little() -> None:
    async def main() -> Gauge:
        limiter = Limiter(LoopClock())
        limiter.configure("a", Limits(), holder=1)
        return limiter.gauges()["a"]

    gauge = run_virtual(main())
    assert (gauge.in_flight, gauge.waiting, gauge.slots, gauge.granted) == (0, 0, FIRST, 0)
    assert gauge.requests_per_minute is None
    assert gauge.utilisation is None
    assert gauge.breaker == "closed"
    assert json.loads(json.dumps(gauge.as_dict()))["max_concurrent"] == FIRST


def test_it_tells_who_is_under_way_who_waits_and_what_is_left() -> None:
    async def main() -> Gauge:
        limiter = Limiter(LoopClock())
        limits = Limits(max_concurrent=2, requests_per_minute=60, burst=10, tokens_per_minute=600)
        limiter.configure("a", limits, holder=1)
        tasks = [asyncio.ensure_future(limiter.acquire("a", tokens=100)) for _ in range(5)]
        await asyncio.sleep(10)
        gauge = limiter.gauges()["a"]
        for task in tasks:
            task.cancel()
        limiter.close()
        return gauge

    gauge = run_virtual(main())
    assert (gauge.in_flight, gauge.waiting, gauge.granted) == (2, 3, 2)
    assert gauge.tokens_left == pytest.approx(500, rel=0.01)
    assert gauge.requests_per_minute == pytest.approx(60, rel=0.02)
    assert gauge.utilisation == pytest.approx(0.2, rel=0.05)


def test_it_tells_of_a_pause_what_was_learned_and_of_trouble() -> None:
    async def main() -> Gauge:
        limiter = Limiter(LoopClock())
        limiter.configure("a", Limits(requests_per_minute=600), holder=1)
        permits = [await limiter.acquire("a") for _ in range(9)]
        for permit in permits:
            await permit.depart()
        permits[0].failed(RateLimited("429", retry_after=7))
        for permit in permits[1:]:
            permit.failed(ServerFailed("500", status=500))
        return limiter.gauges()["a"]

    gauge = run_virtual(main())
    assert gauge.paused_s == pytest.approx(7)
    assert gauge.learned_per_minute is not None
    assert gauge.requests_per_minute is not None
    assert 0 < gauge.requests_per_minute <= gauge.learned_per_minute < 600
    assert gauge.slots < gauge.max_concurrent


def test_it_tells_what_went_out_was_used_and_was_refused_in_the_last_minute() -> None:
    async def main() -> list[tuple[int, int, int]]:
        limiter, found = Limiter(LoopClock()), []
        limiter.configure("a", Limits(), holder=1)
        for wait in (0, 30, 20, 15, 100):
            await asyncio.sleep(wait)
            permits = [await limiter.acquire("a") for _ in range(2)]
            for permit in permits:
                await permit.depart()
            permits[0].answered({}, used=40.0)
            permits[1].failed(RateLimited("429"))
            for permit in permits:
                permit.release()
            gauge = limiter.gauges()["a"]
            found.append((gauge.requests_sent, gauge.tokens_used, gauge.refused))
        limiter.close()
        return found

    assert run_virtual(main()) == [(2, 40, 1), (4, 80, 2), (6, 120, 3), (6, 120, 3), (2, 40, 1)]
