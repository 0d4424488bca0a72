from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from flowllm.core.errors import (
    ContentFiltered,
    ProviderDown,
    Refused,
    RequestRejected,
    ServerFailed,
    StepError,
    TruncatedAnswer,
    Unauthorized,
    UnknownModel,
)
from flowllm.core.events import FallbackTaken
from flowllm.core.request import Completion
from flowllm.core.types import NodeStatus, RunStatus, Usage
from flowllm.providers.base import Account
from flowllm.runtime.options import RunOptions
from tests.support.calls import FakeProvider
from tests.support.run_attempts import Stage
from tests.support.virtual import run_virtual


def step(options: str = "prompt: hello") -> str:
    lines = "".join(f"    {line.strip()}\n" for line in options.strip().splitlines())
    return f"steps:\n  a:\n    retry: {{max_attempts: 1}}\n{lines}"


def key_of(options: str, *, base_url: str = "fake:", kind: str = "fake") -> str:
    """The key of a step with these options."""

    async def main() -> str:
        stage = Stage()
        stage.provider.account = Account(type=kind, base_url=base_url)
        ready = await stage.prepare(step(options))
        return ready.kinds[ready.checked.steps["a"].kind].bind(ready.checked.steps["a"], {"inputs": {}}).key

    return run_virtual(main())


@pytest.mark.parametrize(
    "options",
    [
        "prompt: hello!",
        "prompt: hello\nsystem: be kind",
        "prompt: hello\nmodel: other",
        "prompt: hello\nmax_tokens: 5",
        "prompt: hello\ntemperature: 0",
        "prompt: hello\ntop_p: 1",
        "prompt: hello\nseed: 1",
        "prompt: hello\nstop: [x]",
        "prompt: hello\nparams: {user: me}",
        "prompt: hello\nsample: 1",
        "prompt: hello\nsamples: 1",
        "prompt: hello\noutput: json",
        "prompt: hello\noutput: {type: string}",
        "messages: [{role: system, content: hello}]",
    ],
)
def test_everything_that_is_sent_or_validated_is_in_the_key(options: str) -> None:
    assert key_of(options) != key_of("prompt: hello")


def test_who_is_asked_is_in_the_key_and_the_key_of_the_account_is_not() -> None:
    plain = key_of("prompt: hello")
    assert key_of("prompt: hello", base_url="elsewhere:") != plain
    assert key_of("prompt: hello", kind="openai") != plain


@pytest.mark.parametrize(
    "options",
    [
        "sample: 0",
        "timeout: 5s",
        "priority: high",
        "on_error: continue",
        "on_truncated: fail",
        "cache: {ttl: 1h}",
        "fallback: [other]",
    ],
)
def test_nothing_else_is_in_the_key(options: str) -> None:
    assert key_of(f"prompt: hello\n{options}") == key_of("prompt: hello")


def test_zero_and_not_set_are_two_keys_and_so_are_two_schemas() -> None:
    keys = [
        key_of("prompt: x\ntemperature: 0"),
        key_of("prompt: x"),
        key_of("prompt: x\noutput: {type: integer}"),
        key_of("prompt: x\noutput: {type: number}"),
        key_of("prompt: x\noutput: json"),
    ]
    assert len(set(keys)) == len(keys)


class Outcome:
    """What became of the step `a`, and what was asked of whom."""

    def __init__(self, stage: Stage, events: list, status: RunStatus) -> None:
        self.node = stage.store.node_now("a")
        self.status = status
        self.stage = stage
        self.fallbacks = [event.model for event in events if isinstance(event, FallbackTaken)]
        self.sent = [request.model for _, request in stage.provider.sent]


def run(options: str, *script: object, other: FakeProvider | None = None, **how: object) -> Outcome:
    async def main() -> Outcome:
        stage = Stage()
        stage.provider.script = list(script)
        if other is not None:
            other.account = replace(other.account, base_url="other:")
            stage.others["other"] = other
        text = "providers: {other: {type: simulated}}\n" + step(options)
        ready = await stage.prepare(text, **how)
        ending = await ready.attempt()
        await asyncio.sleep(0)
        return Outcome(stage, ready.events, ending.status)

    return run_virtual(main())


@pytest.mark.parametrize(
    ("error", "taken"),
    [
        (ServerFailed("500", status=500), True),
        (Refused("I would rather not"), True),
        (ContentFiltered("filtered"), True),
        (UnknownModel("no such model", status=404), True),
        (TruncatedAnswer("cut before its first word"), True),
        (RequestRejected("400", status=400), False),
    ],
)
def test_another_model_is_asked_when_that_can_help(error: StepError, taken: bool) -> None:
    found = run("prompt: hello\nfallback: [second]", error)
    assert found.fallbacks == (["second"] if taken else [])
    assert found.sent == (["m", "second"] if taken else ["m"])
    assert found.node.status is (NodeStatus.SUCCEEDED if taken else NodeStatus.FAILED)


def test_an_answer_that_never_validates_goes_to_the_fallback_and_is_kept_under_its_key() -> None:
    found = run("prompt: hello\noutput: {type: integer}\nfallback: [second]", "x", "y", "z", "7")
    assert found.node.output == 7
    assert found.sent == ["m", "m", "m", "second"]
    assert found.node.key not in found.stage.store.cached_keys, "the first model never answered"
    assert len(found.stage.store.cached_keys) == 1


