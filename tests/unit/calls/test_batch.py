from __future__ import annotations

import asyncio

import pytest

from flowllm.calls.batch_parts import shared_out
from flowllm.core.cancel import CallStopped, CancelToken
from flowllm.core.errors import (
    ContentFiltered,
    RateLimited,
    RequestRejected,
    ServerFailed,
    StorageFailed,
    UnknownModel,
    WrongVectors,
)
from flowllm.core.events import RequestSent
from flowllm.core.request import Embeddings, EmbedRequest
from flowllm.core.types import AttemptStatus, Priority, RetryPolicy
from tests.support.bench import TextsBench
from tests.support.calls import vectors_of
from tests.support.virtual import run_virtual


def refusing(*bad: str, error: Exception | None = None) -> object:
    def script(request: EmbedRequest) -> Embeddings:
        if set(bad) & set(request.texts):
            raise error or RequestRejected("no", status=400)
        return vectors_of(request)

    return script


def named(count: int) -> list[str]:
    return [f"text-{number:04}" for number in range(count)]


def test_a_thousand_texts_are_ten_requests_and_the_same_again_none() -> None:
    async def main() -> None:
        bench = await TextsBench(max_concurrent=20).open()
        answers = await asyncio.gather(*bench.start(*named(1000)))
        assert [len(texts) for texts in bench.sent] == [100] * 10
        assert {answer.value[1] for answer in answers} == {100.0}
        again = await asyncio.gather(*bench.start(*named(1000)))
        assert all(answer.cached for answer in again)
        assert len(bench.sent) == 10

    run_virtual(main())


def test_a_batch_goes_when_its_first_text_has_waited_long_enough() -> None:
    async def main() -> None:
        bench = await TextsBench().open()
        first = bench.start("a")
        await asyncio.sleep(0.03)
        second = bench.start("b")
        await asyncio.sleep(0.03)
        third = bench.start("c")
        await asyncio.gather(*first, *second, *third)
        assert bench.sent == [("a", "b"), ("c",)]
        assert [at for at, _ in bench.provider.sent] == pytest.approx([0.05, 0.11])

    run_virtual(main())


def test_the_most_impatient_text_decides_and_so_does_the_smallest_size() -> None:
    async def main() -> None:
        bench = await TextsBench().open()
        await asyncio.gather(*bench.start("a", wait=10), *bench.start("b", wait=1))
        assert bench.provider.sent[0][0] == pytest.approx(1)
        await asyncio.gather(*bench.start("c", "d", wait=10), *bench.start("e", size=3, wait=10))
        assert bench.sent == [("a", "b"), ("c", "d", "e")]
        assert bench.provider.sent[1][0] == pytest.approx(2)

    run_virtual(main())


def test_only_what_one_request_can_carry_shares_one() -> None:
    async def main() -> None:
        bench = await TextsBench("r1", "r2").open()
        await asyncio.gather(
            *bench.start("a"),
            *bench.start("b", run="r2"),
            *bench.start("c", model="other"),
            *bench.start("d", retry=RetryPolicy(max_attempts=1)),
            *bench.start("e", timeout=5.0),
        )
        assert sorted(bench.sent) == [("a", "b"), ("c",), ("d",), ("e",)]

    run_virtual(main())


def test_a_batch_is_bounded_by_tokens_too() -> None:
    async def main() -> None:
        bench = await TextsBench().open()
        long = [f"{letter}" * 300_000 for letter in "abcde"]  # 100,000 tokens each
        await asyncio.gather(*bench.start(*long))
        assert [len(texts) for texts in bench.sent] == [2, 2, 1]

    run_virtual(main())


def test_one_attempt_is_on_record_for_all_and_tokens_and_cost_are_shared_out() -> None:
    async def main() -> None:
        bench = await TextsBench().open()
        texts = ["x" * length for length in (1, 2, 3, 50, 7)]
        answers = await asyncio.gather(*bench.start(*texts))
        (attempt,) = await bench.store.attempts("r1")
        assert (attempt.status, attempt.node_id, attempt.usage.input_tokens) == (AttemptStatus.SUCCEEDED, "x", 63)
        assert sum(answer.usage.input_tokens for answer in answers) == 63
        assert answers[3].usage.input_tokens > 30
        assert sum(answer.cost_usd for answer in answers) == pytest.approx(attempt.cost_usd)
        assert len({answer.batch for answer in answers}) == 1
        assert {node.output[0] for node in await bench.store.nodes("r1")} == {1.0, 2.0, 3.0, 50.0, 7.0}

    run_virtual(main())


def test_one_bad_text_fails_alone() -> None:
    async def main() -> None:
        bench = await TextsBench().open()
        texts = named(64)
        bench.provider.script = [refusing("text-0037")] * 100
        outcomes = await asyncio.gather(*bench.start(*texts), return_exceptions=True)
        failed = [text for text, one in zip(texts, outcomes, strict=True) if isinstance(one, Exception)]
        assert failed == ["text-0037"]
        assert isinstance(outcomes[37], RequestRejected)
        assert len(bench.sent) == 1 + 2 * 6  # two halves for each of log2(64) levels

    run_virtual(main())


