from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowllm.calls.single_flight import InFlightCalls
from flowllm.core.cancel import CallStopped, CancelToken
from flowllm.core.errors import RequestRejected
from flowllm.core.events import RequestJoined
from flowllm.core.request import Answer
from tests.support.calls import FakeProvider, caller, make_call
from tests.support.virtual import LoopClock, run_virtual


class Inner:
    """A layer that answers after a second, or does what it is told."""

    def __init__(self, error: Exception | None = None, *, on_wire: bool = True) -> None:
        self.calls = 0
        self.cancelled = 0
        self.rows: list = []
        self.error = error
        self.on_wire = on_wire

    async def answer(self, call: object) -> Answer:
        self.calls += 1
        call.on_wire = self.on_wire
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        answer = Answer(value="yes", model="m", provider="fake", attempts=1)
        self.rows += call.rows_for(answer)
        return answer


def test_500_equal_asks_are_one_call_and_one_set_of_rows() -> None:
    async def main() -> None:
        inner, log = Inner(), []
        calls = InFlightCalls(inner, LoopClock())
        asks = [make_call(FakeProvider(), caller(node=f"n{n}", log=log)) for n in range(500)]
        answers = await asyncio.gather(*(calls.answer(ask) for ask in asks))
        assert inner.calls == 1
        assert {answer.value for answer in answers} == {"yes"}
        assert [answer.joined for answer in answers] == [False] + [True] * 499
        assert [row.node.node_id for row in inner.rows] == [f"n{n}" for n in range(500)]
        assert sum(isinstance(event, RequestJoined) for event in log) == 499

    run_virtual(main())


def test_the_call_goes_on_when_its_leader_leaves_and_ends_when_the_last_one_does() -> None:
    async def main() -> None:
        inner = Inner()
        calls = InFlightCalls(inner, LoopClock())
        leader, other = (asyncio.create_task(calls.answer(make_call(FakeProvider()))) for _ in range(2))
        await asyncio.sleep(0.5)
        leader.cancel()
        assert (await other).value == "yes"
        assert (inner.calls, inner.cancelled) == (1, 0)
        tasks = [asyncio.create_task(calls.answer(make_call(FakeProvider()))) for _ in range(3)]
        await asyncio.sleep(0.5)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await calls.drain()
        assert (inner.calls, inner.cancelled) == (2, 1)

    run_virtual(main())


def test_a_terminal_error_goes_to_all_and_is_not_remembered() -> None:
    async def main() -> None:
        inner = Inner(RequestRejected("no"))
        calls = InFlightCalls(inner, LoopClock())
        outcomes = await asyncio.gather(
            *(calls.answer(make_call(FakeProvider())) for _ in range(3)), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [RequestRejected] * 3
        inner.error = None
        assert (await calls.answer(make_call(FakeProvider()))).value == "yes"

    run_virtual(main())


def test_who_must_not_join_does_not_and_different_keys_do_not_meet() -> None:
    async def main() -> None:
        inner = Inner()
        calls = InFlightCalls(inner, LoopClock())
        await asyncio.gather(
            calls.answer(make_call(FakeProvider())),
            calls.answer(make_call(FakeProvider(), join=False)),
            calls.answer(make_call(FakeProvider(), key="other")),
        )
        assert inner.calls == 3

    run_virtual(main())


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({}, {"keep_truncated": False}),
        ({"keep_truncated": False}, {}),
        ({}, {"ttl": 60.0}),
        ({"ttl": 3600.0}, {"ttl": 60.0}),
    ],
)
def test_who_may_want_another_answer_waits_for_the_end_of_an_equal_call(first: dict, second: dict) -> None:
    """Equal requests are never out at the same time; the second finds the answer in the memo, or asks itself."""

    class Single(Inner):
        at_once = 0

        async def answer(self, call: object) -> Answer:
            self.at_once += 1
            assert self.at_once == 1
            try:
                return await super().answer(call)
            finally:
                self.at_once -= 1

    async def main() -> None:
        calls = InFlightCalls(Single(), LoopClock())
        answers = await asyncio.gather(
            calls.answer(make_call(FakeProvider(), **first)), calls.answer(make_call(FakeProvider(), **second))
        )
        assert [answer.joined for answer in answers] == [False, False]

    run_virtual(main())


def test_an_answer_that_is_fresh_enough_for_the_first_is_shared_by_who_takes_older_ones() -> None:
    async def main() -> None:
        inner = Inner()
        calls = InFlightCalls(inner, LoopClock())
        await asyncio.gather(*(calls.answer(make_call(FakeProvider(), ttl=ttl)) for ttl in (60.0, 60.0, 3600.0, None)))
        assert inner.calls == 1

    run_virtual(main())


