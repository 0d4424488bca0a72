"""Calls that other processes have made too."""

from __future__ import annotations

import asyncio
from contextlib import closing

import pytest

from flowllm.calls.stored_answer import memo_record
from flowllm.calls.validation import Validator
from flowllm.core.cancel import CallStopped
from flowllm.core.request import Answer, Completion, OutputFormat
from flowllm.core.types import RetryPolicy, Usage
from flowllm.storage.sql.rows import memo_row
from flowllm.storage.sql.statements import WRITE_MEMO
from flowllm.storage.sqlite.connection import connect_writer
from tests.support.bench import Bench, TextsBench
from tests.support.calls import FakeProvider
from tests.support.owners import Stranger
from tests.support.virtual import run_virtual

USAGE = Usage(input_tokens=3, output_tokens=5)
QUICK = RetryPolicy(max_attempts=3, initial_delay=1, jitter=False)


async def _answered_elsewhere(bench: Bench, key: str) -> None:
    """As by another process: what it pays for comes to be in the memo."""
    _store(bench, key, Answer(value="theirs", model="m-2", provider="fake", cost_usd=0.7))


def _store(bench: Bench | TextsBench, key: str, answer: Answer) -> None:
    row = memo_row(memo_record(key, answer, now=bench.clock.now()))
    with closing(connect_writer(bench.store.path)) as other:
        other.execute(WRITE_MEMO, (*row, None))


def test_what_was_answered_elsewhere_while_a_call_waited_is_not_sent() -> None:
    async def main() -> None:
        bench, provider = Bench(max_concurrent=1), FakeProvider()
        first = asyncio.create_task(bench.ask(provider, key="first"))
        second = asyncio.create_task(bench.ask(provider, node="b", key="second"))
        await asyncio.sleep(0.5)
        await _answered_elsewhere(bench, "second")
        assert (await first).value == "answer"
        found = await second
        assert (found.value, found.cached, found.attempts, found.cost_usd) == ("theirs", True, 0, 0.0)
        assert (await bench.ask(provider, node="c", key="third")).value == "answer"  # the slot is free again
        assert len(provider.sent) == 2
        assert [attempt.key for attempt in await bench.store.attempts("r1")] == ["first", "third"]
        assert (await bench.store.node("r1", "b")).output == "theirs"

    run_virtual(main())


def test_between_attempts_too_and_what_was_paid_stays_the_price() -> None:
    async def main() -> None:
        bench, provider = Bench(), FakeProvider(Completion(text="no", model="m-2", usage=USAGE))
        validator = Validator(OutputFormat(schema={"type": "integer"}))
        waiting = asyncio.create_task(bench.ask(provider, key="k", validator=validator))
        await asyncio.sleep(0.5)
        await _answered_elsewhere(bench, "k")
        found = await waiting
        assert (found.value, found.cached, found.attempts) == ("theirs", True, 1)
        assert found.cost_usd == provider.cost("m", USAGE) > 0

    run_virtual(main())


@pytest.mark.parametrize(("scope", "looks"), [("", 1), ("r1", 2)])
def test_where_nothing_was_stored_the_cache_is_asked_once_but_for_other_scopes(scope: str, looks: int) -> None:
    async def main() -> None:
        bench, provider, asked = Bench(max_concurrent=1), FakeProvider(), []
        memo = bench.store.memo

        async def noted(key: str) -> object:
            asked.append(key)
            return await memo(key)

        bench.store.memo = noted
        await asyncio.gather(*(bench.ask(provider, node=name, key=name, scope=scope) for name in ("first", "second")))
        assert asked == ["first"] + ["second"] * looks

    run_virtual(main())


@pytest.mark.parametrize("end", ["answered", "failed", "dead"])
def test_a_request_that_another_process_has_sent_is_waited_for_without_a_slot(end: str) -> None:
    async def main() -> None:
        bench, provider = Bench(max_concurrent=1), FakeProvider()
        await bench.open("r1")
        other = Stranger(bench.store.path)
        other.sends("b")
        waiting = asyncio.create_task(bench.ask(provider, node="b", key="b"))
        await asyncio.sleep(5)
        assert provider.sent == []
        assert (await bench.ask(provider, node="c", key="c")).value == "answer"
        if end == "answered":
            await _answered_elsewhere(bench, "b")
        other.dies() if end == "dead" else other.ends()
        ended = asyncio.get_running_loop().time()
        assert (await waiting).value == ("theirs" if end == "answered" else "answer")
        assert len(provider.sent) == (1 if end == "answered" else 2)
        assert asyncio.get_running_loop().time() <= ended + (0.5 if end == "answered" else 1.5)
        assert [attempt.key for attempt in await bench.store.attempts("r1")] == ["c", "b"][: len(provider.sent)]

    run_virtual(main())