@pytest.mark.parametrize(
    ("error", "most"),
    [
        (ServerFailed("input (992 tokens) is too large to process", status=500), 25),
        (ServerFailed("illegal address", status=424), 25),
        (ContentFiltered("no", status=400), 13),
        (RequestRejected("no", status=424), 13),
    ],
)
def test_one_bad_text_fails_alone_whatever_the_server_says(error: Exception, most: int) -> None:
    async def main() -> None:
        bench = await TextsBench().open()
        bench.provider.script = [refusing("text-0037", error=error)] * 200
        outcomes = await asyncio.gather(*bench.start(*named(64)), return_exceptions=True)
        assert [at for at, one in enumerate(outcomes) if isinstance(one, Exception)] == [37]
        assert len(bench.sent) <= most

    run_virtual(main())


def test_a_refusal_that_no_text_causes_is_asked_a_few_times_only() -> None:
    async def main() -> None:
        bench = await TextsBench(max_concurrent=20).open()
        texts = named(300)
        bench.provider.script = [refusing(*texts, error=RequestRejected("no encoding_format", status=400))] * 700
        outcomes = await asyncio.gather(*bench.start(*texts), return_exceptions=True)
        assert all(isinstance(one, RequestRejected) for one in outcomes)
        assert len(bench.sent) <= 3 + 2 + 5  # three batches, two halves of one of them, a few texts of it
        before = len(bench.sent)
        await asyncio.gather(*bench.start(*(f"other {text}" for text in texts[:100])))
        assert len(bench.sent) == before + 1

    run_virtual(main())


def test_texts_of_which_every_other_is_bad_are_told_apart() -> None:
    async def main() -> None:
        bench = await TextsBench().open()
        texts = named(64)
        too_long = [text + " and so on" * 9 for text in texts[::2]]
        bench.provider.script = [refusing(*too_long, error=RequestRejected("too long: 99", status=400))] * 200
        outcomes = await asyncio.gather(*bench.start(*too_long, *texts[1::2]), return_exceptions=True)
        assert [isinstance(one, Exception) for one in outcomes] == [True] * 32 + [False] * 32

    run_virtual(main())


def test_a_provider_in_trouble_is_not_asked_for_every_text() -> None:
    async def main() -> None:
        bench = await TextsBench().open()
        bench.provider.script = [ServerFailed("broken", status=503)] * 400
        outcomes = await asyncio.gather(
            *bench.start(*named(100), retry=RetryPolicy(max_attempts=2)), return_exceptions=True
        )
        assert all(isinstance(one, Exception) for one in outcomes)
        assert len(bench.sent) <= 30

    run_virtual(main())


def test_vectors_that_do_not_fit_divide_a_batch_too() -> None:
    async def main() -> None:
        bench = await TextsBench().open()
        bench.provider.script = [refusing("b", error=WrongVectors("too few", status=200))] * 10
        a, b, c, d = await asyncio.gather(*bench.start("a", "b", "c", "d"), return_exceptions=True)
        assert isinstance(b, WrongVectors)
        assert [one.value[0] for one in (a, c, d)] == [1.0, 1.0, 1.0]
        # more than one text is not sent again as it was, a single one is, as often as its policy says
        assert [bench.sent.count(texts) for texts in (("a", "b"), ("b",), ("c", "d"))] == [1, 5, 1]

    run_virtual(main())


def test_an_unknown_model_fails_all_at_once() -> None:
    async def main() -> None:
        bench = await TextsBench().open()
        bench.provider.script = [UnknownModel("no such model", status=404)]
        outcomes = await asyncio.gather(*bench.start(*named(10)), return_exceptions=True)
        assert all(isinstance(outcome, UnknownModel) for outcome in outcomes)
        assert len(bench.sent) == 1

    run_virtual(main())


def test_a_batch_is_retried_whole_as_a_chat_call_is() -> None:
    async def main() -> None:
        bench = await TextsBench().open()
        bench.provider.script = [RateLimited("slow", retry_after=3), ServerFailed("broken", status=500)]
        answers = await asyncio.gather(*bench.start("a", "bb"))
        assert [answer.attempts for answer in answers] == [3, 3]
        assert bench.sent == [("a", "bb")] * 3
        statuses = [attempt.status for attempt in await bench.store.attempts("r1")]
        assert statuses == [AttemptStatus.FAILED, AttemptStatus.FAILED, AttemptStatus.SUCCEEDED]

    run_virtual(main())


def test_who_waits_to_be_gathered_holds_no_slot() -> None:
    async def main() -> None:
        bench = await TextsBench(max_concurrent=1).open()
        waiting = bench.start("a", wait=100)
        await asyncio.sleep(1)
        assert (await bench.ask("b", model="other", wait=0)).value == [1.0, 1.0]
        assert not waiting[0].done()
        await waiting[0]

    run_virtual(main())


