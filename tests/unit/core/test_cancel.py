from __future__ import annotations

import asyncio

import pytest

from flowllm.core.cancel import CallStopped, CancelToken, StopSignal
from flowllm.core.types import RunStatus
from tests.support.virtual import run_virtual


def test_it_is_stopped_once_and_tells_its_listeners() -> None:
    token, heard = CancelToken(), []
    token.listen("me", lambda: heard.append(token.status))
    assert (token.status, token.stopped) == (None, False)
    token.stop(RunStatus.PAUSED, reason="budget")
    token.stop(RunStatus.FAILED)
    assert (token.status, token.stopped, token.reason, heard) == (RunStatus.PAUSED, True, "budget", [RunStatus.PAUSED])


def test_a_late_listener_is_called_at_once_and_a_forgotten_one_never() -> None:
    token, heard = CancelToken(), []
    token.listen("gone", lambda: heard.append("gone"))
    token.forget("gone")
    token.cancel()
    token.listen("late", lambda: heard.append("late"), lambda: heard.append("cancelled"))
    assert heard == ["late", "cancelled"]


@pytest.mark.parametrize("stopped_before", [False, True])
def test_cancelling_stops_first_and_cancels_also_what_was_stopped(*, stopped_before: bool) -> None:
    signal, heard = StopSignal(), []
    child = signal.child()
    child.listen("me", lambda: heard.append("stop"), lambda: heard.append("cancel"))
    if stopped_before:
        signal.request("SIGINT")
    signal.cancel()
    assert (heard, child.cancelled) == (["stop", "cancel"], True)
    assert child.reason == ("SIGINT" if stopped_before else "cancelled")


def test_a_child_is_stopped_with_its_parent_and_alone_stops_nothing_above() -> None:
    above = CancelToken()
    first, second = above.child(), above.child()
    first.stop()
    assert (above.status, second.status) == (None, None)
    above.stop(RunStatus.PAUSED)
    assert (first.status, second.status) == (RunStatus.INTERRUPTED, RunStatus.PAUSED)
    assert above.child().status is RunStatus.PAUSED


def test_a_child_that_is_forgotten_by_its_parent_goes_on() -> None:
    above = CancelToken()
    below = above.child()
    above.forget(below)
    above.stop(RunStatus.FAILED)
    assert below.status is None


def test_a_wait_ends_with_its_result_or_when_the_token_is_stopped() -> None:
    async def main() -> None:
        token = CancelToken()
        assert await token.until_stopped(asyncio.sleep(1, "slept")) == "slept"
        asyncio.get_running_loop().call_later(1, token.stop)
        for _ in range(2):
            with pytest.raises(CallStopped):
                await token.until_stopped(asyncio.sleep(50))
        assert asyncio.get_running_loop().time() == 2

    run_virtual(main())


def test_a_waiter_that_is_cancelled_cancels_what_it_waits_for() -> None:
    async def main() -> None:
        token, ends = CancelToken(), []

        async def wait() -> None:
            try:
                await asyncio.sleep(50)
            finally:
                ends.append(asyncio.get_running_loop().time())

        task = asyncio.create_task(token.until_stopped(wait()))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)
        assert ends == [1]

    run_virtual(main())


def test_an_error_of_what_is_waited_for_is_raised() -> None:
    async def main() -> None:
        async def fail() -> None:
            raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            await CancelToken().until_stopped(fail())

    run_virtual(main())
