from __future__ import annotations

import asyncio
import json

import pytest

from flowllm.core.errors import AttemptTimedOut, ProviderError, RateLimited, ServerFailed, TruncatedAnswer
from flowllm.core.request import ChatRequest, Completion, OutputFormat
from flowllm.core.types import Json, Limits
from flowllm.providers.simulated.provider import SimulatedConfig, SimulatedProvider
from tests.support.virtual import LoopClock, run_virtual


def provider(**settings: object) -> SimulatedProvider:
    return SimulatedProvider(SimulatedConfig(**settings), clock=LoopClock())  # type: ignore[arg-type]


def ask(prompt: str = "Write about tea.", output: OutputFormat | None = None, **params: Json) -> ChatRequest:
    return ChatRequest(model="m", messages=({"role": "user", "content": prompt},), params=params, output=output)


def answers(of: SimulatedProvider, *requests: ChatRequest, timeout: float = 60) -> list[Completion | BaseException]:
    async def main() -> list[Completion | BaseException]:
        waiting = (of.complete(request, timeout=timeout) for request in requests)
        return await asyncio.gather(*waiting, return_exceptions=True)

    return run_virtual(main())


def texts(found: list[Completion | BaseException]) -> list[str]:
    assert all(isinstance(one, Completion) for one in found), found
    return [one.text for one in found if isinstance(one, Completion)]


def test_answers_depend_on_seed_and_request_alone() -> None:
    prompts = [ask(f"Write about tea number {number}") for number in range(20)]
    forwards = texts(answers(provider(latency=1.0, latency_sigma=1.0), *prompts))
    backwards = texts(answers(provider(), *reversed(prompts)))
    assert forwards == backwards[::-1]
    assert texts(answers(provider(seed=1), *prompts)) != forwards


def test_every_part_of_the_request_counts() -> None:
    asked = [ask(), ask(temperature=0), ask(temperature=0.0), ask(max_tokens=900), ask("Write about teas.")]
    assert len(set(texts(answers(provider(), *asked)))) == len(asked)


def test_equal_requests_of_one_process_are_answered_differently_but_in_a_fixed_order() -> None:
    first, second = (texts(answers(provider(), *[ask()] * 4)) for _ in range(2))
    assert first == second
    assert len(set(first)) == 4


def test_a_failed_attempt_does_not_change_the_answer() -> None:
    reference = texts(answers(provider(), ask()))[0]
    flaky = provider(error_rate=0.6)
    for _ in range(100):
        (answer,) = answers(flaky, ask())
        if isinstance(answer, Completion):
            assert answer.text == reference
            return
        assert isinstance(answer, ServerFailed)
    pytest.fail("no attempt of a hundred succeeded")


def test_shares_of_faults() -> None:
    asked = [ask(f"number {number}") for number in range(2000)]
    found = answers(provider(error_rate=0.1, rate_limit_rate=0.2), *asked)
    failed = sum(isinstance(one, ServerFailed) for one in found)
    limited = sum(isinstance(one, RateLimited) for one in found)
    assert 150 < failed < 250
    assert 300 < limited < 420
    assert [type(one) for one in answers(provider(error_rate=0.1, rate_limit_rate=0.2), *asked)] == [
        type(one) for one in found
    ]


def test_latency_is_log_normal_around_its_median() -> None:
    async def main() -> list[float]:
        of, clock = provider(latency=2.0, latency_sigma=0.5), LoopClock()

        async def timed(number: int) -> float:
            await of.complete(ask(f"number {number}"), timeout=1000)
            return clock.monotonic()

        return sorted(await asyncio.gather(*(timed(number) for number in range(999))))

    times = run_virtual(main())
    assert times[499] == pytest.approx(2.0, rel=0.1)
    assert times[839] == pytest.approx(2.0 * 2.718**0.5, rel=0.15)  # one sigma above


def test_an_answer_that_takes_too_long_is_given_up_in_time() -> None:
    async def main() -> float:
        with pytest.raises(AttemptTimedOut):
            await provider(latency=100.0).complete(ask(), timeout=3)
        return LoopClock().monotonic()

    assert run_virtual(main()) == pytest.approx(3.0)


def test_max_tokens_cuts() -> None:
    (whole,), (cut,) = answers(provider(), ask()), answers(provider(), ask(max_tokens=5))
    assert isinstance(whole, Completion)
    assert isinstance(cut, Completion)
    assert (whole.finish_reason, cut.finish_reason) == ("stop", "length")
    assert cut.usage.output_tokens == 5
    (nothing,) = answers(provider(), ask(max_tokens=0))
    assert isinstance(nothing, TruncatedAnswer)