def test_a_text_that_nobody_waits_for_any_more_is_taken_out() -> None:
    async def main() -> None:
        bench = await TextsBench(max_concurrent=1).open()
        blocking = bench.start("first", wait=0)
        await asyncio.sleep(0.01)
        gathering = bench.start("a", "b", "c")
        await asyncio.sleep(0.01)
        gathering[0].cancel()  # while it gathers
        await asyncio.sleep(0.2)
        gathering[1].cancel()  # while the batch waits for a slot
        answer = await gathering[2]
        await asyncio.gather(*blocking)
        assert bench.sent == [("first",), ("c",)]
        assert answer.value == [1.0, 1.0]

    run_virtual(main())


def test_a_batch_that_nobody_waits_for_is_not_sent() -> None:
    async def main() -> None:
        bench = await TextsBench(max_concurrent=1).open()
        blocking = bench.start("first", wait=0)
        await asyncio.sleep(0.01)
        leaving = bench.start("a", "b") + bench.start("c", wait=50, model="other")
        await asyncio.sleep(0.2)
        for task in leaving:
            task.cancel()
        await asyncio.gather(*blocking, *leaving, return_exceptions=True)
        await bench.calls.drain()
        await bench.ask("d", wait=0)
        assert bench.sent == [("first",), ("d",)]
        assert all(attempt.status is AttemptStatus.SUCCEEDED for attempt in await bench.store.attempts("r1"))

    run_virtual(main())


def test_an_answer_that_is_paid_for_is_kept_also_for_one_who_left() -> None:
    async def main() -> None:
        bench = await TextsBench().open()
        stays, leaves = bench.start("a", "b")
        await asyncio.sleep(0.5)  # it is on the wire
        leaves.cancel()
        await stays
        assert (await bench.ask("b")).cached
        assert len(bench.sent) == 1

    run_virtual(main())


def test_a_run_that_stops_leaves_and_the_next_one_pays() -> None:
    async def main() -> None:
        bench, tokens = await TextsBench("r1", "r2", max_concurrent=1).open(), [CancelToken(), CancelToken()]
        blocking = bench.start("first", wait=0)
        await asyncio.sleep(0.01)
        one, two = bench.start("a", token=tokens[0]) + bench.start("b", run="r2", token=tokens[1])
        await asyncio.sleep(0.2)
        tokens[0].stop()
        with pytest.raises(CallStopped):
            await one
        await two
        await asyncio.gather(*blocking)
        assert bench.sent[1:] == [("b",)]
        assert [attempt.node_id for attempt in await bench.store.attempts("r2")] == ["b"]

    run_virtual(main())


def test_what_is_on_the_wire_when_its_run_stops_may_finish() -> None:
    async def main() -> None:
        bench = await TextsBench().open()
        tasks = bench.start("a", "b")
        await asyncio.sleep(0.5)
        bench.token.stop()
        answers = await asyncio.gather(*tasks)
        assert [answer.value[0] for answer in answers] == [1.0, 1.0]
        assert len(await bench.store.nodes("r1")) == 2

    run_virtual(main())


def test_nobody_sees_an_answer_that_could_not_be_kept() -> None:
    async def main() -> None:
        bench = await TextsBench().open()

        async def full(**_: object) -> None:
            raise StorageFailed("the disk is full")

        bench.store.commit = full
        outcomes = await asyncio.gather(*bench.start("a", "b"), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [StorageFailed, StorageFailed]

    run_virtual(main())


def test_the_most_urgent_of_a_batch_decides_when_it_goes() -> None:
    async def main() -> None:
        bench = await TextsBench(max_concurrent=1).open()
        blocking = bench.start("first", wait=0)
        await asyncio.sleep(0.01)
        normal = bench.start("n", wait=0.02, model="m")
        await asyncio.sleep(0.1)
        mixed = bench.start("l", priority=Priority.LOW) + bench.start("h", priority=Priority.HIGH)
        await asyncio.gather(*blocking, *normal, *mixed)
        assert bench.sent == [("first",), ("l", "h"), ("n",)]

    run_virtual(main())


def test_missed_is_told_once_nothing_stored_will_do_and_by_who_joins() -> None:
    async def main() -> None:
        bench, told = await TextsBench().open(), []
        asks = [bench.start("a", missed=lambda who=who: told.append(who))[0] for who in ("leads", "joins")]
        await asyncio.gather(*asks)
        await bench.ask("a", missed=lambda: told.append("cached"))
        assert sorted(told) == ["joins", "leads"]
        assert len([event for event in bench.log if isinstance(event, RequestSent)]) == 1

    run_virtual(main())


@pytest.mark.parametrize(("total", "weights"), [(0, [1, 2]), (7, [1] * 10), (100, [3, 5, 7]), (1, [10**6, 1])])
def test_shares_add_up_and_are_off_by_less_than_one(total: int, weights: list[int]) -> None:
    shares = shared_out(total, weights)
    assert sum(shares) == total
    assert all(abs(s - total * w / sum(weights)) < 1 for s, w in zip(shares, weights, strict=True))
