"""The kinds of steps beside prompts, python and value: what their keys come to."""

from __future__ import annotations

import math
from typing import Any

import pytest

from flowllm.core.types import OnError, Priority, RetryPolicy, StepKind
from flowllm.language.parse import Overrides
from flowllm.language.workflow import EmbedBody, HttpBody, LlmBody, ShellBody, Step, WorkflowBody
from tests.support.workflows import problems, workflow

TOP = """
defaults: {model: chat, max_tokens: 5, params: {user: me}, retry: {max_attempts: 2}, priority: low, on_error: continue}
inputs: {x: tea}
secrets: [TOKEN]
steps:
"""
VALUES: dict[str, Any] = {"inputs": {"x": "tea"}, "steps": {}, "secrets": {"TOKEN": "hush"}}


def step(body: str, top: str = TOP) -> Step:
    return workflow(f"{top}  a: {body}\n").steps["a"]


def problem(body: str) -> str:
    found = problems(f"{TOP}  a: {body}\n")
    assert len(found) == 1, found
    return f"{found[0].message} ({found[0].hint})"


# --- embed --------------------------------------------------------------------------------------------------


def embed(text: str) -> EmbedBody:
    body = step(f"{{embed: {text}}}").body
    assert isinstance(body, EmbedBody)
    return body


@pytest.mark.parametrize(
    ("written", "texts"),
    [
        ("tea, model: m", "tea"),
        ("12, model: m", "12"),
        ('"{{ inputs.x }}", model: m', "tea"),
        ('[a, 3, "{{ inputs.x }}!"], model: m', ["a", "3", "tea!"]),
        ("[], model: m", []),
    ],
)
def test_an_embed_step_takes_texts_as_written(written: str, texts: object) -> None:
    assert embed(written).input.render(VALUES) == texts


def test_the_options_of_an_embed_step() -> None:
    body = embed('x, model: "{{ inputs.x }}", dimensions: 3, params: {user: you}, batch: {size: 7, max_wait: 1s}')
    assert body.dimensions is not None
    assert body.params is not None
    assert (body.model.render(VALUES), body.dimensions.render({}), body.params.render({})) == (
        "tea",
        3,
        {"user": "you"},
    )
    assert (body.batch_size, body.batch_wait) == (7, 1.0)


def test_of_the_defaults_an_embed_step_takes_what_is_not_for_chats_alone() -> None:
    found = step("{embed: x, model: m}")
    body = found.body
    assert isinstance(body, EmbedBody)
    assert (body.model.render({}), body.params, body.dimensions) == ("m", None, None)
    assert (body.batch_size, body.batch_wait) == (100, 0.05)
    assert (found.kind, found.cache.enabled, found.retry.max_attempts) == (StepKind.EMBED, True, 2)
    assert (found.priority, found.on_error) == (Priority.LOW, OnError.CONTINUE)


def test_an_embed_step_has_a_model_of_its_own() -> None:
    assert "`defaults.model` is one that chats" in problem("{embed: x}")


@pytest.mark.parametrize("top", ["defaults: {provider: simulated}\nsteps:\n", "steps:\n"])
def test_only_the_simulation_needs_none(top: str) -> None:
    overrides = Overrides() if "simulated" in top else Overrides(provider="simulated")
    body = workflow(f"{top}  a: {{embed: x}}\n", overrides=overrides).steps["a"].body
    assert isinstance(body, EmbedBody)
    assert (body.provider.render({}), body.model.render({})) == ("simulated", "simulated")


# --- http and shell -----------------------------------------------------------------------------------------


def test_a_request() -> None:
    body = step(
        '{http: {method: PUT, url: "https://h/{{ inputs.x }}", headers: {A: "Bearer {{ secrets.TOKEN }}", N: 1}, '
        'query: {q: [1, "{{ inputs.x }}"]}, json: {n: 1, x: "{{ inputs.x }}"}, allow_private: true}}'
    ).body
    assert isinstance(body, HttpBody)
    assert (body.method, body.url.text(VALUES), body.allow_private, body.body) == ("PUT", "https://h/tea", True, None)
    rendered = [part.render(VALUES) for part in (body.headers, body.query, body.json) if part is not None]
    assert rendered == [{"A": "Bearer hush", "N": "1"}, {"q": [1, "tea"]}, {"n": 1, "x": "tea"}]


@pytest.mark.parametrize(
    ("options", "attempts"),
    [
        ("", 5),
        ("method: GET", 5),
        ("method: HEAD", 5),
        ("method: POST", 1),
        ("method: PUT", 1),
        ("method: DELETE", 1),
        ("method: OPTIONS", 1),
    ],
)
def test_only_requests_that_change_nothing_are_sent_again_by_themselves(options: str, attempts: int) -> None:
    found = step(f"{{http: {{url: 'https://h', {options}}}}}")
    assert (found.retry.max_attempts, found.cache.enabled, found.on_error) == (attempts, False, OnError.FAIL)
    retried = step(f"{{http: {{url: 'https://h', {options}}}, retry: {{max_attempts: 3}}}}")
    assert retried.retry == RetryPolicy(max_attempts=3, hedge=found.retry.hedge)
    assert found.retry.hedge == (None if attempts > 1 else math.inf)


