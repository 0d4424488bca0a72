from __future__ import annotations

import asyncio

import pytest

from flowllm.core.errors import RateLimited, ServerFailed
from flowllm.core.types import Limits, Priority, WaitReason, WindowLimit
from flowllm.limits.limiter import Limiter
from tests.support.virtual import LoopClock, run_virtual


class Listener:
    """What a request heard of its waits."""

    def __init__(self) -> None:
        self.told: list[tuple[str, float | None]] = []
        self.seconds: dict[str, float] = {}

    def waiting(self, reason: WaitReason, until: float | None) -> None:
        self.told.append((reason.value, None if until is None else round(until - LoopClock().now(), 1)))

    def waited(self, reason: WaitReason, seconds: float) -> None:
        if seconds > 0:
            self.seconds[reason.value] = self.seconds.get(reason.value, 0.0) + seconds


async def send(limiter: Limiter, seconds: float = 1.0, *, error: Exception | None = None, **how: object) -> Listener:
    listener = Listener()
    permit = await limiter.acquire("account", listener=listener, **how)
    try:
        await permit.depart()
        await asyncio.sleep(seconds)
        if error is not None:
            permit.failed(error)
        else:
            permit.answered({}, used=0.0)
    finally:
        permit.release()
    return listener


def limited(**limits: object) -> Limiter:
    limiter = Limiter(LoopClock())
    limiter.configure("account", Limits(**limits), holder="run")
    return limiter


def counts(limiter: Limiter) -> dict[str, int]:
    return {reason: sum(of.values()) for reason, of in limiter.gauges()["account"].as_dict()["waits"].items()}


def test_what_does_not_wait_hears_nothing() -> None:
    async def main() -> Listener:
        return await send(limited(max_concurrent=1))

    listener = run_virtual(main())
    assert (listener.told, listener.seconds) == ([], {})


@pytest.mark.parametrize(
    ("limits", "tokens", "reason", "seconds"),
    [
        ({"max_concurrent": 1}, 0.0, "slot", 5.0),
        ({"requests_per_minute": 6, "burst": 1}, 0.0, "rate", 10.0),
        ({"windows": (WindowLimit(requests=1, per=20.0),)}, 0.0, "rate", 20.0),
        ({"tokens_per_minute": 60}, 55.0, "tokens", 50.0),
    ],
)
def test_the_limit_that_holds_a_request_back_is_the_reason(
    limits: dict, tokens: float, reason: str, seconds: float
) -> None:
    async def main() -> list:
        limiter = limited(**limits)
        first = asyncio.create_task(send(limiter, 5.0, tokens=tokens))
        await asyncio.sleep(0)
        ranks = (Priority.HIGH, Priority.LOW)
        others = [asyncio.create_task(send(limiter, 5.0, tokens=tokens, priority=rank)) for rank in ranks]
        await asyncio.sleep(0)
        assert limiter.gauges()["account"].waits == {reason: {"high": 1, "low": 1}}
        await asyncio.sleep(1.0)
        limiter.count_waits()  # which changes nothing of the sums at the end
        found = [await first, *[await other for other in others]]
        assert counts(limiter) == {}
        return found

    first, second, third = run_virtual(main())
    assert first.seconds == {}
    assert second.seconds == {reason: pytest.approx(seconds, rel=0.1)}
    assert third.seconds == {reason: pytest.approx(2 * seconds, rel=0.1)}
    assert [name for name, _ in second.told] == [reason]
    until = second.told[0][1]
    assert until is None if reason == "slot" else until == pytest.approx(seconds, rel=0.1)


def test_seconds_are_divided_when_the_reason_changes_and_each_reason_is_told_once() -> None:
    async def main() -> Listener:
        limiter = limited(max_concurrent=1, requests_per_minute=6, burst=1)
        first = asyncio.create_task(send(limiter, 4.0))
        await asyncio.sleep(0)
        second = await send(limiter)
        await first
        return second

    second = run_virtual(main())
    assert second.seconds == {"slot": pytest.approx(4.0), "rate": pytest.approx(6.0, rel=0.1)}
    assert [name for name, _ in second.told] == ["slot", "rate"]


def test_a_pause_of_the_server_and_a_breaker_are_reasons() -> None:
    async def main() -> tuple[Listener, Listener]:
        paused, broken = limited(adaptive=False), limited(max_concurrent=40)
        await send(paused, error=RateLimited("slow down", retry_after=30.0))
        await asyncio.gather(*(send(broken, error=ServerFailed("no")) for _ in range(25)))
        return await asyncio.gather(send(paused), send(broken))

    paused, broken = run_virtual(main())
    assert paused.seconds == {"server_pause": pytest.approx(29.0)}
    assert paused.told == [("server_pause", pytest.approx(29.0))]
    assert broken.seconds == {"breaker": pytest.approx(2.0)}


def test_a_request_that_leaves_the_queue_has_waited_all_the_same() -> None:
    async def main() -> Listener:
        limiter, listener = limited(max_concurrent=1), Listener()
        first = asyncio.create_task(send(limiter, 9.0))
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(limiter.acquire("account", listener=listener), 3.0)
        assert counts(limiter) == {}
        await first
        return listener

    assert run_virtual(main()).seconds == {"slot": pytest.approx(3.0)}
