"""Calls that other processes have made too."""

from __future__ import annotations

import asyncio

import pytest

from flowllm.calls.executor import DEFER_AT_MOST
from flowllm.calls.stored_answer import memo_record
from flowllm.calls.validation import Validator
from flowllm.core.request import Answer, Completion, OutputFormat
from flowllm.core.types import RetryPolicy, Usage
from tests.support.bench import Bench, TextsBench
from tests.support.calls import FakeProvider
from tests.support.stores import InlineStore
from tests.support.virtual import run_virtual

USAGE = Usage(input_tokens=3, output_tokens=5)
QUICK = RetryPolicy(max_attempts=3, initial_delay=1, jitter=False)


class Shared(InlineStore):
    """One that another process works with too."""

    def __init__(self) -> None:
        super().__init__()
        self.sent_until = 0.0

    async def sent_elsewhere(self, key: str, *, since: float) -> bool:
        return asyncio.get_running_loop().time() < self.sent_until


async def _answered_elsewhere(bench: Bench, key: str) -> None:
    """As by another process: what it pays for comes to be in the memo."""
    answer = Answer(value="theirs", model="m-2", provider="fake", cost_usd=0.7)
    await bench.store.commit(memo=memo_record(key, answer, now=bench.clock.now()))


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


@pytest.mark.parametrize(("others", "scope", "looks"), [(False, "", 1), (True, "", 2), (False, "r1", 2)])
def test_where_no_other_process_writes_the_cache_is_asked_once(others: bool, scope: str, looks: int) -> None:
    async def main() -> None:
        bench, provider, asked = Bench(max_concurrent=1), FakeProvider(), []
        memo = bench.store.memo

        async def noted(key: str) -> object:
            asked.append(key)
            return await memo(key)

        bench.store.memo, bench.store.others_wrote = noted, lambda within: others
        await asyncio.gather(*(bench.ask(provider, node=name, key=name, scope=scope) for name in ("first", "second")))
        assert asked == ["first"] + ["second"] * looks

    run_virtual(main())


@pytest.mark.parametrize("answered", [True, False])
def test_a_request_that_another_process_has_sent_is_waited_for_without_a_slot(answered: bool) -> None:
    async def main() -> None:
        bench, provider = Bench(max_concurrent=1), FakeProvider()
        bench.store = bench.line.store = bench.memo._store = store = Shared()
        store.sent_until = 10.0
        tasks = [asyncio.create_task(bench.ask(provider, node=n, key=n)) for n in ("a", "b")]
        await asyncio.sleep(5)
        assert len(provider.sent) == 1
        other = asyncio.create_task(bench.ask(provider, node="c", key="c"))
        assert (await other).value == "answer"
        if answered:
            await _answered_elsewhere(bench, "b")
        assert (await asyncio.gather(*tasks))[1].value == ("theirs" if answered else "answer")
        assert len(provider.sent) == (2 if answered else 3)
        assert asyncio.get_running_loop().time() < (6.5 if answered else 12)

    run_virtual(main())


def test_another_process_is_not_waited_for_for_ever() -> None:
    async def main() -> None:
        bench, provider = Bench(max_concurrent=1), FakeProvider()
        bench.store = bench.line.store = bench.memo._store = store = Shared()
        store.sent_until = 1e9
        await asyncio.gather(*(bench.ask(provider, node=n, key=n) for n in ("a", "b")))
        assert DEFER_AT_MOST <= asyncio.get_running_loop().time() < DEFER_AT_MOST + 10

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