@pytest.mark.parametrize("does", ["{shell: ls", "{python: 'json:dumps'", "{http: {url: 'https://h', method: POST}"])
def test_what_may_have_effects_is_never_sent_twice_at_once(does: str) -> None:
    assert step(f"{does}}}").retry.hedge == math.inf
    assert step(f"{does}, retry: {{hedge: auto}}}}").retry.hedge == math.inf
    told = problem(f"{does}, retry: {{hedge: 30s}}}}")
    assert "the step `a` may have effects, and would have them twice" in told
    assert "expected auto, off or a duration such as 30s, found `often`" in problem(
        "{prompt: hi, retry: {hedge: often}}"
    )


def test_a_step_that_sends_nothing_is_not_said_to_have_effects() -> None:
    told = problem("{value: 1, retry: {hedge: 30s}}")
    assert "the step `a` sends nothing itself that could be sent once more" in told


def test_a_command_is_as_written() -> None:
    found = step(
        '{shell: "echo ${#A} ${A%.*} {%", stdin: "{{ inputs.x }}", env: {A: "{{ secrets.TOKEN }}", N: 8080, E: ""}}'
    )
    body = found.body
    assert isinstance(body, ShellBody)
    assert body.stdin is not None
    assert body.env is not None
    assert (body.command, body.stdin.text(VALUES)) == ("echo ${#A} ${A%.*} {%", "tea")
    assert body.env.render(VALUES) == {"A": "hush", "N": "8080", "E": ""}
    assert (found.retry.max_attempts, found.cache.enabled) == (1, False)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{shell: "echo {{ inputs.x }}"}', "values go in by `stdin:` and `env:`"),
        ("{shell: ls # all\n  }", "quote the text"),
        ('{shell: ls, stdin: "{{ secrets.TOKEN }}"}', "secrets cannot be used here"),
        ("{http: {url: 'https://h', body: '{{ secrets.TOKEN }}'}}", "secrets cannot be used here"),
        ("{http: {url: 'https://h', json: {a: '{{ secrets.TOKEN }}'}}}", "secrets cannot be used here"),
        ("{http: {method: GET}}", "`url` is missing in `http`"),
        ("{http: {url: 'ftp://h'}}", "`ftp://h` is not an address"),
        ("{http: {url: 'https://h', cookies: {}}}", "unknown key `cookies` in `http`"),
        ("{http: {url: 'https://h', query: {a: {b: 1}}}}", "expected a text, a number or a list of them"),
        ("{http: {url: 'https://h', method: get}}", "expected `GET`"),
        ("{value: 1, env: {A: b}}", "`env` does not apply to a `value` step"),
        ("{messages: [{role: user, content: x}], images: [a.png]}", "`images` does not apply to a `messages` step"),
    ],
)  # fmt: skip
def test_what_is_invalid_is_reported(body: str, message: str) -> None:
    assert message in problem(body)


# --- images and workflow ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "images"), [("a.png", "a.png"), ('["{{ inputs.x }}.png", b.jpg]', ["tea.png", "b.jpg"])]
)
def test_images_go_with_a_prompt(written: str, images: object) -> None:
    body = step(f"{{prompt: x, images: {written}}}").body
    assert isinstance(body, LlmBody)
    assert body.images is not None
    assert (body.images.render(VALUES), body.folder) == (images, "/flows")


INNER = "{inputs: {topic: , tone: dry}, steps: {v: {value: '{{ inputs.topic }}'}}, outputs: {v: '{{ v }}'}}"


def test_a_graph_as_a_step() -> None:
    found = step(f'{{workflow: {INNER}, with: {{topic: "{{{{ inputs.x }}}}"}}}}')
    body = found.body
    assert isinstance(body, WorkflowBody)
    assert body.arguments is not None
    assert (list(body.graph.steps), list(body.graph.outputs)) == (["v"], ["v"])
    assert body.arguments.render(VALUES) == {"topic": "tea"}
    assert (found.kind, found.retry.max_attempts, found.cache.enabled) == (StepKind.WORKFLOW, 1, False)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("{topic: a, tine: b}", "has no input `tine` (did you mean `tone`?)"),
        ("{tone: a}", "needs `topic`"),
        ("[a]", "expected a mapping"),
    ],
)
def test_what_a_graph_is_given_is_checked(given: str, message: str) -> None:
    assert message in problem(f"{{workflow: {INNER}, with: {given}}}")


def test_inputs_that_are_one_template_are_checked_when_they_are_known() -> None:
    assert problems(f"{TOP}  a: {{workflow: {INNER}, with: '{{{{ item }}}}', foreach: [{{topic: a}}]}}\n") == []


@pytest.mark.parametrize("option", ["retry: {max_attempts: 2}", "timeout: 5s", "cache: true"])
def test_a_graph_takes_no_option_that_its_steps_have(option: str) -> None:
    assert "its steps have their own" in problem(f"{{workflow: {INNER}, with: {{topic: a}}, {option}}}")
