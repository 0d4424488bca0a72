from __future__ import annotations

import math
import re

import pytest

from flowllm.core.errors import InvalidWorkflow, UsageError
from flowllm.language.parse import Overrides
from flowllm.language.workflow import LlmBody, Workflow
from tests.support.workflows import workflow

TEXT = """
inputs: {x: 1}
defaults: {model: small, provider: openai}
providers:
  work: {type: openai, limits: {max_concurrent: 50, requests_per_minute: 9}}
  fake: {type: simulated}
limits: {max_concurrent: 20, tokens_per_minute: 100}
steps:
  a: {prompt: hi}
  b: {prompt: ho, model: own, provider: work, fallback: [{provider: work, model: f}]}
  c: {value: 1}
"""
VALUES = {"inputs": {"x": 1}, "steps": {}, "run": {}, "secrets": {}}


def changed(**overrides: object) -> Workflow:
    return workflow(TEXT, overrides=Overrides(**overrides))  # type: ignore[arg-type]


def body(found: Workflow, step: str) -> LlmBody:
    result = found.steps[step].body  # type: ignore[index]
    assert isinstance(result, LlmBody)
    return result


def asked(found: Workflow) -> dict[str, tuple[str, str]]:
    bodies = {step: body(found, step) for step in ("a", "b")}
    return {step: (b.provider.render(VALUES), b.model.render(VALUES)) for step, b in bodies.items()}


def test_a_model_is_the_default_ones_and_steps_keep_their_own() -> None:
    assert asked(changed(model="big")) == {"a": ("openai", "big"), "b": ("work", "own")}


def test_a_provider_is_the_default_one() -> None:
    found = changed(provider="fake")
    assert asked(found) == {"a": ("fake", "small"), "b": ("work", "own")}
    assert found.default_provider == "fake"


def test_simulated_replaces_all_providers_fallbacks_too() -> None:
    found = changed(provider="simulated")
    assert asked(found) == {"a": ("simulated", "small"), "b": ("simulated", "own")}
    assert found.default_provider == "simulated"
    assert [target.provider for target in body(found, "b").fallback] == [None]


def test_an_unknown_provider_is_a_problem_of_the_option() -> None:
    with pytest.raises(InvalidWorkflow, match=r"--provider: there is no provider `opnai`"):
        changed(provider="opnai")


def test_options_of_steps_and_of_defaults() -> None:
    found = changed(settings={"a.temperature": "0.5", "a.model": "4", "a.stop": "[x, y]", "defaults.max_tokens": "7"})
    assert body(found, "a").model.render(VALUES) == "4"
    assert body(found, "a").params.render(VALUES) == {"temperature": 0.5, "max_tokens": 7, "stop": ["x", "y"]}  # type: ignore[union-attr]
    assert body(found, "b").params.render(VALUES) == {"max_tokens": 7}  # type: ignore[union-attr]


def test_options_within_an_option() -> None:
    found = changed(settings={"a.retry.hedge": "30s", "a.retry.max_attempts": "2", "defaults.retry.hedge": "off"})
    of = {step: found.steps[step].retry for step in "ab"}
    assert (of["a"].hedge, of["a"].max_attempts, of["b"].hedge, of["b"].max_attempts) == (30.0, 2, math.inf, 5)
    for option, value, message in (
        ("a.retry.hedge", "soon", "--set a.retry.hedge: expected auto, off or a duration such as 30s, found `soon`"),
        ("a.retry.hedg", "off", "--set a.retry.hedg: unknown key `hedg` in `retry` (did you mean `hedge`?)"),
    ):
        with pytest.raises(InvalidWorkflow, match=re.escape(message)):
            changed(settings={option: value})


def test_a_text_is_taken_whole() -> None:
    found = changed(settings={"a.prompt": "one: two # three {{ inputs.x }}"})
    assert body(found, "a").prompt.text(VALUES) == "one: two # three 1"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("aa.model", "there is no step `aa`"),
        ("a.modle", "there is no option `modle` here\n  did you mean `model`?"),
        ("c.model", "there is no option `model` here"),
        ("a.value", "there is no option `value` here"),
        ("default.model", "did you mean `defaults`?"),
        ("defaults.prompt", "there is no option `prompt` here"),
        ("model", "this is not an option of a step"),
        ("a.", "this is not an option of a step"),
    ],
)
def test_options_that_do_not_exist(option: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        changed(settings={option: "x"})
    assert message in str(caught.value)


def test_an_invalid_value_is_reported_with_the_option() -> None:
    with pytest.raises(InvalidWorkflow, match=r"--set a\.temperature: expected a number, found `hot`"):
        changed(settings={"a.temperature": "hot"})
    with pytest.raises(UsageError, match=r"--set a\.stop"):
        changed(settings={"a.stop": "[x"})