def test_one_request_of_another_process_is_not_waited_for_longer_than_a_request_may_take() -> None:
    async def main() -> None:
        bench, provider = Bench(), FakeProvider()
        await bench.open("r1")
        other = Stranger(bench.store.path)
        other.sends("a", "first")
        asking = asyncio.create_task(bench.ask(provider, key="a", retry=RetryPolicy(attempt_timeout=60)))
        await asyncio.sleep(50)
        other.ends("first")
        other.sends("a", "second")
        await asking
        assert 110 <= asyncio.get_running_loop().time() < 113

    run_virtual(main())


@pytest.mark.parametrize("how", [{"join": False}, {"read_memo": False}])
def test_who_wants_an_answer_of_its_own_does_not_wait_for_others(how: dict[str, bool]) -> None:
    async def main() -> None:
        bench, provider = Bench(), FakeProvider()
        await bench.open("r1")
        Stranger(bench.store.path).sends("a")
        assert (await bench.ask(provider, key="a", **how)).value == "answer"
        assert asyncio.get_running_loop().time() < 2

    run_virtual(main())


def test_a_run_that_stops_leaves_the_request_of_another_process() -> None:
    async def main() -> None:
        bench, provider = Bench(max_concurrent=1), FakeProvider()
        await bench.open("r1")
        Stranger(bench.store.path).sends("a")
        asking = asyncio.create_task(bench.ask(provider, key="a"))
        await asyncio.sleep(3)
        bench.token.stop()
        with pytest.raises(CallStopped):
            await asking
        assert provider.sent == []
        assert bench.line.others._waiting == {}

    run_virtual(main())


@pytest.mark.parametrize("will_do", [True, False])
def test_what_another_process_was_answered_after_the_look_is_found_in_the_moment_of_sending(will_do: bool) -> None:
    async def main() -> None:
        bench, provider = Bench(), FakeProvider()
        await bench.open("r1")
        answer = Answer(value="theirs", model="m-2", provider="fake", cost_usd=0.7, truncated=not will_do)
        memo, looks = bench.store.memo, []

        async def look(key: str) -> object:
            found = await memo(key)
            if not looks:
                _store(bench, "a", answer)
            looks.append(key)
            return found

        bench.store.memo = look
        found = await bench.ask(provider, key="a", keep_truncated=False)
        assert (found.value, len(provider.sent)) == (("theirs", 0) if will_do else ("answer", 1))
        assert looks == ["a", "a"]

    run_virtual(main())


def test_what_of_a_batch_was_answered_elsewhere_while_it_waited_is_taken_out() -> None:
    async def main() -> None:
        bench = await TextsBench(max_concurrent=1).open()
        blocking = bench.start("first", wait=0)
        await asyncio.sleep(0.01)
        some, all_of_them = bench.start("a", "b", "c"), bench.start("d", "e", model="other")
        await asyncio.sleep(0.5)
        for key in ("e:a", "e:c", "other:d", "other:e"):
            theirs = Answer(value=[9.0], model="e-2", provider="fake", cost_usd=0.7)
            await bench.store.commit(memo=memo_record(key, theirs, now=bench.clock.now()))
        answers = await asyncio.gather(*blocking, *some, *all_of_them)
        assert bench.sent == [("first",), ("b",)]
        assert [(answer.value, answer.cached) for answer in answers[1:]] == [
            ([9.0], True),
            ([1.0, 1.0], False),
            ([9.0], True),
            ([9.0], True),
            ([9.0], True),
        ]
        assert [answer.cost_usd for answer in answers[3:]] == [0.0, 0.0, 0.0]
        assert len(await bench.store.attempts("r1")) == 2
        assert (await bench.ask("after", wait=0)).cached is False  # the slot is free again

    run_virtual(main())
