from __future__ import annotations

import asyncio
import json

import pytest

from flowllm.calls.validation import Validator
from flowllm.core.cancel import CallStopped
from flowllm.core.errors import (
    AttemptTimedOut,
    ConnectionFailed,
    InvalidAnswer,
    NodeTimedOut,
    ProviderDown,
    RateLimited,
    RequestRejected,
    ServerFailed,
    StorageFailed,
    TruncatedAnswer,
    Unauthorized,
)
from flowllm.core.events import NodeRetrying, Notice, RequestEnded, RequestSent
from flowllm.core.request import Completion, OutputFormat
from flowllm.core.types import AttemptStatus, RetryPolicy, RunStatus, Usage
from flowllm.storage.base import Owner, RunRecord
from tests.support.bench import Bench
from tests.support.calls import FakeProvider, caller, make_call
from tests.support.owners import orphan
from tests.support.virtual import run_virtual

USAGE = Usage(input_tokens=3, output_tokens=5)
QUICK = RetryPolicy(max_attempts=3, initial_delay=1, jitter=False)


def test_the_attempt_is_on_record_before_the_request_is_sent_and_settled_with_the_node() -> None:
    async def main() -> None:
        bench, seen = Bench(), []

        class Watching(FakeProvider):
            async def complete(self, request: object, *, timeout: float) -> Completion:
                seen.extend(await bench.store.attempts("r1"))
                return await super().complete(request, timeout=timeout)

        answer = await bench.ask(Watching("hello"))
        assert [attempt.status for attempt in seen] == [AttemptStatus.SENT]
        attempts = await bench.store.attempts("r1")
        assert [(a.status, a.cost_usd, a.usage.output_tokens) for a in attempts] == [
            (AttemptStatus.SUCCEEDED, 0.005, 5)
        ]
        assert [node.output for node in await bench.store.nodes("r1")] == ["hello"]
        assert (answer.value, answer.model, answer.attempts, answer.call_s) == ("hello", "m-2", 1, 1.0)

    run_virtual(main())


def test_the_same_again_comes_from_the_memo_without_a_slot() -> None:
    """A cached step must not wait for a slot."""

    async def main() -> None:
        bench, provider = Bench(max_concurrent=1), FakeProvider(latency=100)
        await bench.ask(provider)
        busy = asyncio.create_task(bench.ask(provider, "b", key="other" * 10))
        await asyncio.sleep(1)
        again = await asyncio.wait_for(bench.ask(provider, "c"), 5)
        assert again.cached
        assert (again.attempts, again.value, again.usage.output_tokens) == (0, "answer", 5)
        busy.cancel()
        assert len(provider.sent) == 2

    run_virtual(main())


def test_an_answer_that_is_too_old_or_unwanted_is_asked_anew() -> None:
    async def main() -> None:
        bench, provider = Bench(), FakeProvider()
        await bench.ask(provider)
        await bench.ask(provider, ttl=60)
        assert len(provider.sent) == 1
        await asyncio.sleep(100)
        await bench.ask(provider, ttl=60)
        assert len(provider.sent) == 2
        await bench.ask(provider, read_memo=False)
        assert len(provider.sent) == 3

    run_virtual(main())


def test_retries_back_off_without_a_slot_and_go_through_the_queue() -> None:
    async def main() -> None:
        bench = Bench(max_concurrent=1)
        shaky, other = FakeProvider(ServerFailed("500")), FakeProvider()
        first = asyncio.create_task(bench.ask(shaky, retry=QUICK))
        await asyncio.sleep(0)
        second = asyncio.create_task(bench.ask(other, "b", key="b" * 64))
        await asyncio.gather(first, second)
        assert [at for at, _ in shaky.sent] == [0, 2]
        assert [at for at, _ in other.sent] == [1], "the wait for a retry held the only slot"
        attempts = await bench.store.attempts("r1", "a")
        assert [attempt.status for attempt in attempts] == [AttemptStatus.FAILED, AttemptStatus.SUCCEEDED]
        assert [e.delay_s for e in bench.log if isinstance(e, NodeRetrying)] == [1]

    run_virtual(main())


