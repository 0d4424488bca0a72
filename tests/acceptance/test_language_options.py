"""The language: options of steps: what is sent, retries, timeouts, what is remembered, who goes first."""

from __future__ import annotations

from typing import Any

import pytest

from flowllm.core.events import NodeRetrying
from tests.support.author import Author
from tests.support.project import as_yaml
from tests.support.replies import FAULTS, Reply, rate_limited


@pytest.mark.parametrize(
    ("option", "sent"),
    [
        ({"max_tokens": 7}, {"max_tokens": 7}),
        ({"temperature": 0}, {"temperature": 0}),
        ({"temperature": 0.5}, {"temperature": 0.5}),
        ({"top_p": 0.9}, {"top_p": 0.9}),
        ({"seed": 3}, {"seed": 3}),
        ({"stop": "END"}, {"stop": "END"}),
        ({"stop": ["a", "b"]}, {"stop": ["a", "b"]}),
        ({"params": {"logit_bias": {"1": 5}, "user": "me", "frequency_penalty": 0.5}}, {"logit_bias": {"1": 5}, "user": "me", "frequency_penalty": 0.5}),
        ({"sample": 3}, {}),
        ({"priority": "high", "timeout": "5m", "cache": False, "on_error": "continue", "on_truncated": "fail", "retry": {"max_attempts": 2}, "fallback": ["x"]}, {}),
    ],
)  # fmt: skip
def test_what_an_option_sends_from_the_step_and_from_defaults(
    author: Author, option: dict[str, Any], sent: dict[str, Any]
) -> None:
    whole = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **sent}
    one = {"steps": {"it": {"prompt": "hi", "model": "m", **option}}}
    other = {"defaults": {"model": "m", **option}, "steps": {"it": {"prompt": "hi"}}}
    assert [seen.body for flow in (one, other) for seen in author.sent(as_yaml(flow))] == [whole, whole]


def test_a_step_wins_over_defaults_and_defaults_are_for_llm_steps_alone(author: Author) -> None:
    flow = """
        defaults: {model: m, temperature: 1, params: {user: me, tier: a}, retry: {max_attempts: 1}, timeout: 1ms, output: json}
        steps:
          it: {prompt: hi, temperature: 0, params: {tier: b}, timeout: 30s, output: {type: object}}
          plain: {value: "{{ 1 }}"}
        """
    body = author.sent(flow)[0].body
    assert (body["temperature"], body["user"], body["tier"]) == (0, "me", "b")
    assert body["response_format"]["type"] == "json_schema"


@pytest.mark.parametrize("option", ["needs: [a]", 'when: "{{ true }}"', "foreach: [1]", "save: x.md", "prompt: hi"])
def test_what_defaults_do_not_take(author: Author, option: str) -> None:
    problem = author.problem(f"defaults: {{{option}}}\nsteps: {{a: {{value: 1}}}}")
    assert (problem.line, problem.column) == (1, 12)
    assert problem.message.startswith(
        (f"unknown key `{option.partition(':')[0]}`", f"`{option.partition(':')[0]}` is not")
    )
    assert "did you mean" not in problem.hint


@pytest.mark.parametrize(
    "option", ["stream: true", "n: 3", "model: x", "temperature: 1", "response_format: {}", "messages: []"]
)
def test_params_take_nothing_that_has_a_key_of_its_own(author: Author, option: str) -> None:
    assert (
        "does not belong under `params`"
        in author.problem(f"steps: {{it: {{prompt: hi, model: m, params: {{{option}}}}}}}").message
    )


QUICK = "initial_delay: 1ms, max_delay: 2ms"


@pytest.mark.parametrize(("retry", "requests"), [("", 5), ("max_attempts: 1", 1), ("max_attempts: 3", 3)])
def test_attempts_are_made_that_often(author: Author, retry: str, requests: int) -> None:
    author.server.script = lambda body, n: FAULTS["500"]
    author.error(f"steps: {{it: {{prompt: a, model: m, retry: {{{QUICK}, {retry}}}}}}}")
    assert len(author.server.requests) == requests


def test_rate_limit_answers_use_up_no_attempts(author: Author) -> None:
    author.server.script = lambda body, n: rate_limited("0.01") if n < 4 else Reply(text="done")
    flow = (
        f"steps: {{it: {{prompt: a, model: m, retry: {{{QUICK}, max_attempts: 1}}}}}}\noutputs: {{o: '{{{{ it }}}}'}}"
    )
    assert author.outputs(flow) == {"o": "done"}
    assert len(author.server.requests) == 4


