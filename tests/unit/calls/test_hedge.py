"""Second attempts of calls that take too long: the first answer counts, and all is on record."""

from __future__ import annotations

import asyncio
import math

import pytest

from flowllm.calls.budget import RunBudget
from flowllm.core.errors import AttemptTimedOut, RateLimited, RequestRejected, ServerFailed
from flowllm.core.events import RequestEnded, RequestSent
from flowllm.core.request import ChatRequest, Completion, Embeddings, EmbedRequest
from flowllm.core.types import AttemptStatus, Budget, RetryPolicy, Usage
from flowllm.limits.adaptive import Departure
from flowllm.providers.simulated.provider import SimulatedConfig, SimulatedProvider
from flowllm.storage.base import AttemptRecord, RunLease
from tests.support.bench import Bench, TextsBench
from tests.support.calls import FakeProvider
from tests.support.rates import Recorder
from tests.support.virtual import run_virtual

HANG = 300.0
SUCCEEDED, UNKNOWN, FAILED = AttemptStatus.SUCCEEDED, AttemptStatus.UNKNOWN, AttemptStatus.FAILED


def policy(hedge: float | None = 5.0, **how: object) -> RetryPolicy:
    return RetryPolicy(**{"hedge": hedge, "max_attempts": 1, "jitter": False, **how})


REQUEST_OF_ANOTHER = ChatRequest(model="m2", messages=({"role": "user", "content": "Hi"},))
TEN = Usage(output_tokens=10)


class Slow(FakeProvider):
    """Each request takes as long as the script says, and then answers or fails as it says."""

    def __init__(self, *script: tuple[float, object]) -> None:
        super().__init__()
        self.times = list(script)
        self.cancelled: list[float] = []

    async def complete(self, request: ChatRequest, *, timeout: float) -> Completion:
        self.sent.append((asyncio.get_running_loop().time(), request))
        seconds, entry = self.times.pop(0) if self.times else (1.0, "answer")
        try:
            await asyncio.sleep(min(seconds, timeout))
        except asyncio.CancelledError:
            self.cancelled.append(asyncio.get_running_loop().time())
            raise
        if seconds > timeout:
            raise AttemptTimedOut("late")
        if isinstance(entry, Exception):
            raise entry
        return Completion(text=str(entry), model="m-2", usage=Usage(input_tokens=3, output_tokens=5))

    @property
    def times_sent(self) -> list[float]:
        return [at for at, _ in self.sent]


class SlowTexts(FakeProvider):
    """Requests for vectors that take so long, one after the other."""

    def __init__(self, *times: float) -> None:
        super().__init__()
        self.times = list(times)

    async def embed(self, request: EmbedRequest, *, timeout: float) -> Embeddings:
        self.latency = self.times.pop(0)
        return await super().embed(request, timeout=timeout)


async def rows(bench: Bench) -> list[tuple]:
    return [
        (row.number, row.status, (row.error or {}).get("type"), row.cost_usd)
        for row in await bench.store.attempts("r1")
    ]


def test_the_second_answers_first_and_the_first_is_cut_off_and_on_record() -> None:
    async def main() -> None:
        bench, provider = Bench(max_concurrent=2), Slow((HANG, "never"), (1, "second"))
        answer = await bench.ask(provider, retry=policy(), expected=TEN)
        assert (answer.value, answer.attempts, answer.call_s, answer.cost_usd) == ("second", 2, 6.0, None)
        assert (provider.times_sent, provider.cancelled) == ([0, 5], [6])
        assert await rows(bench) == [(1, UNKNOWN, "Abandoned", None), (2, SUCCEEDED, None, 0.005)]
        sent = [(event.attempt, event.hedge) for event in bench.log if isinstance(event, RequestSent)]
        ended = [(event.attempt, event.call_s) for event in bench.log if isinstance(event, RequestEnded)]
        assert (sent, ended) == ([(1, False), (2, True)], [(1, 6.0), (2, 1.0)])
        assert bench.limiter.gauges()[provider.account].in_flight == 0
        again = await bench.ask(provider, "b", retry=policy())
        assert (again.cached, again.value) == (True, "second")

    run_virtual(main())


