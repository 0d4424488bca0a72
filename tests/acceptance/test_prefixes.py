"""Requests whose prompts begin the same: the first is sent alone, the others follow, and nobody waits in vain."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from flowllm.core.events import RequestEnded
from flowllm.core.types import RunStatus
from flowllm.explain.prompt_cache import CacheForecast
from tests.support.stores import InlineStore
from tests.support.virtual import LoopClock, run_virtual
from tests.support.virtual_app import opened
from tests.support.workflows import workflow

FLOW = """
providers:
  sim: {type: simulated, latency: 300ms, prefill: 500ms, MORE, limits: {max_concurrent: 5, prefix_cache: MODE}}
defaults: {provider: sim, model: m, max_tokens: 20}
inputs: {texts: [], questions: 1, common: ""}
steps:
  a:
    foreach: {matrix: {doc: "{{ inputs.texts }}", question: "{{ range(inputs.questions) | list }}"}}
    system: "Answer. {{ inputs.common }}"
    prompt: "{{ item.doc }} Question {{ item.question }}?"
"""


def text_of(number: int, *, tokens: int = 2000) -> str:
    return f"{number:04}" * tokens


@dataclass(frozen=True, kw_only=True)
class Seen:
    seconds: float
    requests: int
    cold: int
    cached: float
    """Of all tokens of prompts."""
    cost: float
    """Of what they would cost without a cache."""
    expected: CacheForecast
    """As it was planned."""


def ask(
    mode: str,
    *,
    texts: int = 10,
    questions: int = 5,
    common: str = "",
    more: str = "prompt_cache: true",
    store: object = None,
) -> Seen:
    async def main() -> Seen:
        clock, events = LoopClock(), []
        inputs = {"texts": [text_of(n) for n in range(texts)], "questions": questions, "common": common}
        flow = workflow(FLOW.replace("MODE", mode).replace("MORE", more))
        app = opened(clock, store)
        plan = await app.forecast(flow, inputs=inputs)
        result = await app.run(flow, inputs=inputs, observers=[Log(events)])
        assert result.status is RunStatus.SUCCEEDED
        usages = [event.usage for event in events if isinstance(event, RequestEnded) and event.error is None]
        total = sum(usage.input_tokens for usage in usages)
        cached = sum(usage.cached_input_tokens for usage in usages)
        return Seen(
            seconds=clock.monotonic(),
            requests=len([event for event in events if isinstance(event, RequestEnded)]),
            cold=sum(usage.cached_input_tokens == 0 for usage in usages),
            cached=cached / total,
            cost=(total - 0.9 * cached) / total,
            expected=plan.total.prompt_cache,
        )

    return run_virtual(main())


class Log:
    def __init__(self, events: list) -> None:
        self.handle = events.append


def test_each_document_is_read_once_and_the_slots_stay_filled() -> None:
    before, found = ask("off"), ask("on")
    assert (before.cold, before.requests) == (50, 50)
    assert (found.cold, found.requests) == (10, 50)
    assert found.cost <= 0.2 + 0.9 * 0.2
    assert found.seconds <= 0.65 * before.seconds
    assert before.expected == CacheForecast()
    assert (found.expected.leaders, found.expected.requests) == (10, 50)
    assert found.expected.cached_tokens == pytest.approx(found.cached * 50 * 2700, rel=0.1)


def test_without_a_cache_nobody_is_held_up() -> None:
    before, found = ask("off", more="prompt_cache: false"), ask("auto", more="prompt_cache: false")
    assert found.seconds <= 1.02 * before.seconds


def test_one_text_for_all_is_read_once() -> None:
    assert ask("on", texts=1, questions=50).cached >= 0.98 * (1 - 0.05)  # in blocks of 128 tokens


def test_what_was_found_out_holds_for_later_runs() -> None:
    store = InlineStore()
    first = ask("auto", store=store)
    assert (10 < first.cold < 40, first.expected) == (True, CacheForecast())
    again = ask("auto", store=store, common="Briefly.")
    assert (again.cold, again.expected.leaders) == (10, 10)


def test_documents_after_a_common_beginning_are_levels_of_their_own() -> None:
    found = ask("on", texts=6, questions=4, common=text_of(99))
    assert found.cold == 1
    assert found.cached >= 1 - (2000 + 6 * 2000) / (24 * 4000) - 0.05  # in blocks


@pytest.mark.parametrize("more", ["error_rate: 10%, prompt_cache: true", "latency_sigma: 1.5, prompt_cache: true"])
def test_leaders_that_fail_or_are_slow_hold_nobody_up_for_long(more: str) -> None:
    before, found = (ask(mode, more=more) for mode in ("off", "on"))
    assert found.seconds <= before.seconds
    assert found.cost < 0.7
