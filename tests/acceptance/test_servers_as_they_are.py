"""Refusals and ends as real servers give them, and what becomes of the run, its rows and its fallbacks."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.project import QUICK, Project
from tests.support.replies import Reply, echo, error_body, failed, prompt_of
from tests.support.server import Server

GOOD = Reply(text="good")
RATE = "Rate limit reached on tokens per min (TPM): Limit 30000, Requested 45411."
DAY = "Rate limit reached on requests per day (RPD): Limit 1000, Used 1000, Requested 1. Please try again in 2h44m."


def _rows(project: Project, count: int = 6, **top: Any) -> str:
    step = {"foreach": f"{{{{ range({count}) | list }}}}", "prompt": "row {{ item }}", "on_error": "continue"}
    return project.flow(steps={"a": step}, limits={"max_concurrent": 1, **top})


@pytest.mark.parametrize(
    "refusal",
    [
        Reply(status=403, body={"error": {"message": "This input was flagged", "metadata": {"reasons": ["x"]}}}),
        failed(400, "The response was filtered", "content_filter"),
        failed(403, "Project `p` does not have access to model `m`", "model_not_found"),
        Reply(status=400, body={"object": "error", "message": "Invalid model: m", "type": "invalid_model"}),
        failed(404, "The API deployment for this resource does not exist.", "DeploymentNotFound"),
        failed(429, RATE, "rate_limit_exceeded"),
        failed(400, "This model's maximum context length is 10 tokens", "context_length_exceeded"),
        Reply(text="half", finish_reason="content_filter: PROHIBITED_CONTENT"),
    ],
)  # fmt: skip
def test_a_refusal_of_one_request_asks_the_fallback_and_is_not_tried_again(
    refusal: Reply, project: Project, server: Server
) -> None:
    server.script = lambda body, n: GOOD if body["model"] == "other" else refusal
    file = project.flow(steps={"a": {"prompt": "x", "fallback": ["other"]}}, outputs={"a": "{{ a }}"})
    assert project.json("run", file)["outputs"] == {"a": "good"}
    assert [seen.body["model"] for seen in server.requests] == ["test-model", "other"]


def test_one_flagged_row_is_that_row_s_alone(project: Project, server: Server) -> None:
    flagged = Reply(status=403, body=error_body("m requires moderation, and this input was flagged"))
    server.script = lambda body, n: flagged if prompt_of(body) == "row 0" else GOOD
    counts = project.json("run", _rows(project))["steps"]["a"]["counts"]
    assert (counts["succeeded"], counts["failed"]) == (5, 1)


@pytest.mark.parametrize(
    ("preceded", "refusal", "lost"),
    [
        (3, failed(400, "Your credit balance is too low to access the API."), 0),
        (3, Reply(status=403, body={"code": 30001, "message": "Sorry, your account balance is insufficient"}), 0),
        (3, failed(401, "Incorrect API key provided", "invalid_api_key"), 0),
        (0, Reply(status=404, body={"detail": "Not Found"}), 0),
        (0, Reply(status=405, body="Method Not Allowed"), 0),
        (0, Reply(status=307, headers={"Location": "http://elsewhere.invalid/"}, body=""), 0),
        (0, failed(401, "no", "invalid_api_key"), 0),
        (3, failed(429, DAY), 0),
        (3, Reply(status=503, body="full", headers={"Retry-After": "9840"}), 0),
    ],
)  # fmt: skip
def test_what_no_row_can_help_pauses_the_run_and_burns_none(
    preceded: int, refusal: Reply, lost: int, project: Project, server: Server
) -> None:
    server.script = lambda body, n: GOOD if n <= preceded else refusal
    file = _rows(project)
    outcome = project.cli("run", file)
    assert outcome.code == 3, outcome.said
    assert len(server.requests) <= preceded + 2
    if "9840" in str(refusal) or "2h44m" in str(refusal):
        assert " UTC (2:44:00)" in outcome.err
    server.script = lambda body, n: GOOD
    assert project.cli("resume").code == 0
    counts = project.json("show", "last")["steps"]["a"]["counts"]
    assert (counts["succeeded"], counts["failed"]) == (6 - lost, lost)


@pytest.mark.parametrize(
    "refusal",
    [
        Reply(status=429, body=error_body("Please retry in 1.2s.")),
        Reply(status=429, body=[{"error": {"code": 429, "details": [{"retryDelay": "1.2s"}]}}]),
        Reply(status=429, body=error_body("slow"), headers={"Retry-After": "1.2s"}),
        Reply(status=503, body="full", headers={"retry-after-ms": "1200"}),
    ],
)
def test_a_wait_longer_than_the_timeout_costs_no_row(refusal: Reply, project: Project, server: Server) -> None:
    server.script = lambda body, n: refusal if n == 1 else GOOD
    file = project.flow(steps={"a": {"prompt": "x", "timeout": "1s", "retry": {"initial_delay": "1ms"}}})
    project.json("run", file)
    first, second = server.requests
    assert second.arrived - first.arrived >= 1.15


@pytest.mark.parametrize("status", [408, 409, 420, 423, 425, 449, 498, 520, 529])
def test_statuses_that_pass_are_tried_again(status: int, project: Project, server: Server) -> None:
    server.script = lambda body, n: failed(status, "not now") if n == 1 else GOOD
    project.json("run", project.flow(steps={"a": {"prompt": "x"}}))
    assert len(server.requests) == 2


def test_an_unknown_end_is_marked_and_told_and_not_reused(project: Project, server: Server) -> None:
    server.script = lambda body, n: Reply(text="The capital is Par", finish_reason="odd")
    file = project.flow(steps={"a": {"prompt": "x"}}, outputs={"a": "{{ a }}"})
    outcome = project.cli("run", file, "--json")
    assert outcome.json["steps"]["a"]["truncated"] is True
    assert outcome.err.count("'odd'") == 1
    assert project.json("run", file)["requests"]["cached"] == 0


def test_a_broken_off_answer_is_tried_again(project: Project, server: Server) -> None:
    server.script = lambda body, n: Reply(text="Par", finish_reason="abort") if n == 1 else GOOD
    file = project.flow(steps={"a": {"prompt": "x"}}, outputs={"a": "{{ a }}"})
    assert project.json("run", file)["outputs"] == {"a": "good"}


def test_a_tool_call_is_the_output_of_a_step_that_sends_tools(project: Project, server: Server) -> None:
    server.script = lambda body, n: Reply(text="", finish_reason="tool_calls") if "tools" in body else echo(body, n)
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    steps = {"a": {"prompt": "x", "params": {"tools": [tool]}}, "b": {"prompt": "It wants {{ a }}"}}
    output = project.json("run", project.flow(steps=steps))["steps"]["a"]["output"]
    assert json.loads(output)["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}


def test_the_server_s_words_are_told_and_whole_in_the_record(project: Project, server: Server) -> None:
    body = {"message": {"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted", "input": 7}]}}
    server.script = lambda _body, n: Reply(status=422, body=body)
    outcome = project.cli("run", project.flow(steps={"a": {"prompt": "x", "seed": 7, "retry": QUICK}}))
    assert outcome.code == 1
    assert "body.seed: Extra inputs are not permitted" in outcome.err
    error = project.json("show", "last")["steps"]["a"]["attempt_log"][0]["error"]
    assert json.loads(error["answer"]) == body