def test_another_process_knows_from_the_record_how_long_a_model_takes() -> None:
    async def main() -> None:
        bench, read = Bench(), []
        latencies = bench.store.latencies

        async def counted(like: AttemptRecord) -> list[float]:
            read.append(like.node_id)
            return await latencies(like)

        bench.store.latencies = counted
        for number in range(25):
            await bench.ask(Slow((4, "quick")), f"n{number}", key=str(number) * 64, retry=policy(None))
        assert read == ["n0"], "each takes long, and one look tells that nothing is known"
        later = Bench(store=bench.store)
        provider, began = (
            Slow((HANG, "never"), (1, "second"), (HANG, "never"), (HANG, "never")),
            later.clock.monotonic(),
        )
        answer = await later.ask(provider, "a", key="a" * 64, retry=policy(None))
        assert (answer.value, [at - began for at in provider.times_sent], read) == ("second", [0, 8], ["n0", "a"])
        off, other = policy(math.inf), REQUEST_OF_ANOTHER
        await asyncio.gather(
            later.ask(provider, "b", key="b" * 64, retry=off), later.ask(provider, "c", key="c" * 64, request=other)
        )
        assert (len(provider.times_sent), read) == (4, ["n0", "a", "c"]), "of another model nothing is on record"

    run_virtual(main())


def test_the_answer_to_a_second_attempt_releases_those_that_follow_the_first() -> None:
    async def main() -> None:
        bench, provider = Bench(max_concurrent=4, prefix_cache="on"), Slow((HANG, "never"), (1, "second"))
        requests = [
            ChatRequest(model="m", messages=({"role": "user", "content": "x" * 8000 + name},)) for name in "abc"
        ]
        async with asyncio.TaskGroup() as group:
            for name, request in zip("abc", requests, strict=True):
                group.create_task(bench.ask(provider, name, retry=policy(), request=request, key=name * 64))
                await asyncio.sleep(0)
        assert provider.times_sent == [0, 5, 6, 6]

    run_virtual(main())


def test_the_first_answers_after_all_and_the_second_is_abandoned() -> None:
    async def main() -> None:
        bench, provider = Bench(), Slow((7, "first"), (HANG, "never"))
        answer = await bench.ask(provider, retry=policy(), expected=TEN)
        assert (answer.value, answer.call_s, bench.clock.monotonic()) == ("first", 7.0, 7.0)
        assert await rows(bench) == [(1, SUCCEEDED, None, 0.005), (2, UNKNOWN, "Abandoned", None)]

    run_virtual(main())


@pytest.mark.parametrize(
    ("script", "value", "found"),
    [
        ([(6, ServerFailed("500")), (9, "second")], "second", [FAILED, SUCCEEDED]),
        ([(20, "first"), (1, ServerFailed("500"))], "first", [SUCCEEDED, FAILED]),
        ([(20, "first"), (1, RateLimited("429", retry_after=2))], "first", [SUCCEEDED, FAILED]),
        ([(6, RequestRejected("400", status=400)), (9, "second")], "second", [FAILED, SUCCEEDED]),
        ([(6, ServerFailed("500")), (9, ServerFailed("500")), (1, "third")], "third", [FAILED, FAILED, SUCCEEDED]),
    ],
)
def test_where_one_fails_the_other_is_waited_for(script: list, value: str, found: list) -> None:
    async def main() -> None:
        bench, provider = Bench(), Slow(*script)
        answer = await bench.ask(provider, retry=policy(max_attempts=2))
        assert answer.value == value
        assert [status for _, status, _, _ in await rows(bench)] == found
        assert (answer.attempts, answer.cost_usd is None) == (len(found), False)

    run_virtual(main())