def test_an_attempt_has_a_timeout_of_its_own_and_all_together_another(author: Author) -> None:
    author.server.script = lambda body, n: Reply(text="late", delay=30) if n == 1 else Reply(text="done")
    flow = f"steps: {{it: {{prompt: a, model: m, retry: {{{QUICK}, attempt_timeout: 100ms}}}}}}\noutputs: {{o: '{{{{ it }}}}'}}"
    assert author.outputs(flow) == {"o": "done"}
    author.server.script = lambda body, n: Reply(text="late", delay=30)
    error = author.error("steps: {it: {prompt: a, model: m, timeout: 100ms}}")
    assert error["type"] == "NodeTimedOut"


def test_waits_grow_by_the_multiplier_up_to_the_longest_and_jitter_can_be_none(author: Author) -> None:
    author.server.script = lambda body, n: FAULTS["500"]
    retry = "initial_delay: 20ms, max_delay: 80ms, multiplier: 4, jitter: none, max_attempts: 4"
    author.error(f"steps: {{it: {{prompt: a, model: m, retry: {{{retry}}}}}}}")
    waits = [event.delay_s for event in author.events if isinstance(event, NodeRetrying)]
    assert waits == pytest.approx([0.02, 0.08, 0.08])
    author.events.clear()
    author.error(f"steps: {{it: {{prompt: a, model: m, retry: {{{retry.replace('none', 'full')}}}}}}}")
    drawn = [event.delay_s for event in author.events if isinstance(event, NodeRetrying)]
    assert all(wait < most for wait, most in zip(drawn, waits, strict=True))


@pytest.mark.parametrize(
    ("option", "requests"),
    [("", 1), ("cache: true", 1), ("cache: false", 2), ("cache: {ttl: 7d}", 1), ("cache: {ttl: 1ms}", 2)],
)
def test_llm_steps_are_remembered_unless_told_otherwise(author: Author, option: str, requests: int) -> None:
    author.keep()
    for _ in range(2):
        author.outputs(f"steps: {{it: {{prompt: a, model: m, {option}}}}}")
    assert len(author.server.requests) == requests


@pytest.mark.parametrize(("option", "calls"), [("", 2), ("cache: true", 1)])
def test_python_steps_are_not_remembered_unless_told_to(author: Author, option: str, calls: int) -> None:
    author.keep()
    author.write(
        "mine.py", "def note(path):\n    with open(path, 'a') as file:\n        file.write('x')\n    return 1\n"
    )
    log = author.folder / "calls"
    for _ in range(2):
        author.outputs(f'steps: {{it: {{python: "./mine.py:note", with: {{path: {log}}}, {option}}}}}')
    assert log.read_text() == "x" * calls


def test_a_high_priority_goes_before_what_waits_longer(author: Author) -> None:
    author.server.latency = 0.05
    steps: dict[str, Any] = {f"low{n}": {"prompt": f"low {n}", "priority": "low"} for n in range(4)}
    steps |= {f"normal{n}": {"prompt": f"normal {n}"} for n in range(2)}
    steps["high"] = {"prompt": "high", "priority": "high"}
    flow = {"defaults": {"model": "m"}, "limits": {"max_concurrent": 1}, "steps": steps}
    # The first to come goes at once; while it is on its way, all others queue.
    words = [seen.prompt.split()[0] for seen in author.sent(as_yaml(flow))][1:]
    rank = {"high": 0, "normal": 1, "low": 2}
    assert words == sorted(words, key=lambda word: rank[word])
    assert len(words) == 6


def test_a_default_system_message_is_that_of_prompts_which_have_none(author: Author) -> None:
    author.write("system.md", "Be {{ inputs.how }}.\n")
    flow = """
        inputs: {how: brief}
        defaults: {model: m, system: Be kind.}
        steps:
          a: {prompt: one}
          b: {prompt: "two {{ a }}", system: Be rude.}
          c: {messages: [{role: user, content: "three {{ b }}"}]}
        """
    sent = [[message["content"] for message in seen.body["messages"]] for seen in author.sent(flow)]
    assert [talk[:-1] for talk in sent] == [["Be kind."], ["Be rude."], []]
    from_file = flow.replace("Be kind.", "{file: ./system.md}")
    assert author.sent(from_file)[0].body["messages"][0] == {"role": "system", "content": "Be brief."}
    templated = author.refusal(flow.replace("Be kind.", '"{{ inputs.how }}"'))
    assert [problem.message for problem in templated] == ["a template cannot stand under `defaults`"]