def test_a_429_pauses_the_whole_account_even_those_already_admitted() -> None:
    async def main() -> None:
        bench = Bench(max_concurrent=9)
        limited, other = FakeProvider(RateLimited("429", retry_after=30)), FakeProvider()
        begin = bench.store.begin_attempt

        async def slow(*row: object, **how: object) -> None:
            await asyncio.sleep(0.5)
            await begin(*row, **how)

        bench.store.begin_attempt = slow
        first = asyncio.create_task(bench.ask(limited, retry=QUICK))
        await asyncio.sleep(1.2)  # admitted at 1.2, recorded at 1.7, and the 429 comes at 1.5
        await asyncio.gather(first, bench.ask(other, "b", key="b" * 64))
        assert [at for at, _ in other.sent] == [31.5]
        assert limited.sent[1][0] >= 31.5

    run_virtual(main())


@pytest.mark.parametrize("error", [RateLimited("429", retry_after=50), ServerFailed("503", retry_after=50)])
def test_what_a_server_asks_to_wait_does_not_count_against_the_timeout(error: ServerFailed) -> None:
    async def main() -> None:
        bench, provider = Bench(), FakeProvider(error)
        answer = await bench.ask(provider, retry=QUICK, timeout=4.0)
        assert answer.value == "answer"
        assert [at for at, _ in provider.sent] == [0, 52], "a second of its own backoff on top"
        with pytest.raises(NodeTimedOut):
            await bench.ask(FakeProvider(*[ServerFailed("503")] * 9), key="b" * 64, retry=QUICK, timeout=2.5)

    run_virtual(main())


def test_an_end_that_nobody_knows_is_marked_and_told_once_and_not_stored_for_others() -> None:
    async def main() -> None:
        bench = Bench()
        odd = [Completion(text="half", model="m", finish_reason="odd") for _ in range(3)]
        for node in "abc":
            answer = await bench.ask(FakeProvider(odd.pop()), node)
            assert (answer.value, answer.truncated, answer.cached) == ("half", True, False)
        assert ["'odd'" in event.message for event in bench.log if isinstance(event, Notice)] == [True]
        with pytest.raises(TruncatedAnswer, match="may be cut: it ended with 'odd'"):
            await bench.ask(FakeProvider(Completion(text="half", model="m", finish_reason="odd")), keep_truncated=False)
        checked = Validator(OutputFormat(schema={"type": "array"}))
        valid = FakeProvider(Completion(text="[1]", model="m", finish_reason="odd"))
        assert (await bench.ask(valid, validator=checked)).value == [1]
        assert (await bench.ask(FakeProvider("whole"))).cached is False

    run_virtual(main())


def test_a_401_after_answers_is_seen_twice_before_it_is_believed() -> None:
    async def main() -> None:
        bench, key = Bench(), Unauthorized("401", status=401)
        await bench.ask(FakeProvider(), retry=QUICK)
        assert (await bench.ask(FakeProvider(key), key="b" * 64, retry=QUICK)).attempts == 2
        with pytest.raises(ProviderDown):
            await bench.ask(FakeProvider(key, key), key="c" * 64, retry=QUICK)

    run_virtual(main())


def test_json_that_the_server_refused_is_asked_for_again() -> None:
    async def main() -> None:
        refused = InvalidAnswer("the server says: not JSON", answer='{"a": one}')
        bench, provider = Bench(), FakeProvider(refused, "[1]")
        checked = Validator(OutputFormat(schema={"type": "array"}))
        assert (await bench.ask(provider, validator=checked)).value == [1]
        said, asked = provider.sent[1][1].messages[-2:]
        assert said == {"role": "assistant", "content": '{"a": one}'}
        assert "the server says: not JSON" in asked["content"]

    run_virtual(main())


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (AttemptTimedOut("late"), AttemptStatus.UNKNOWN),
        (ConnectionFailed("reset", reason="reset"), AttemptStatus.UNKNOWN),
        (ConnectionFailed("no answer", reason=""), AttemptStatus.FAILED),
        (TruncatedAnswer("cut before its first word"), AttemptStatus.FAILED),
        (RequestRejected("400", status=400), AttemptStatus.FAILED),
    ],
)
def test_what_may_have_been_paid_for_is_recorded_as_unknown(error: Exception, status: AttemptStatus) -> None:
    async def main() -> None:
        bench = Bench()
        with pytest.raises(type(error)):
            await bench.ask(FakeProvider(error), retry=RetryPolicy(max_attempts=1))
        (attempt,) = await bench.store.attempts("r1")
        assert (attempt.status, attempt.error["type"]) == (status, type(error).__name__)
        assert await bench.store.memo("k" * 64) is None

    run_virtual(main())