def test_both_in_the_same_instant_are_both_paid_and_one_is_taken() -> None:
    async def main() -> None:
        bench, provider = Bench(), Slow((6, "first"), (1, "second"))
        answer = await bench.ask(provider, retry=policy(), expected=TEN)
        assert answer.value in {"first", "second"}
        statuses = {status for _, status, _, _ in await rows(bench)}
        assert statuses in ({SUCCEEDED}, {SUCCEEDED, UNKNOWN})
        assert len(await bench.store.attempts("r1")) == 2

    run_virtual(main())


def test_a_hang_that_nothing_helps_ends_at_the_steps_timeout() -> None:
    async def main() -> None:
        bench, provider = Bench(), Slow((HANG, ""), (HANG, ""))
        with pytest.raises(AttemptTimedOut):
            await bench.ask(provider, retry=policy(), timeout=50.0)
        assert bench.clock.monotonic() == 50.0
        assert [status for _, status, _, _ in await rows(bench)] == [UNKNOWN, UNKNOWN]

    run_virtual(main())


async def run_of(calls: int, hang_rate: float) -> tuple[float, int, int]:
    """A fan-out at the simulated provider: its seconds, its requests, and how many of them were second attempts."""
    bench = Bench(store=Recorder(), max_concurrent=25)
    config = SimulatedConfig(latency=1.0, latency_sigma=0.3, hang_rate=hang_rate)
    provider = SimulatedProvider(config, clock=bench.clock)

    def ask(number: int) -> object:
        prompt = ChatRequest(model="m", messages=({"role": "user", "content": f"What is {number}?"},))
        return bench.ask(provider, f"a[{number}]", key=f"{number:064d}", request=prompt)

    await asyncio.gather(*map(ask, range(calls)))
    bench.line.hedges.close()
    sent = [event for event in bench.log if isinstance(event, RequestSent)]
    return bench.clock.monotonic(), len(sent), sum(event.hedge for event in sent)


def test_a_fan_out_with_hangs_takes_hardly_longer_than_without() -> None:
    usual, _, needless = run_virtual(run_of(1000, 0.0))
    took, sent, hedged = run_virtual(run_of(1000, 0.005))
    assert (needless <= 2, sent, hedged >= 3) == (True, 1000 + hedged, True)
    assert hedged <= 20, "2 % of the requests"
    assert took <= 1.2 * usual


def test_where_all_are_slow_they_are_not_asked_twice() -> None:
    """A server that stalls for a minute gets no storm of second attempts."""

    class Stalls(Slow):
        async def complete(self, request: ChatRequest, *, timeout: float) -> Completion:
            if (now := asyncio.get_running_loop().time()) < 100:
                return await super().complete(request, timeout=timeout)
            self.times = [(max(1.0, 160 - now), "x")]
            return await super().complete(request, timeout=timeout)

    async def main() -> int:
        bench, provider = Bench(store=Recorder(), max_concurrent=50), Stalls()

        async def worker(name: int) -> None:
            for number in range(110):
                await bench.ask(provider, key=f"{name}-{number}")

        await asyncio.gather(*map(worker, range(20)))
        return len(provider.sent) - 20 * 110

    assert 1 <= run_virtual(main()) <= 20


def test_what_is_late_is_learned_of_its_like_and_off_is_never() -> None:
    async def main() -> None:
        bench, provider = Bench(), Slow(*[(1, "x")] * 20, (HANG, "never"))
        for number in range(20):
            await bench.ask(provider, key=f"{number:064d}")
        assert (await bench.ask(provider, key="b" * 64)).call_s == 3.0, "late after 2 s"
        provider.times = [(HANG, "slow")]
        assert (await bench.ask(provider, key="c" * 64, retry=policy(math.inf))).call_s == HANG

    run_virtual(main())


