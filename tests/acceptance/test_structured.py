"""Answers that must have a shape: asked again, handed on, or failed with the last one kept."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.project import Project, prompts
from tests.support.replies import FAULTS, Reply, failed, prompt_of
from tests.support.server import Server

SCORE = {"type": "object", "properties": {"score": {"type": "integer"}}, "required": ["score"]}
GOOD = Reply(text='{"score": 7}')


def _answers(server: Server, *replies: Reply) -> None:
    """One after the other, the last one for all that follow."""
    server.script = lambda body, n: replies[min(n, len(replies)) - 1]


def _judge(project: Project, **options: Any) -> str:
    return project.flow(steps={"judge": {"prompt": "How good?", "output": SCORE, **options}})


@pytest.mark.parametrize("bad", ['{"score": "high"}', "seven", '{"scores": 7}'])
def test_an_invalid_answer_is_asked_again_with_what_is_wrong(bad: str, project: Project, server: Server) -> None:
    _answers(server, Reply(text=bad), GOOD)
    result = project.json("run", _judge(project))
    assert result["steps"]["judge"]["output"] == {"score": 7}
    first, second = (seen.body["messages"] for seen in server.requests)
    assert second[: len(first)] == first
    assert second[-2] == {"role": "assistant", "content": bad}
    assert second[-1]["role"] == "user"
    words = {'{"score": "high"}': "score", "seven": "JSON", '{"scores": 7}': "'score'"}
    assert words[bad] in second[-1]["content"]
    assert project.json("run", _judge(project))["requests"]["sent"] == 0, "it is not under the first request's key"


def test_asking_again_after_an_empty_answer_sends_no_empty_message(project: Project, server: Server) -> None:
    _answers(server, Reply(text=" \n"), GOOD)
    assert project.json("run", _judge(project))["steps"]["judge"]["output"] == {"score": 7}
    (again,) = server.requests[1].body["messages"]
    assert again["role"] == "user"
    assert again["content"].startswith("How good?")
    assert "empty" in again["content"]


def test_a_server_that_refuses_the_models_json_itself_is_asked_again(project: Project, server: Server) -> None:
    refused = {
        "message": "Failed to validate JSON.",
        "type": "invalid_request_error",
        "code": "json_validate_failed",
        "failed_generation": '{"score": seven}',
    }
    _answers(server, Reply(status=400, body={"error": refused}), GOOD)
    result = project.json("run", _judge(project))
    assert result["steps"]["judge"]["output"] == {"score": 7}
    assert server.requests[1].body["messages"][-2]["content"] == '{"score": seven}'
    server.script = lambda _body, _n: Reply(status=400, body={"error": refused})
    step = project.json("run", _judge(project), "--no-cache", code=1)["steps"]["judge"]
    assert (step["error"]["type"], step["error"]["answer"]) == ("InvalidAnswer", '{"score": seven}')
    assert step["attempts"] == 3


@pytest.mark.parametrize("number", ["1e999", "NaN", "-Infinity", "9" * 5000, "[" * 300 + "]" * 300])
def test_a_number_that_json_has_not_is_an_invalid_answer_that_was_paid_for(
    number: str, project: Project, server: Server
) -> None:
    _answers(server, Reply(text=f'{{"score": 7, "more": {number}}}'), GOOD)
    step = project.json("run", _judge(project))["steps"]["judge"]
    assert (step["output"], step["attempts"]) == ({"score": 7}, 2)
    assert step["usage"]["output_tokens"] > 4, "the first answer is not counted"


@pytest.mark.parametrize(
    ("pattern", "told"), [("^([a-z0-9]+-?)+$", "does not match"), (r"^([a-z0-9]+-?)+\1x$", "cannot be checked")]
)
def test_a_pattern_that_python_never_ends_is_an_invalid_answer(
    pattern: str, told: str, project: Project, server: Server
) -> None:
    slug = "the-quick-brown-fox-jumps-over-the-lazy-dog-and-runs-away-very-fast"
    end = "" if "1x" in pattern else " into the woods"
    _answers(server, Reply(text=json.dumps({"slug": slug + end})))
    schema = {"type": "object", "properties": {"slug": {"type": "string", "pattern": pattern}}}
    steps = {"a": {"prompt": "a slug", "output": schema}}
    step = project.json("run", project.flow(steps=steps), code=1)["steps"]["a"]
    assert (step["error"]["type"], step["attempts"]) == ("InvalidAnswer", 3)
    assert told in step["error"]["message"]


def test_three_invalid_answers_fail_the_step_with_the_last_one_kept(project: Project, server: Server) -> None:
    _answers(server, Reply(text='{"score": "one"}'), Reply(text='{"score": "two"}'), Reply(text="three!"))
    step = project.json("run", _judge(project), code=1)["steps"]["judge"]
    assert len(server.requests) == 3
    assert step["error"]["type"] == "InvalidAnswer"
    assert step["attempts"] == 3
    assert step["usage"]["output_tokens"] > 0, "what was spent is not told"
    shown = project.cli("show", "last", "judge")
    assert "three!" in shown.out
    log = project.json("show", "last", "judge")["attempt_log"]
    assert [attempt["status"] for attempt in log] == ["succeeded"] * 3
    server.requests.clear()
    assert project.json("run", _judge(project), code=1)["requests"]["sent"] == 3, "an invalid answer was kept"


def _no_root_arrays(body: dict[str, Any], n: int) -> Reply:
    """As OpenAI's strict mode."""
    schema = body["response_format"]["json_schema"]["schema"]
    if schema.get("type") != "object":
        return failed(400, "schema must be a JSON Schema of 'type: \"object\"', got 'type: \"array\"'.")
    return Reply(text=json.dumps({name: ["a", "b"] for name in schema["properties"]}))