def test_the_timeout_counts_calls_and_backoff_but_not_the_queue() -> None:
    async def main() -> None:
        bench = Bench(max_concurrent=1)
        slow, shaky = FakeProvider(latency=500), FakeProvider(*[ServerFailed("500")] * 9)
        busy = asyncio.create_task(bench.ask(slow))
        await asyncio.sleep(0)
        policy = RetryPolicy(max_attempts=99, initial_delay=1, jitter=False)
        with pytest.raises(NodeTimedOut, match="would pass the step's timeout of 10 s"):
            await bench.ask(shaky, "b", key="b" * 64, timeout=10.0, retry=policy)
        # Calls of 1 s at 500, 502, 505 after waits of 1 and 2; a wait of 4 and the call would fit, 8 would not.
        assert [at for at, _ in shaky.sent] == [500, 502, 505]
        await busy

    run_virtual(main())


def test_an_answer_asked_again_is_stored_under_the_first_requests_key() -> None:
    async def main() -> None:
        bench, provider = Bench(), FakeProvider("nonsense", "[1]")
        numbers = Validator(OutputFormat(schema={"type": "array"}))
        answer = await bench.ask(provider, validator=numbers)
        assert (answer.value, answer.attempts, answer.usage.output_tokens) == ([1], 2, 10)
        assert (await bench.store.memo("k" * 64)).answer["value"] == [1]
        assert len(await bench.store.attempts("r1")) == 2

    run_virtual(main())


def test_how_long_an_attempt_took_is_its_time_on_the_wire() -> None:
    async def main() -> None:
        bench = Bench()
        begin = bench.store.begin_attempt

        async def slow(*row: object, **how: object) -> None:
            await begin(*row, **how)
            await asyncio.sleep(5)

        bench.store.begin_attempt = slow
        answer = await bench.ask(FakeProvider(latency=2.0))
        (attempt,) = await bench.store.attempts("r1")
        assert attempt.finished_at - attempt.started_at == pytest.approx(answer.call_s) == 2.0

    run_virtual(main())


def test_a_stop_before_the_wire_sends_nothing_and_says_so_in_the_record() -> None:
    async def main() -> None:
        bench, provider = Bench(), FakeProvider()
        begin = bench.store.begin_attempt

        async def slow(*row: object, **how: object) -> None:
            await begin(*row, **how)
            await asyncio.sleep(5)

        bench.store.begin_attempt = slow
        task = asyncio.create_task(bench.ask(provider))
        await asyncio.sleep(1)
        bench.token.stop()
        with pytest.raises(CallStopped):
            await task
        await bench.calls.drain()
        assert provider.sent == []
        (attempt,) = await bench.store.attempts("r1")
        assert (attempt.status, attempt.error["type"]) == (AttemptStatus.NOT_SENT, "NotSent")

    run_virtual(main())


def test_a_stop_lets_what_is_on_the_wire_finish_and_a_cancel_records_it_as_unknown() -> None:
    async def main(*, cancel: bool) -> object:
        bench = Bench()
        task = asyncio.create_task(bench.ask(FakeProvider(latency=10)))
        await asyncio.sleep(1)
        bench.token.stop()
        if cancel:
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await bench.calls.drain()
        (attempt,) = await bench.store.attempts("r1")
        return attempt.status

    assert run_virtual(main(cancel=False)) is AttemptStatus.SUCCEEDED
    assert run_virtual(main(cancel=True)) is AttemptStatus.UNKNOWN


