"""The language: the kinds of steps, and what this version refuses by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.author import Author

PYTHON = """
    import asyncio, threading

    def plain(**given):
        return {"given": given, "thread": threading.current_thread() is not threading.main_thread()}

    async def on_the_loop(**given):
        await asyncio.sleep(0)
        return {"given": given, "thread": threading.current_thread() is not threading.main_thread()}

    def odd():
        return {1, 2}

    def broken(x):
        raise ValueError(f"not {x}")
    """


def test_python_gets_keyword_arguments_and_gives_json(author: Author) -> None:
    author.write("mine.py", PYTHON)
    flow = """
        steps:
          one: {python: "./mine.py:plain", with: {a: "{{ [1] }}", b: "n{{ 1 }}", c: 012, d: 5}}
          two: {python: "./mine.py:on_the_loop"}
          three: {python: "json:dumps", with: {obj: [1]}}
          odd: {python: "./mine.py:odd"}
          broken: {python: "./mine.py:broken", with: {x: 5}}
        """
    steps = author.run(flow).steps
    assert steps["one"].output == {"given": {"a": [1], "b": "n1", "c": "012", "d": 5}, "thread": True}
    assert steps["two"].output == {"given": {}, "thread": False}
    assert steps["three"].output == json.dumps([1])
    assert "odd returned" in (steps["odd"].error or {})["message"]
    assert "ValueError: not 5 (mine.py:" in (steps["broken"].error or {})["message"]


def test_validation_executes_nothing(author: Author) -> None:
    author.write("mine.py", "raise SystemExit('executed')\n")
    assert "does not define `use`" in author.problem('steps: {it: {python: "./mine.py:use"}}').message


def test_messages_take_the_apis_own_shape(author: Author) -> None:
    messages: list[dict[str, Any]] = [
        {"role": "developer", "content": "Be {{ inputs.how }}"},
        {"role": "user", "content": [{"type": "text", "text": "{{ inputs.how }}?"}], "name": "me"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "And?"},
    ]
    flow = f"inputs: {{how: brief}}\ndefaults: {{model: m}}\nsteps: {{it: {{messages: {json.dumps(messages)}}}}}"
    sent = author.sent(flow)[0].body["messages"]
    assert sent[0] == {"role": "developer", "content": "Be brief"}
    assert sent[1] == {"role": "user", "content": [{"type": "text", "text": "brief?"}], "name": "me"}
    assert sent[2:] == messages[2:]


@pytest.mark.parametrize(
    "step", ["{prompt: a, value: 1}", "{prompt: a, messages: []}", '{python: "json:dumps", value: 1}']
)
def test_a_step_does_one_thing(author: Author, step: str) -> None:
    assert "a step does one thing" in author.problem(f"steps: {{it: {step}}}").message


@pytest.mark.parametrize(
    ("kind", "option"),
    [
        ("value: 1", "model: m"),
        ("value: 1", "output: json"),
        ("value: 1", "with: {}"),
        ("prompt: a", "with: {}"),
        ('python: "json:dumps"', "temperature: 1"),
    ],
)
def test_an_option_of_another_kind_is_refused(author: Author, kind: str, option: str) -> None:
    problem = author.problem(f"defaults: {{model: m}}\nsteps: {{it: {{{kind}, {option}}}}}")
    assert "does not apply" in problem.message


@pytest.mark.parametrize("name", ["item", "index", "row.id", "output.score", "accepted"])
def test_a_name_that_means_something_elsewhere_says_where(author: Author, name: str) -> None:
    problem = author.problem(f'steps: {{it: {{value: "{{{{ {name} }}}}"}}}}')
    assert "is only known" in problem.hint


HISTORY = [{"role": "user", "content": "Hi {{ 1 }}"}, {"role": "assistant", "content": "Hello"}]


def test_a_template_among_messages_may_give_several_of_them(author: Author) -> None:
    flow = """
        defaults: {model: m}
        inputs: {history: {type: array, default: []}, last: {type: object, default: {role: user, content: Last}}}
        steps:
          it:
            messages:
              - {role: system, content: Be brief}
              - "{{ inputs.history }}"
              - "{{ inputs.last }}"
        """
    system, last = {"role": "system", "content": "Be brief"}, {"role": "user", "content": "Last"}
    assert author.sent(flow, history=HISTORY)[0].body["messages"] == [system, *HISTORY, last]
    assert author.sent(flow)[0].body["messages"] == [system, last]


@pytest.mark.parametrize(
    ("history", "told"),
    [
        ([{"content": "x"}], "number 2 has no `role`"),
        ([HISTORY[0], {"role": "user"}], "number 3 has no `content`"),
        ([[HISTORY[0]]], "number 2 is a list"),
        ([None], "number 2 is null"),
        (json.dumps(HISTORY), "number 2 is text"),
    ],
)
def test_messages_that_a_template_gives_are_looked_at(author: Author, history: Any, told: str) -> None:
    messages = [{"role": "user", "content": "a"}, "{{ h }}"]
    steps = {"h": {"value": history}, "it": {"messages": messages, "model": "m"}}
    error = author.error(json.dumps({"steps": steps}))
    assert told in error["message"]
    assert ("fromjson" in error["hint"]) is isinstance(history, str)
    assert author.server.requests == []