def test_a_root_array_works_where_the_server_refuses_one(project: Project, server: Server) -> None:
    server.script = _no_root_arrays
    output = {"type": "array", "items": {"type": "string"}}
    file = project.flow(
        steps={
            "words": {"prompt": "Words?", "output": output},
            "count": {"value": "{{ words | length }}"},
            "first": {"prompt": "{{ words[0] }}?", "output": output},
        }
    )
    steps = project.json("run", file)["steps"]
    assert steps["words"]["output"] == ["a", "b"]
    assert steps["count"]["output"] == 2
    assert server.requests[-1].prompt.startswith("a?")


def test_output_json_names_json_to_the_model(project: Project, server: Server) -> None:
    """OpenAI refuses the format json_object unless a message has the word."""

    def script(body: dict[str, Any], n: int) -> Reply:
        if "JSON" not in json.dumps(body["messages"]):
            return failed(400, "'messages' must contain the word 'json' in some form")
        assert body["response_format"] == {"type": "json_object"}
        return Reply(text='{"anything": [1, null]}')

    server.script = script
    file = project.flow(steps={"a": {"prompt": "Say something.", "output": "json"}})
    assert project.json("run", file)["steps"]["a"]["output"] == {"anything": [1, None]}


@pytest.mark.parametrize(
    ("reply", "asked"),
    [
        (Reply(text="never valid"), 3),
        (FAULTS["refusal"], 1),
        (FAULTS["content_filter"], 1),
        (FAULTS["500"], 5),
        (FAULTS["unknown_model"], 1),
    ],
    ids=["invalid", "refusal", "content filter", "down", "unknown model"],
)
def test_another_model_is_asked_when_the_first_one_will_not(
    reply: Reply, asked: int, project: Project, server: Server
) -> None:
    server.script = lambda body, n: GOOD if body["model"] == "second" else reply
    file = _judge(project, fallback=["second"])
    step = project.json("run", file)["steps"]["judge"]
    assert [seen.body["model"] for seen in server.requests] == ["test-model"] * asked + ["second"]
    assert (step["model"], step["output"]) == ("second", {"score": 7})
    server.script = lambda body, n: GOOD
    project.json("run", file)
    assert server.requests[-1].body["model"] == "test-model", "a fallback's answer stood for the first model's"