def test_json_is_about_the_prompt_and_as_long_as_asked() -> None:
    schema = {"type": "array", "items": {"type": "string"}}
    (text,) = texts(answers(provider(), ask("List ten SEO keywords about green tea.", OutputFormat(schema=schema))))
    value = json.loads(text)["value"]
    assert len(set(value)) == 10
    assert any("green tea" in keyword for keyword in value)
    (free,) = texts(answers(provider(), ask("Tell me about green tea", OutputFormat())))
    assert isinstance(json.loads(free), dict)


def test_a_correction_is_answered_about_the_first_question() -> None:
    request = ChatRequest(
        model="m",
        messages=(
            {"role": "user", "content": "Write a headline about green tea."},
            {"role": "assistant", "content": "no"},
            {"role": "user", "content": "That cannot be used. Answer again."},
        ),
    )
    assert "Green Tea" in texts(answers(provider(), request))[0]


@pytest.mark.parametrize(
    "content", [None, [], [{"type": "text", "text": "Explain tea"}], "\ud800" * 5, '"\ud800\ud800\ud800"']
)
def test_any_content_is_answered(content: Json) -> None:
    request = ChatRequest(model="m", messages=({"role": "user", "content": content},), params={"max_tokens": 20})
    assert texts(answers(provider(), request))[0]


def test_an_enforced_rate_is_what_gets_through() -> None:
    async def main() -> tuple[int, list[float]]:
        of, clock = provider(enforce=Limits(requests_per_minute=60, max_concurrent=1000)), LoopClock()
        waits: list[float] = []
        passed = 0
        for number in range(300):
            try:
                await of.complete(ask(f"number {number}"), timeout=1)
                passed += 1
            except RateLimited as error:
                waits.append(error.retry_after or 0)
            await clock.sleep(0.2)
        return passed, waits

    passed, waits = run_virtual(main())
    assert 60 <= passed <= 63
    assert max(waits) <= 1.0
    assert min(waits) > 0


def test_an_enforced_limit_is_kept_by_who_waits_as_asked() -> None:
    async def main() -> None:
        of, clock = provider(enforce=Limits(requests_per_minute=60, max_concurrent=1000)), LoopClock()
        for number in range(20):
            try:
                await of.complete(ask(f"number {number}"), timeout=1)
            except RateLimited as error:
                await clock.sleep(error.retry_after or 0)
                await of.complete(ask(f"number {number}"), timeout=1)

    run_virtual(main())


def test_enforced_seats() -> None:
    of = provider(latency=1.0, enforce=Limits(max_concurrent=3))
    found = answers(of, *(ask(f"number {number}") for number in range(5)))
    assert [isinstance(one, RateLimited) for one in found] == [False, False, False, True, True]
    texts(answers(of, ask("number 9")))


def test_slots_are_taken_in_turn() -> None:
    of, ends = provider(latency=2.0, slots=2), []

    async def one(number: int) -> None:
        try:
            await of.complete(ask(f"number {number}"), timeout=5)
        finally:
            ends.append(asyncio.get_running_loop().time())

    async def main() -> list[object]:
        return await asyncio.gather(*(one(number) for number in range(6)), return_exceptions=True)

    found = run_virtual(main())
    assert ends == pytest.approx([2, 2, 4, 4, 5, 5])
    assert [type(one) for one in found] == [*[type(None)] * 4, *[AttemptTimedOut] * 2]


def test_enforced_tokens() -> None:
    of = provider(enforce=Limits(tokens_per_minute=1000, max_concurrent=1000))
    found = answers(of, *(ask(f"number {number}", max_tokens=300) for number in range(5)))
    assert [isinstance(one, ProviderError) for one in found] == [False, False, False, True, True]
    texts(answers(provider(enforce=Limits(tokens_per_minute=10)), ask(max_tokens=300)))


def test_who_it_is() -> None:
    of = provider(name="slow", seed=7, latency=3.0)
    assert of.name == "slow"
    assert of.account == provider(seed=7).account != provider(seed=8).account
    assert of.cost("any", answers(of, ask())[0].usage) == 0.0  # type: ignore[union-attr]


def test_counts_of_requests_do_not_grow_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowllm.providers.simulated.provider._MAX_COUNTED", 10)
    of = provider()
    answers(of, *(ask(f"number {number}") for number in range(50)))
    assert len(of._answers) == len(of._attempts) == 10
