"""What headers and 429s of one model hold back, and what they do not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from flowllm.core.errors import AttemptTimedOut, RateLimited, ServerFailed, StepError
from flowllm.core.types import Limits
from flowllm.limits.concurrency import FIRST, OPENING_PACE
from flowllm.limits.limiter import Limiter, Permit
from tests.support.virtual import LoopClock, run_virtual


def with_limits(**limits: object) -> Limiter:
    made = Limiter(LoopClock())
    made.configure("a", Limits(**limits), holder="run")
    return made


async def one(limiter: Limiter, model: str = "m", headers: dict | None = None) -> float:
    """One request, answered at once; when it went."""
    permit: Permit = await limiter.acquire("a", model=model)
    await permit.depart()
    at = asyncio.get_running_loop().time()
    permit.answered(headers or {}, used=0)
    permit.release()
    return at


def told(limit: float, remaining: float, reset: str, suffix: str = "") -> dict[str, str]:
    parts = {"limit": f"{limit:g}", "remaining": f"{remaining:g}", "reset": reset}
    return {f"x-ratelimit-{part}-requests{suffix}": value for part, value in parts.items()}


def took(headers: Callable[[int], dict], requests: int, **limits: object) -> float:
    """Seconds that so many requests take, one after the other, each answered with the headers of its number."""

    async def main() -> float:
        limiter = with_limits(**limits)
        return [await one(limiter, headers=headers(number)) for number in range(1, requests + 1)][-1]

    return run_virtual(main())


@pytest.mark.parametrize(
    "headers",
    [
        lambda n: told(1000, 1000 - n, f"{n * 86.4:.1f}s"),  # a bucket of a day
        lambda n: told(100, max(0, 50 - n), "43200"),
        lambda n: told(100, 0, "2h30m"),
        lambda n: told(14_400, 0, "20000", "-day"),
        lambda n: told(600, 600 - n, "58"),  # a fixed window
        lambda n: told(600, 600 - n, "1970-01-01T00:00:58Z"),
        lambda n: {"x-ratelimit-limit-requests": "3"},  # nobody says of what time
        lambda n: told(3, 0, "60s"),  # believed when there was a 429
        lambda n: told(600, 595, "100000"),
        lambda n: {"ratelimit": "limit=5, remaining=0, reset=50", "ratelimit-policy": "5;w=3600"},
    ],
)
def test_headers_do_not_stall_a_run_that_had_no_429(headers: Callable[[int], dict]) -> None:
    assert took(headers, 20) == 0


def test_what_is_left_goes_at_once_and_the_rest_at_the_rate_that_is_told() -> None:
    seconds = took(lambda n: told(120, max(0, 10 - n), f"{min(120, 110 + n) / 2:g}s"), 20)
    assert seconds == pytest.approx(10 / 2, abs=0.6)


@pytest.mark.parametrize(
    "written", [{"requests_per_minute": 6000}, {"models": {"m": Limits(requests_per_minute=6000)}}]
)
def test_a_written_number_is_believed_rather_than_a_lower_one(written: dict) -> None:
    assert took(lambda n: told(120, 0, "60s"), 10, **written) < 0.2


def test_a_rate_that_is_told_counts_once_there_was_a_429_for_its_model() -> None:
    async def main() -> list[float]:
        limiter = with_limits(max_concurrent=50)
        await one(limiter, headers=told(6, 0, "60s"))
        permit = await limiter.acquire("a", model="m")
        await permit.depart()
        permit.failed(RateLimited("429"))
        permit.release()
        waiting = [asyncio.ensure_future(one(limiter, model)) for model in "mmmnnn"]
        return await asyncio.gather(*waiting)

    times = run_virtual(main())
    assert times[3:] == [0, 0, 0]
    assert times[2] >= 10


def test_one_that_waits_behind_a_model_that_must_wait_from_now_on_overtakes_it() -> None:
    async def main() -> tuple[list[str], bool]:
        limiter, order = with_limits(max_concurrent=1), []

        async def ask(model: str) -> None:
            await one(limiter, model)
            order.append(model)

        first = await limiter.acquire("a", model="m")
        await first.depart()
        waiting = [asyncio.ensure_future(ask(model)) for model in ("m", "m", "n", "m", "n")]
        await asyncio.sleep(0)
        waiting[1].cancel()
        await asyncio.sleep(0)
        first.failed(RateLimited("429", retry_after=30))
        first.release()
        await asyncio.sleep(5)
        early = list(order)
        await asyncio.gather(*waiting, return_exceptions=True)
        return early, order

    early, order = run_virtual(main())
    assert early == ["n", "n"]
    assert order == ["n", "n", "m", "m"]


@pytest.mark.parametrize(("limit", "stalls"), [(6000, True), (1_000_000, False)])
def test_tokens_that_are_left_correct_the_written_limit_if_they_are_of_it(limit: int, *, stalls: bool) -> None:
    headers = {"x-ratelimit-limit-tokens": str(limit), "x-ratelimit-remaining-tokens": "0"}

    async def main() -> float:
        limiter = with_limits(tokens_per_minute=6000)
        await one(limiter, headers=headers)
        await limiter.acquire("a", model="m", tokens=500)
        return asyncio.get_running_loop().time()

    assert (run_virtual(main()) >= 4) is stalls


@pytest.mark.parametrize(
    ("error", "adaptive", "slots"),
    [
        (AttemptTimedOut("no answer"), None, FIRST // 2),
        (RateLimited("429"), None, FIRST // 2),
        (RateLimited("429"), False, FIRST),
        (ServerFailed("500", status=500), None, FIRST),
    ],
)
def test_slots_that_were_found_are_halved_by_429s_and_timeouts(
    error: StepError, adaptive: bool | None, slots: int
) -> None:
    async def main() -> int:
        limiter = with_limits(adaptive=adaptive)
        permits = [await limiter.acquire("a", model="m") for _ in range(FIRST)]
        for permit in permits:
            await permit.depart()
        for permit in permits[-2:]:
            permit.failed(error)
        found: int = limiter.gauges()["a"].max_concurrent
        return found

    assert run_virtual(main()) == slots


def test_models_of_an_account_have_slots_of_their_own() -> None:
    async def main() -> None:
        limiter = with_limits()
        permits = [await limiter.acquire("a", model="one") for _ in range(FIRST)]
        more = asyncio.ensure_future(limiter.acquire("a", model="one"))
        await asyncio.sleep(0)
        permits.append(await limiter.acquire("a", model="other"))
        assert not more.done(), "it waits for a slot of its model, and nobody behind it for it"
        gauge = limiter.gauges()["a"]
        assert (gauge.in_flight, gauge.max_concurrent) == (FIRST + 1, 2 * FIRST)
        await more
        assert asyncio.get_running_loop().time() == pytest.approx(1 / OPENING_PACE), (
            "more go by the clock until something comes back"
        )

    run_virtual(main())