def test_a_provider_that_is_given_up_leaves_the_models_of_other_providers() -> None:
    down = Unauthorized("401", status=401)
    found = run("prompt: hello\nfallback: [second, {provider: other, model: third}]", down, other=FakeProvider())
    assert found.status is RunStatus.SUCCEEDED
    assert found.sent == ["m"]
    assert found.fallbacks == ["third"]
    alone = run("prompt: hello\nfallback: [second]", down)
    assert alone.status is RunStatus.PAUSED
    assert alone.sent == ["m"]


def test_a_401_after_a_success_leaves_the_models_of_other_providers_too() -> None:
    async def main() -> RunStatus:
        stage = Stage()
        stage.provider.script = ["fine", Unauthorized("401", status=401)]
        stage.others["other"] = FakeProvider()
        stage.others["other"].account = Account(type="fake", base_url="other:")
        text = """
            providers: {other: {type: simulated}}
            steps:
              a: {prompt: a}
              b: {prompt: "b {{ a }}", fallback: [same-account, {provider: other, model: x}]}
            """
        return (await stage.run(text)).status

    assert run_virtual(main()) is RunStatus.SUCCEEDED


def test_the_error_of_the_last_model_is_the_steps_and_what_all_cost_is_counted() -> None:
    bad = Refused("no", usage=Usage(output_tokens=1000))
    found = run("prompt: hello\nfallback: [second]", bad, Refused("neither", usage=Usage(output_tokens=500)))
    assert found.node.error["message"] == "neither"
    assert (found.node.attempts, found.node.cost_usd) == (2, 1.5)


def test_samples_are_asked_side_by_side_and_come_in_their_order() -> None:
    found = run("prompt: hello\nsamples: 3", "one", "two", "three")
    assert found.node.output == ["one", "two", "three"]
    assert [at for at, _ in found.stage.provider.sent] == [0, 0, 0]
    assert found.node.attempts == 3


def test_when_one_sample_fails_the_others_are_kept_and_not_asked_again() -> None:
    async def main() -> None:
        stage, text = Stage(), step("prompt: hello\nsamples: 3")
        stage.provider.script = ["one", ServerFailed("500", status=500), "three"]
        assert (await stage.run(text)).status is RunStatus.FAILED
        assert (await stage.run(text)).status is RunStatus.SUCCEEDED
        assert len(stage.provider.sent) == 4
        assert (await stage.nodes())["a"].output == ["one", "answer", "three"]

    run_virtual(main())


def test_samples_share_their_answers_with_steps_that_name_one() -> None:
    async def main() -> None:
        stage = Stage()
        await stage.run(step("prompt: hello\nsamples: 2"))
        await stage.run(step("prompt: hello\nsample: 1"), run_id="r2")
        assert len(stage.provider.sent) == 2
        assert (await stage.nodes("r2"))["a"].cached

    run_virtual(main())


@pytest.mark.parametrize(
    ("options", "run_options", "sent"),
    [
        ("prompt: hello", RunOptions(), 1),
        ("prompt: hello\ncache: false", RunOptions(), 2),
        ("prompt: hello", RunOptions(no_cache=True), 2),
        ("prompt: hello", RunOptions(refresh=("a",)), 2),
    ],
)
def test_what_is_taken_from_the_memo(options: str, run_options: RunOptions, sent: int) -> None:
    async def main() -> int:
        stage = Stage()
        await stage.run(step(options))
        await stage.run(step(options), run_id="r2", options=run_options)
        return len(stage.provider.sent)

    assert run_virtual(main()) == sent


@pytest.mark.parametrize(
    "options", ['messages: "{{ [1] }}"', "messages: \"{{ ['x'] }}\"", 'messages: "{{ [] }}"', 'messages: "{{ {} }}"']
)
def test_messages_of_a_wrong_shape_are_the_authors_error(options: str) -> None:
    found = run(options)
    assert found.node.error["type"] == "TemplateFailed"
    assert "messages" in found.node.error["message"]


@pytest.mark.parametrize("sample", ["-1", "1.5", "true", "[1]"])
def test_a_sample_that_is_no_whole_number_is_the_authors_error(sample: str) -> None:
    found = run(f'prompt: hello\nsample: "{{{{ {sample} }}}}"')
    assert "`sample` must be a whole number from 0" in found.node.error["message"]


def test_a_cut_answer_is_kept_marked_or_fails_as_the_step_says() -> None:
    cut = Completion(text="half", model="m", finish_reason="length", usage=Usage(output_tokens=2))
    kept = run("prompt: hello", cut)
    assert (kept.node.output, kept.node.truncated) == ("half", True)
    failed = run("prompt: hello\non_truncated: fail", cut)
    assert failed.node.error["type"] == "TruncatedAnswer"
    assert failed.node.error["answer"] == "half"
    assert not failed.stage.store.cached_keys


def test_an_error_of_a_provider_that_is_down_says_so_in_the_event() -> None:
    assert ProviderDown("gone", hint="wait").as_dict() == {"type": "ProviderDown", "message": "gone", "hint": "wait"}
