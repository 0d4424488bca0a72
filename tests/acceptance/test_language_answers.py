"""The language: schemas, fallbacks, samples, and answers that are cut or refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.author import Author
from tests.support.project import as_yaml
from tests.support.replies import FAULTS, Reply, prompt_of

WORDS = {"type": "array", "items": {"type": "string"}}


def _refuses_root_arrays(body: dict[str, Any], n: int) -> Reply:
    del n
    form = body["response_format"]["json_schema"]
    if form["schema"].get("type") != "object":
        return FAULTS["400"]
    return Reply(text=json.dumps({"value": ["a", "b"]}))


def test_a_schema_whose_root_is_no_object_travels_as_value_and_is_unwrapped(author: Author) -> None:
    author.server.script = _refuses_root_arrays
    flow = {
        "defaults": {"model": "m"},
        "steps": {"it": {"prompt": "hi", "output": WORDS}, "n": {"value": "{{ it | length }}"}},
        "outputs": {"o": "{{ it }}", "n": "{{ n }}"},
    }
    assert author.outputs(as_yaml(flow)) == {"o": ["a", "b"], "n": 2}
    form = author.server.requests[0].body["response_format"]
    assert form["type"] == "json_schema"
    assert form["json_schema"]["strict"] is True
    assert form["json_schema"]["schema"]["properties"] == {"value": WORDS}


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        ({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}, True),
        ({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}, False),
        ({"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False}, False),
        ({"type": "object", "properties": {}, "required": [], "additionalProperties": {"type": "string"}}, False),
        ({"type": "string", "minLength": 1}, False),
        ({"type": "integer", "minimum": 1}, True),
    ],
)  # fmt: skip
def test_strict_is_set_where_the_schema_allows_it(author: Author, schema: dict[str, Any], *, strict: bool) -> None:
    form = author.asked(prompt="hi", output=schema)["response_format"]["json_schema"]
    assert form["strict"] is strict


@pytest.mark.parametrize(("prompt", "told"), [("List words", True), ("List words as JSON", False)])
def test_output_json_names_json_to_the_model_once(author: Author, prompt: str, *, told: bool) -> None:
    body = author.asked(prompt=prompt, output="json")
    assert body["response_format"] == {"type": "json_object"}
    assert sum("JSON" in message["content"] for message in body["messages"]) == 1
    assert (len(body["messages"]) == 2) is told


def test_a_schemas_file_is_made_whole_and_never_fetched(author: Author) -> None:
    author.write(
        "shapes/main.json", '{"type": "object", "properties": {"a": {"$ref": "part.json#/$defs/n"}}, "required": ["a"]}'
    )
    author.write("shapes/part.json", '{"$defs": {"n": {"type": "integer", "maximum": 5}}}')
    flow = "defaults: {model: m}\nsteps: {it: {prompt: '[json={\"a\": 4}]', output: ./shapes/main.json}}\noutputs: {o: '{{ it.a }}'}"
    assert author.outputs(flow) == {"o": 4}
    sent = json.dumps(author.server.requests[0].body["response_format"])
    assert '"maximum": 5' in sent
    assert "part.json" not in sent
    url = "http://127.0.0.1:9/s.json"
    assert "URL" in author.problem(f"steps: {{it: {{prompt: hi, model: m, output: {url}}}}}").message
    author.write("shapes/main.json", json.dumps({"$ref": url}))
    assert "URL" in author.problem(flow).message


def test_an_invalid_answer_is_asked_twice_more_with_what_is_wrong_then_fails_with_the_last(author: Author) -> None:
    author.server.script = lambda body, n: Reply(text=f"no {n}")
    step = author.run(as_yaml({"defaults": {"model": "m"}, "steps": {"it": {"prompt": "hi", "output": WORDS}}})).steps[
        "it"
    ]
    assert step.status == "failed"
    assert (step.error or {})["answer"] == "no 3"
    talks = [[message["content"] for message in seen.body["messages"]] for seen in author.server.requests]
    assert [len(talk) for talk in talks] == [1, 3, 3]
    assert talks[1][1] == "no 1"
    assert "JSON" in talks[1][2]


@pytest.mark.parametrize(
    ("fallback", "asked"),
    [
        (["two"], ["one", "two"]),
        (["two", "three"], ["one", "two", "three"]),
        ([{"model": "three"}], ["one", "three"]),
        ([{"provider": "other", "model": "three"}], ["one", "other three"]),
        (["two", {"provider": "{{ inputs.p }}", "model": "{{ inputs.m }}"}], ["one", "two", "other three"]),
    ],
)
def test_the_forms_of_a_fallback(author: Author, fallback: list[Any], asked: list[str]) -> None:
    def script(body: dict[str, Any], n: int) -> Reply:
        del n
        last = body["model"] == asked[-1].split()[-1]
        return Reply(text=f"from {body['model']}") if last else FAULTS["refusal"]

    author.server.script = script
    flow = {
        "inputs": {"p": "other", "m": "three"},
        "providers": {"other": {"type": "openai", "base_url": author.server.url, "headers": {"X-Who": "other"}}},
        "steps": {"it": {"prompt": "hi", "model": "one", "fallback": fallback}},
        "outputs": {"o": "{{ it }}", "m": "{{ steps.it.model }}"},
    }
    found = author.outputs(as_yaml(flow))
    assert found == {"o": f"from {asked[-1].split()[-1]}", "m": asked[-1].split()[-1]}
    seen = [f"{one.headers.get('x-who', '')} {one.body['model']}".strip() for one in author.server.requests]
    assert seen == asked


def test_five_samples_are_five_equal_requests_and_a_list(author: Author) -> None:
    author.server.script = lambda body, n: Reply(text=f"{prompt_of(body)} {n}")
    author.keep()
    flow = 'defaults: {model: m}\nsteps: {it: {prompt: toss, samples: 5}, n: {value: "{{ it | length }}"}}\noutputs: {o: "{{ it }}", n: "{{ n }}"}'
    found = author.outputs(flow)
    assert sorted(found["o"]) == [f"toss {n}" for n in range(1, 6)]
    assert found["n"] == 5
    plain = {"model": "m", "messages": [{"role": "user", "content": "toss"}]}
    assert [seen.body for seen in author.server.requests] == [plain] * 5
    assert author.outputs(flow) == found
    one = author.outputs("defaults: {model: m}\nsteps: {it: {prompt: toss, samples: 1}}\noutputs: {o: '{{ it }}'}")
    assert one == {"o": [found["o"][0]]}
    assert len(author.server.requests) == 5


def test_a_sample_is_in_the_key_and_its_default_is_0(author: Author) -> None:
    author.server.script = lambda body, n: Reply(text=str(n))
    author.keep()

    def ask(option: str) -> Any:
        return author.outputs(
            f"defaults: {{model: m}}\nsteps: {{it: {{prompt: toss{option}}}}}\noutputs: {{o: '{{{{ it }}}}'}}"
        )["o"]

    assert [ask(""), ask(", sample: 0"), ask(", sample: 3"), ask(", sample: 3"), ask("")] == ["1", "1", "2", "2", "1"]
    assert ask(", sample: 2, samples: 3")[1] == "2", "`samples` count from `sample`"


@pytest.mark.parametrize(("sample", "said"), [("-1", "too small"), ("x", "whole number"), ("1.5", "whole number")])
def test_a_sample_is_a_whole_number(author: Author, sample: str, said: str) -> None:
    assert said in author.problem(f"steps: {{it: {{prompt: a, model: m, sample: {sample}}}}}").message


@pytest.mark.parametrize("option", ["", "on_truncated: warn"])
def test_a_cut_answer_is_kept_and_marked(author: Author, option: str) -> None:
    author.server.script = lambda body, n: FAULTS["length"]
    step = author.run(f"steps: {{it: {{prompt: a, model: m, {option}}}}}").steps["it"]
    assert (step.status, step.output, step.truncated) == ("succeeded", "cut off in the mid", True)


def test_a_cut_answer_fails_where_that_is_asked_for(author: Author) -> None:
    author.server.script = lambda body, n: FAULTS["length"]
    error = author.error("steps: {it: {prompt: a, model: m, on_truncated: fail}}")
    assert (error["type"], error["answer"]) == ("TruncatedAnswer", "cut off in the mid")


@pytest.mark.parametrize("fault", ["refusal", "content_filter"])
def test_a_refusal_fails_once_with_its_text(author: Author, fault: str) -> None:
    author.server.script = lambda body, n: FAULTS[fault]
    error = author.error("steps: {it: {prompt: a, model: m}}")
    assert error["answer"] == (FAULTS[fault].refusal or FAULTS[fault].text)
    assert len(author.server.requests) == 1