@pytest.mark.parametrize("entry", [ServerFailed("500", status=500), "answer"])
def test_a_request_whose_outcome_is_being_written_when_it_is_cancelled_is_told_as_ended(entry: object) -> None:
    async def main() -> None:
        bench = Bench()
        commit = bench.store.commit

        async def slow(**how: object) -> None:
            await commit(**how)
            await asyncio.sleep(5)

        bench.store.commit = slow
        task = asyncio.create_task(bench.ask(FakeProvider(entry)))
        await asyncio.sleep(3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await bench.calls.drain()
        (event,) = (one for one in bench.log if isinstance(one, RequestEnded))
        assert (event.call_s, event.error is None) == (1.0, entry == "answer")

    run_virtual(main())


def test_a_slots_next_request_goes_only_after_the_commit_and_a_full_disk_goes_to_all() -> None:
    async def main() -> None:
        bench, provider = Bench(max_concurrent=1), FakeProvider()
        commit, begin, durable, turn = bench.store.commit, bench.store.begin_attempt, list[float](), asyncio.Lock()

        async def slow(**rows: object) -> None:
            async with turn:
                await asyncio.sleep(3)
                await commit(**rows)
                durable.append(bench.clock.monotonic())

        async def in_turn(*row: object, **how: object) -> None:
            async with turn:
                await begin(*row, **how)

        bench.store.commit, bench.store.begin_attempt = slow, in_turn
        await asyncio.gather(*(bench.ask(provider, node, key=node * 64) for node in "abc"))
        assert [at for at, _ in provider.sent] == [0, 4, 8]
        assert durable == [4, 8, 12]

        async def full(**rows: object) -> None:
            raise StorageFailed("disk full")

        bench.store.commit = full
        outcomes = await asyncio.gather(
            *(bench.ask(provider, node, key="c" * 64) for node in "xyz"), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [StorageFailed] * 3

    run_virtual(main())


def test_an_answer_with_a_secret_in_it_is_masked_and_is_no_ones_but_that_runs() -> None:
    async def main() -> None:
        bench, provider = Bench(secrets=("sk-canary",)), FakeProvider("your key is sk-canary.", "and again")
        await bench.ask(provider)
        (node,) = await bench.store.nodes("r1")
        assert node.output == "your key is ***."
        assert await bench.store.memo("k" * 64) is None
        assert "sk-canary" not in bench.store.text
        bench.secrets = ()
        assert (await bench.ask(provider, "b")).value == "and again"

    run_virtual(main())


def test_runs_that_share_a_call_mask_each_its_own_secrets() -> None:
    async def main() -> None:
        bench, provider = Bench(secrets=("word-of-one",)), FakeProvider("word-of-one, word-of-two")
        first = asyncio.create_task(bench.ask(provider))
        await asyncio.sleep(0.1)
        bench.secrets = ("word-of-two",)
        await asyncio.gather(first, bench.ask(provider, "b"))
        outputs = [node.output for node in await bench.store.nodes("r1")]
        assert outputs == ["***, word-of-two", "word-of-one, ***"]
        assert await bench.store.memo("k" * 64) is None

    run_virtual(main())


def test_an_invalid_answer_with_a_secret_in_it_is_not_quoted() -> None:
    async def main() -> None:
        bench = Bench(secrets=("sk-canary-1234567890",))
        check = Validator(OutputFormat(schema={"type": "array"}))
        cut_within = json.dumps({"x" * 285: "sk-canary-1234567890"})
        provider = FakeProvider(*[cut_within] * 3)
        with pytest.raises(InvalidAnswer) as caught:
            await bench.ask(provider, validator=check)
        assert "canary" not in caught.value.message
        assert "canary" not in repr(bench.log) + bench.store.text

    run_virtual(main())


def test_events_tell_each_request_with_its_time_in_the_queue() -> None:
    async def main() -> None:
        bench, provider = Bench(max_concurrent=1), FakeProvider(latency=2)
        await asyncio.gather(bench.ask(provider), bench.ask(provider, "b", key="b" * 64))
        assert [(e.node_id, e.queue_s) for e in bench.log if isinstance(e, RequestSent)] == [("a", 0), ("b", 2)]
        assert [(e.node_id, e.call_s) for e in bench.log if isinstance(e, RequestEnded)] == [("a", 2), ("b", 2)]

    run_virtual(main())


def test_a_payer_that_was_taken_over_does_not_cost_the_others_their_answer() -> None:
    async def main() -> None:
        bench, provider = Bench(), FakeProvider(latency=10)
        payer = asyncio.create_task(bench.ask(provider))
        await asyncio.sleep(1)
        await bench.store.create_run(
            RunRecord(
                run_id="r2",
                workflow="w",
                path="",
                status=RunStatus.RUNNING,
                started_at=0,
                owner=Owner(pid=1, host="h", since=0),
            )
        )
        other = asyncio.create_task(bench.calls.answer(make_call(provider, caller(run="r2", node="b"))))
        await asyncio.sleep(1)
        payer.cancel()
        orphan(bench.store.path, "r1")
        await bench.store.claim_run("r1", Owner(pid=2, host="h", since=0))
        assert (await other).value == "answer"
        assert [node.node_id for node in await bench.store.nodes("r2")] == ["b"]
        assert await bench.store.nodes("r1") == []
        (attempt,) = await bench.store.attempts("r1")
        assert attempt.status is AttemptStatus.UNKNOWN

    run_virtual(main())
