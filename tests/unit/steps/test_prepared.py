"""Requests that are prepared once for a step are those that would be made anew each time."""

from __future__ import annotations

from functools import lru_cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowllm.core.clock import SystemClock
from flowllm.core.encoding import EncodedObject
from flowllm.core.redact import Redactor
from flowllm.core.types import StepId
from flowllm.language.workflow import Step
from flowllm.providers.simulated.provider import SimulatedConfig, SimulatedProvider
from flowllm.steps.base import Bound
from flowllm.steps.prompt.prepared import FilledRequest
from flowllm.steps.prompt.runner import PromptRunner
from flowllm.storage.sql.rows import to_json
from tests.support.calls import FakeProvider
from tests.support.workflows import workflow

HEAD = "inputs: {x: {type: string}, m: m}\nsteps:\n  a:\n    model: m\n"


def runner(provider: object = None) -> PromptRunner:
    return PromptRunner(lambda _: provider or SimulatedProvider(SimulatedConfig(), clock=SystemClock()), calls=None)


@lru_cache
def step(options: str) -> Step:
    return workflow(HEAD + "".join(f"    {line}\n" for line in options.splitlines())).steps[StepId("a")]


def bound(kind: PromptRunner, options: str, *texts: object) -> list[Bound]:
    return [kind.bind(step(options), {"inputs": {"m": "m", "x": text}}) for text in texts]


def seen(one: Bound) -> tuple[object, ...]:
    """All that a binding says, in the order in which it is stored."""
    work = one.work
    (target,) = (work.target,) if isinstance(work, FilledRequest) else work
    text = one.parts.text if isinstance(one.parts, EncodedObject) else to_json(one.parts)
    return one.key, text, dict(one.parts), target.request, target.keys, target.provider.name


@pytest.mark.parametrize(
    "options",
    [
        'prompt: "{{ inputs.x }}"',
        r"""prompt: '"0" {{ inputs.x }} \u0000 \ é𝄞 {{ inputs.x }}'""",
        'prompt: "Tell {{ inputs.x }}"\nsystem: "You are {{ inputs.x }}, é"\nmax_tokens: 5\nparams: {service_tier: flex}',
        'prompt: "{{ inputs.x }}"\nsystem: "Kind"\nsample: 3\noutput: {type: object, properties: {size: {type: integer}}, required: [size]}',
    ],
)
@settings(deadline=None)
@given(texts=st.lists(st.text(alphabet=st.characters(codec=None), max_size=20), min_size=1, max_size=4))
def test_a_prepared_request_is_the_one_that_is_made_anew(options: str, texts: list[str]) -> None:
    texts = ["first", *texts, "\0000\0", "last"]
    prepared = bound(runner(), options, *texts)
    anew = [one for text in texts for one in bound(runner(), options, text)]
    assert [seen(one) for one in prepared] == [seen(one) for one in anew]
    assert [isinstance(one.work, FilledRequest) for one in (prepared[0], prepared[-1])] == [False, True]


def test_what_else_differs_or_depends_on_the_text_is_made_anew() -> None:
    for options in (
        'prompt: "{{ inputs.x }}"\noutput: json',  # whose instruction depends on the word JSON
        'prompt: "{{ inputs.x }}"\nparams: {user: "{{ inputs.x }}"}',
        'prompt: "{{ inputs.x }}"\nsamples: 2',
        'prompt: "{{ inputs.x }}"\nfallback: [{model: n}]',
        "prompt: always the same",
    ):
        assert not any(isinstance(one.work, FilledRequest) for one in bound(runner(), options, "a", "b", "c"))
    made = bound(runner(FakeProvider()), 'prompt: "{{ inputs.x }}"', "a", "b", "c")
    assert not any(isinstance(one.work, FilledRequest) for one in made)


def test_each_model_and_each_run_has_its_own() -> None:
    text = HEAD.replace("model: m", 'model: "{{ inputs.m }}"') + '    prompt: "{{ inputs.x }}"\n'
    asked = workflow(text).steps[StepId("a")]
    elsewhere = SimulatedProvider(SimulatedConfig(seed=1), clock=SystemClock())
    kind, other = runner(), runner(elsewhere)
    models = [f"m{number % 30}" for number in range(90)]  # of more models than are remembered
    ones = [kind.bind(asked, {"inputs": {"m": model, "x": "same"}}) for model in models]
    assert [one.parts["body"]["model"] for one in ones] == models
    assert len({one.key for one in ones}) == 30
    assert {other.bind(asked, {"inputs": {"m": "m1", "x": "same"}}).key for _ in range(3)}.isdisjoint(
        one.key for one in ones
    )


def test_secrets_are_masked_wherever_they_stand_and_what_has_none_is_not_read() -> None:
    options = 'prompt: "Tell {{ inputs.x }}"\nsystem: "Kind"\nparams: {user: sk-constant-1234567890}'
    ones = bound(runner(), options, "first", "plain", "key sk-abcdefgh-1234567890", "last")
    redactor = Redactor(["sk-abcdefgh-1234567890"])
    assert [redactor.parts(one.parts) is one.parts for one in ones] == [False, True, False, True]
    assert [redactor.parts(one.parts) == redactor.value(dict(one.parts)) for one in ones] == [True] * 4
    assert redactor.parts(ones[2].parts)["body"]["messages"][1]["content"] == "Tell key ***"
    redactor.add(["sk-constant-1234567890"])  # learned later
    assert {redactor.parts(one.parts)["body"]["user"] for one in ones} == {"***"}
    assert Redactor().parts(ones[3].parts) is ones[3].parts