@pytest.mark.parametrize(("fault", "code"), [("400", 1), ("bad_key", 3)])
def test_no_other_model_is_asked_when_that_cannot_help(fault: str, code: int, project: Project, server: Server) -> None:
    server.script = lambda body, n: FAULTS[fault]
    project.json("run", _judge(project, fallback=["second"]), code=code)
    assert len(server.requests) == 1


@pytest.mark.parametrize("fault", ["refusal", "content_filter"])
def test_a_refusal_fails_once_with_its_words(fault: str, project: Project, server: Server) -> None:
    server.script = lambda body, n: FAULTS[fault]
    error = project.json("run", _judge(project), code=1)["steps"]["judge"]["error"]
    assert len(server.requests) == 1
    assert error["answer"] == (FAULTS[fault].refusal or FAULTS[fault].text)


def test_five_samples_are_five_requests_once(project: Project, server: Server) -> None:
    server.script = lambda body, n: Reply(text=f"{prompt_of(body)} number {n}")
    file = project.flow(
        steps={"ask": {"prompt": "toss", "samples": 5}, "vote": {"value": "{{ ask | unique | list | length }}"}}
    )
    result = project.json("run", file)
    assert sorted(result["steps"]["ask"]["output"]) == [f"toss number {n}" for n in range(1, 6)]
    assert result["steps"]["vote"]["output"] == 5
    assert [seen.body for seen in server.requests] == [server.requests[0].body] * 5, "the sample's number was sent"
    assert project.json("run", file)["requests"]["sent"] == 0
    more = project.flow(steps={"ask": {"prompt": "toss", "samples": 7}})
    assert project.json("run", more)["requests"]["sent"] == 2


def test_a_sample_of_its_own_is_another_answer(project: Project, server: Server) -> None:
    server.script = lambda body, n: Reply(text=f"number {n}")
    steps = {f"s{n}": {"prompt": "toss", "sample": n} for n in range(3)}
    result = project.json("run", project.flow(steps=steps))
    assert len({step["output"] for step in result["steps"].values()}) == 3


def test_an_answer_that_was_cut_is_kept_marked_and_told(project: Project, server: Server) -> None:
    server.script = lambda body, n: FAULTS["length"]
    outcome = project.cli("run", project.flow(steps=prompts(a="a"), outputs={"a": "{{ a }}"}))
    assert outcome.code == 0
    assert "cut off in the mid" in outcome.out
    assert "cut short: a" in outcome.err
    assert project.json("show", "last")["steps"]["a"]["truncated"] is True


def test_on_truncated_fail_fails(project: Project, server: Server) -> None:
    server.script = lambda body, n: FAULTS["length"]
    keep = project.flow(steps=prompts(a="a"))
    project.json("run", keep)
    strict = project.flow(name="strict.yaml", steps={"a": {"prompt": "a", "on_truncated": "fail"}})
    error = project.json("run", strict, code=1)["steps"]["a"]["error"]
    assert error["type"] == "TruncatedAnswer"
    assert error["answer"] == "cut off in the mid"
    assert project.json("run", keep)["steps"]["a"]["cached"] is True


def test_an_empty_answer_is_asked_again_and_never_a_success(project: Project, server: Server) -> None:
    step = {"prompt": "a", "retry": {"max_attempts": 3, "initial_delay": "1ms"}}
    file = project.flow(steps={"a": step}, outputs={"a": "{{ a }}"})
    _answers(server, Reply(text=""), Reply(text=" \n"), Reply(text="a"))
    assert project.json("run", file)["outputs"] == {"a": "a"}
    server.script = lambda body, n: Reply(text="")
    kinds = {}
    for output in (None, {"type": "object"}):
        file = project.flow(steps={"a": step if output is None else {**step, "output": output}})
        failed = project.json("run", file, "--no-cache", code=1)["steps"]["a"]
        assert failed["attempts"] == 3
        assert "gave an empty answer" in failed["error"]["message"]
        kinds[output is None] = failed["error"]["type"]
    assert kinds == {True: "EmptyAnswer", False: "InvalidAnswer"}