def test_a_second_attempt_goes_before_its_own_tenants_queue_and_takes_no_others_turn() -> None:
    async def main() -> None:
        bench, provider = Bench(max_concurrent=2), Slow((HANG, "never"))
        first = asyncio.create_task(bench.ask(provider, retry=policy()))
        await asyncio.sleep(0.5)
        others = [asyncio.create_task(bench.ask(provider, key=f"{n:064d}")) for n in range(10)]
        await first
        assert (bench.clock.monotonic(), provider.peak) == (6.5, 0), "5.5: the next slot that was free"
        await asyncio.gather(*others)
        assert len(provider.sent) == 12

    run_virtual(main())


def test_a_stop_and_a_full_budget_send_nothing_more_and_keep_what_comes() -> None:
    async def main() -> None:
        bench, provider = Bench(), Slow((20, "kept"), (20, "kept too"))
        task = asyncio.create_task(bench.ask(provider, retry=policy()))
        await asyncio.sleep(1)
        bench.token.stop()
        assert (await task).value == "kept"
        assert provider.times_sent == [0]
        bench.token = type(bench.token)()
        bench.budget = RunBudget(Budget(tokens=15))
        asked = bench.ask(provider, "b", key="b" * 64, retry=policy(), expected=TEN)
        assert (await asked).value == "kept too"
        assert len(provider.sent) == 2

    run_virtual(main())


def test_a_second_attempt_that_is_over_before_it_begins_leaves_nothing_set_aside() -> None:
    class JustInTime(FakeProvider):
        async def complete(self, request: ChatRequest, *, timeout: float) -> Completion:
            return await answer

    async def main() -> None:
        nonlocal answer
        answer = asyncio.get_running_loop().create_future()
        bench, provider = Bench(), JustInTime()
        bench.budget, look = RunBudget(Budget(tokens=30)), bench.line.hedges._look

        def look_as_it_is_answered(now: float) -> None:
            answer.set_result(Completion(text="first", model="m-2", usage=Usage(input_tokens=3, output_tokens=5)))
            look(now)

        bench.line.hedges._look = look_as_it_is_answered
        await bench.ask(provider, retry=policy(), expected=TEN)
        await bench.ask(FakeProvider(), key="b" * 64, expected=Usage(output_tokens=22))
        assert len(await rows(bench)) == 2, "8 of 30 tokens were spent"

    answer: asyncio.Future[Completion] | None = None
    run_virtual(main())


def test_a_second_attempt_that_may_not_go_out_yet_is_not_waited_for_once_the_first_has_failed() -> None:
    async def main() -> None:
        bench, provider = Bench(), Slow((6, ServerFailed("500")))
        begin = bench.store.begin_attempt

        async def paused_meanwhile(lease: RunLease, record: AttemptRecord, **how: object) -> None:
            await begin(lease, record, **how)
            if record.number == 2:
                pause = Departure(model="m", at=bench.clock.monotonic())
                bench.limiter.account(provider.account).limited(60.0, pause)

        bench.store.begin_attempt = paused_meanwhile
        with pytest.raises(ServerFailed):
            await bench.ask(provider, retry=policy(), expected=TEN)
        assert bench.clock.monotonic() == 6.0
        assert [row[1] for row in await rows(bench)] == [FAILED, AttemptStatus.NOT_SENT]

    run_virtual(main())


@pytest.mark.parametrize("script", [[(7, "kept"), (HANG, "")], [(HANG, ""), (2, "kept")]])
def test_what_one_has_answered_is_kept_though_the_call_is_cancelled_while_the_other_is_given_up(script: list) -> None:
    async def main() -> None:
        bench, provider = Bench(secrets=("sesame",)), Slow(*script)
        commit = bench.store.commit

        async def cancelled_meanwhile(*, attempt: AttemptRecord | None = None, **what: object) -> None:
            await commit(attempt=attempt, **what)
            if attempt is not None and attempt.error is not None:
                task.cancel()
                for _ in range(5):
                    await asyncio.sleep(0)

        bench.store.commit = cancelled_meanwhile
        task = asyncio.create_task(bench.ask(provider, retry=policy(), expected=TEN))
        await asyncio.gather(task, return_exceptions=True)
        await bench.calls.drain()
        assert task.cancelled()
        assert {status for _, status, _, _ in await rows(bench)} == {SUCCEEDED, UNKNOWN}
        ended = [event.attempt for event in bench.log if isinstance(event, RequestEnded)]
        assert sorted(ended) == [1, 2], "each once"
        again = await bench.ask(provider, "b", retry=policy())
        assert (again.cached, again.value, len(provider.sent)) == (True, "kept", 2)

    run_virtual(main())


