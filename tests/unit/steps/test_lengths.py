"""What is reserved for an answer whose limit is not written."""

from __future__ import annotations

import math
import random

import pytest

from flowllm.core.request import Completion
from flowllm.core.types import Usage
from flowllm.steps.prompt.runner import UNKNOWN_LENGTH, Lengths
from tests.support.run_attempts import Stage
from tests.support.virtual import run_virtual


def _of(*tokens: int) -> Lengths:
    lengths = Lengths()
    for one in tokens:
        lengths.add(one)
    return lengths


def test_a_few_answers_say_nothing_yet() -> None:
    assert _of().p95() == UNKNOWN_LENGTH
    assert _of(1, 1, 1, 1).p95() == UNKNOWN_LENGTH
    assert _of(1, 1, 1, 1, 1).p95() == 1


def test_of_few_it_is_the_longest() -> None:
    assert _of(50, 10, 40, 20, 30).p95() == 50


def test_one_long_answer_in_a_hundred_is_left_out() -> None:
    assert _of(*[10] * 99, 5000).p95() == 10


def test_there_is_always_something_to_reserve() -> None:
    assert _of(0, 0, 0, 0, 0).p95() == 1


@pytest.mark.parametrize("seed", range(10))
def test_it_is_the_95th_percentile_of_the_latest_two_hundred(seed: int) -> None:
    """Against sorting them all again, with equal lengths among them."""
    draw = random.Random(seed)
    tokens = [draw.randrange(1, 40) for _ in range(500)]
    lengths = Lengths()
    for count, one in enumerate(tokens, start=1):
        lengths.add(one)
        latest = sorted(tokens[max(0, count - 200) : count])
        if count >= 5:
            assert lengths.p95() == latest[min(len(latest) - 1, math.floor(len(latest) * 0.95))]


def test_what_was_long_once_is_forgotten() -> None:
    lengths = _of(*[9000] * 200)
    for _ in range(200):
        lengths.add(7)
    assert lengths.p95() == 7


# in a run


async def _reserved(text: str, *, answer_tokens: int) -> dict[str, float]:
    """Tokens set aside for each node's request."""
    stage = Stage()
    stage.provider.script = [
        Completion(text="answer", model="m", usage=Usage(input_tokens=10, output_tokens=answer_tokens))
        for _ in range(20)
    ]
    await stage.run(text)
    return {attempt.node_id: attempt.reserved_tokens for attempt in await stage.store.attempts("r1")}


def test_max_tokens_is_what_an_answer_may_take() -> None:
    text = "steps:\n  a: {prompt: hi, max_tokens: 70}\n  b: {prompt: hello, params: {max_completion_tokens: 90}}\n"
    found = run_virtual(_reserved(text, answer_tokens=3))
    assert 70 < found["a"] < 90
    assert 90 < found["b"] < 110


def test_without_it_a_thousand_are_set_aside() -> None:
    found = run_virtual(_reserved("steps:\n  a: {prompt: hi}\n", answer_tokens=3))
    assert UNKNOWN_LENGTH < found["a"] < UNKNOWN_LENGTH + 20


def test_a_schema_and_tools_are_part_of_the_prompt() -> None:
    schema = "{type: object, properties: {" + ", ".join(f"p{n}: {{type: string}}" for n in range(200)) + "}}"
    tools = "[{type: function, function: {name: find, description: '" + "look for it " * 300 + "'}}]"
    text = f"""
steps:
  bare: {{prompt: hi, max_tokens: 10}}
  schema: {{prompt: hi, max_tokens: 10, output: {schema}}}
  tools: {{prompt: hi, max_tokens: 10, params: {{tools: {tools}}}}}
"""
    found = run_virtual(_reserved(text, answer_tokens=3))
    assert found["bare"] < 30
    assert found["schema"] > 1000
    assert found["tools"] > 1000