def test_a_run_that_stops_while_it_waits_for_an_equal_calls_end_leaves_at_once() -> None:
    async def main() -> None:
        calls, token = InFlightCalls(Inner(), LoopClock()), CancelToken()
        first = asyncio.create_task(calls.answer(make_call(FakeProvider())))
        await asyncio.sleep(0.1)
        asyncio.get_running_loop().call_later(0.1, token.stop)
        with pytest.raises(CallStopped):
            await calls.answer(make_call(FakeProvider(), caller(token=token), ttl=60.0))
        assert asyncio.get_running_loop().time() < 0.5
        await first

    run_virtual(main())


def test_a_stopped_run_does_not_join_what_another_run_has_in_flight() -> None:
    async def main() -> None:
        calls, token, log = InFlightCalls(Inner(), LoopClock()), CancelToken(), []
        first = asyncio.create_task(calls.answer(make_call(FakeProvider())))
        await asyncio.sleep(0.1)
        token.stop()
        with pytest.raises(CallStopped):
            await calls.answer(make_call(FakeProvider(), caller(token=token, log=log)))
        assert log == []
        await first

    run_virtual(main())


def test_a_late_comer_waits_for_the_commit_and_asks_again() -> None:
    """Between the making of the rows and the end of the commit nobody can join: its row would be missing."""

    class SlowCommit(Inner):
        async def answer(self, call: object) -> Answer:
            answer = await super().answer(call)
            await asyncio.sleep(1)
            return answer

    async def main() -> None:
        inner = SlowCommit()
        calls = InFlightCalls(inner, LoopClock())
        first = asyncio.create_task(calls.answer(make_call(FakeProvider(), caller(node="a"))))
        await asyncio.sleep(1.5)
        late = await calls.answer(make_call(FakeProvider(), caller(node="b")))
        await first
        assert not late.joined
        assert [row.node.node_id for row in inner.rows] == ["a", "b"]

    run_virtual(main())


def test_cancelling_before_the_first_step_leaves_no_ghost() -> None:
    async def main() -> None:
        calls = InFlightCalls(Inner(), LoopClock())
        task = asyncio.create_task(calls.answer(make_call(FakeProvider())))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert (await asyncio.wait_for(calls.answer(make_call(FakeProvider())), 5)).value == "yes"

    run_virtual(main())


def test_a_stopping_run_leaves_what_is_not_on_the_wire_and_keeps_what_is() -> None:
    async def main(*, on_wire: bool) -> list:
        calls, token = InFlightCalls(Inner(on_wire=on_wire), LoopClock()), CancelToken()
        mine = asyncio.create_task(calls.answer(make_call(FakeProvider(), caller(token=token))))
        await asyncio.sleep(0.5)
        token.stop()
        await asyncio.sleep(0)
        outcome = (await asyncio.gather(mine, return_exceptions=True))[0]
        refused = await asyncio.gather(
            calls.answer(make_call(FakeProvider(), caller(token=token))), return_exceptions=True
        )
        assert isinstance(refused[0], CallStopped)
        return outcome

    assert isinstance(run_virtual(main(on_wire=False)), CallStopped)
    assert run_virtual(main(on_wire=True)).value == "yes"


def test_a_stopping_run_does_not_take_another_runs_answer_away() -> None:
    async def main() -> None:
        calls, token = InFlightCalls(Inner(on_wire=False), LoopClock()), CancelToken()
        mine = asyncio.create_task(calls.answer(make_call(FakeProvider(), caller(token=token))))
        other = asyncio.create_task(calls.answer(make_call(FakeProvider(), caller(run="r2"))))
        await asyncio.sleep(0.5)
        token.stop()
        with pytest.raises(CallStopped):
            await mine
        assert (await other).value == "yes"

    run_virtual(main())


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32))
def test_whoever_comes_and_goes_everyone_who_stays_is_answered_and_has_a_row(seed: int) -> None:
    draw = random.Random(seed)

    async def main() -> None:
        inner = Inner()
        calls = InFlightCalls(inner, LoopClock())

        async def visit(number: int) -> int | None:
            await asyncio.sleep(draw.random() * 4)
            ask = calls.answer(make_call(FakeProvider(), caller(node=f"n{number}"), key=draw.choice("ab")))
            try:
                await asyncio.wait_for(ask, draw.choice([0.3, 0.9, 50]))
            except TimeoutError:
                return None
            return number

        stayed = {number for number in await asyncio.gather(*map(visit, range(25))) if number is not None}
        await calls.drain()
        assert stayed <= {int(row.node.node_id[1:]) for row in inner.rows}
        assert not calls._running
        assert not calls._joinable

    run_virtual(main())