def test_an_abandoned_attempt_counts_with_what_was_set_aside() -> None:
    async def main() -> None:
        bench, provider = Bench(), Slow((HANG, "never"), (1, "second"))
        bench.budget = RunBudget(Budget(tokens=28))
        await bench.ask(provider, retry=policy(), expected=TEN)
        left = await asyncio.gather(
            bench.ask(provider, key="b" * 64, expected=TEN),
            bench.ask(provider, key="c" * 64, expected=Usage(output_tokens=11)),
            return_exceptions=True,
        )
        assert [isinstance(outcome, Exception) for outcome in left] == [False, True], "10 aside and 8 spent of 28"

    run_virtual(main())


def test_a_cancelled_call_takes_both_with_it() -> None:
    async def main() -> None:
        bench, provider = Bench(), Slow((HANG, "never"), (HANG, "never"))
        task = asyncio.create_task(bench.ask(provider, retry=policy(), expected=TEN))
        await asyncio.sleep(10)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await bench.calls.drain()
        assert provider.cancelled == [10, 10]
        assert await rows(bench) == [(1, UNKNOWN, "Stopped", None), (2, UNKNOWN, "Abandoned", None)]
        assert bench.limiter.gauges()[provider.account].in_flight == 0

    run_virtual(main())


def test_a_second_attempt_in_the_queue_is_forgotten_once_the_first_answers() -> None:
    async def main() -> None:
        bench, provider = Bench(max_concurrent=1), Slow((7, "first"))
        assert (await bench.ask(provider, retry=policy())).value == "first"
        assert await rows(bench) == [(1, SUCCEEDED, None, 0.005)]
        gauge = bench.limiter.gauges()[provider.account]
        assert (gauge.in_flight, gauge.waiting) == (0, 0)

    run_virtual(main())


def test_who_joined_gets_the_second_answer_after_the_payer_has_left() -> None:
    async def main() -> None:
        bench, provider = Bench(), Slow((HANG, "never"), (1, "second"))
        payer = asyncio.create_task(bench.ask(provider, retry=policy(), expected=TEN))
        await asyncio.sleep(1)
        other = asyncio.create_task(bench.ask(provider, "b", retry=policy(), expected=TEN))
        await asyncio.sleep(1)
        payer.cancel()
        assert (await other).value == "second"
        attempts = await bench.store.attempts("r1")
        assert [(row.node_id, row.status) for row in attempts] == [("a", UNKNOWN), ("b", SUCCEEDED)]
        assert len(provider.sent) == 2

    run_virtual(main())


def test_a_batch_is_sent_once_more_as_it_went_out_and_divided_among_those_who_wait() -> None:
    async def main() -> None:
        bench = await TextsBench(max_concurrent=9).open()
        bench.provider = provider = SlowTexts(HANG, 1.0)
        tasks = bench.start("a", "bb", "ccc", retry=policy())
        await asyncio.sleep(2)
        tasks[0].cancel()
        answers = await asyncio.gather(*tasks[1:])
        assert [answer.value for answer in answers] == [[2.0, 3.0], [3.0, 3.0]]
        assert bench.sent == [("a", "bb", "ccc")] * 2
        statuses = [row.status for row in await bench.store.attempts("r1")]
        assert (statuses, provider.in_flight) == ([UNKNOWN, SUCCEEDED], 0)
        assert (await bench.ask("a")).cached, "what is paid for is kept"

    run_virtual(main())
