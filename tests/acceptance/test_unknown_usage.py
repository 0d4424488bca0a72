"""Tokens and cost that a server does not tell are unknown, charged to budgets as reserved, and told alike everywhere."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.project import Project
from tests.support.replies import Reply
from tests.support.server import Server

PRICES = {"prices": {"test-model": {"input": 1000, "output": 1000}}}
SCORE = {"type": "object", "properties": {"score": {"type": "integer"}}, "required": ["score"]}
UNTOLD: dict[str, Any] = {"prompt_tokens": None, "completion_tokens": None}


def _asks(count: int) -> dict[str, Any]:
    return {f"s{n}": {"prompt": f"ask {n}", "max_tokens": 50, "retry": {"max_attempts": 1}} for n in range(count)}


@pytest.mark.parametrize("budget", [{"tokens": 200}, {"usd": 0.2}])
@pytest.mark.parametrize("usage", [UNTOLD, {"prompt_tokens": 10}, {"total_tokens": 0}])
def test_a_budget_stops_a_run_whose_server_tells_nothing(
    usage: dict[str, Any], budget: dict[str, Any], project: Project, server: Server
) -> None:
    """A bit over 60 are set aside for each."""
    project.write("flowllm.yaml", PRICES)
    server.script = lambda _body, _n: Reply(text="hi", usage=usage)
    file = project.flow(steps=_asks(10), budget=budget, limits={"max_concurrent": 1})
    result = project.json("run", file, code=3)
    assert len(server.requests) == 3
    assert (result["cost_usd"], result["usage"]["output_tokens"]) == (None, None)
    assert (result["at_least"]["cost_usd"], result["unknown"]["requests"]) == (0.0, 3)
    assert result["unknown"]["reserved_usd"] > 0.1
    done = [step for step in result["steps"].values() if step["status"] == "succeeded"]
    assert [(step["cost_usd"], step["usage"]["output_tokens"]) for step in done] == [(None, None)] * 3
    (listed,) = project.json("runs")
    assert (listed["cost_usd"], listed["unknown"]) == (None, result["unknown"])
    resumed = project.cli("resume", result["run_id"])
    assert (resumed.code, len(server.requests)) == (3, 3), resumed.said


def test_a_late_answer_costs_nobody_knows_what(project: Project, server: Server) -> None:
    project.write("flowllm.yaml", PRICES)
    server.script = lambda _body, n: Reply(text="hi", delay=5.0 if n == 2 else 0.0)
    late = {"max_attempts": 1, "attempt_timeout": "300ms"}
    steps = {
        "a": {"prompt": "one", "max_tokens": 50},
        "b": {"prompt": "two, after {{ a }}", "max_tokens": 50, "retry": late, "on_error": "continue"},
    }
    result = project.json("run", project.flow(steps=steps, outputs={"a": "{{ a }}"}))
    step = result["steps"]["b"]
    assert (step["status"], step["cost_usd"], step["usage"]["input_tokens"]) == ("failed", None, None)
    assert result["cost_usd"] is None
    assert result["at_least"]["cost_usd"] == result["steps"]["a"]["cost_usd"] > 0
    assert result["unknown"]["requests"] == 1
    (attempt,) = project.json("show", "last", "b")["attempt_log"]
    assert (attempt["status"], attempt["cost_usd"]) == ("unknown", None)
    assert attempt["reserved_usd"] == pytest.approx(result["unknown"]["reserved_usd"])
    (listed,) = project.json("runs")
    told = {name: result[name] for name in ("cost_usd", "unknown")}
    assert {name: listed[name] for name in told} == told
    assert listed["at_least"]["cost_usd"] == result["at_least"]["cost_usd"]
    shown = project.cli("show", "last")
    assert "for 1 request of unknown cost" in shown.out, shown.said


def test_an_answer_that_is_thrown_away_costs_what_it_said(project: Project, server: Server) -> None:
    project.write("flowllm.yaml", {"prices": dict.fromkeys(("test-model", "e"), PRICES["prices"]["test-model"])})
    usage = {"prompt_tokens": 10, "completion_tokens": 40, "total_tokens": 50}

    def answer(body: dict[str, Any], _n: int) -> Reply:
        if "input" in body:
            vectors = [{"index": i, "embedding": [1.0, 2.0]} for i in range(len(body["input"]))]
            return Reply(body={"data": vectors, "usage": {"prompt_tokens": 7, "total_tokens": 7}})
        prompt = body["messages"][0]["content"]
        ends = {"cut": "length", "filtered": "content_filter"}
        return Reply(text="half", usage=usage, finish_reason=ends.get(prompt, "stop"))

    server.script = answer
    tolerant = {"on_error": "continue", "retry": {"max_attempts": 1}, "cache": False}
    steps = {
        "invalid": {"prompt": "invalid", "output": SCORE, **tolerant},
        "cut": {"prompt": "cut", "on_truncated": "fail", **tolerant},
        "filtered": {"prompt": "filtered", **tolerant},
        "wrong": {"embed": "text", "model": "e", "dimensions": 8, **tolerant},
    }
    result = project.json("run", project.flow(steps=steps, outputs={"x": "{{ run.id }}"}))
    costs = {name: step["cost_usd"] for name, step in result["steps"].items()}
    assert costs == pytest.approx({"invalid": 0.15, "cut": 0.05, "filtered": 0.05, "wrong": 0.007})
    assert result["cost_usd"] == pytest.approx(0.257)


def test_the_cost_that_a_gateway_tells_is_taken(project: Project, server: Server) -> None:
    server.script = lambda _body, _n: Reply(text="hi", headers={"x-litellm-response-cost": "0.25"}, usage=UNTOLD)
    result = project.json("run", project.flow(steps=_asks(2)))
    assert (result["cost_usd"], result["usage"]["input_tokens"]) == (0.5, None)
    assert project.json("runs")[0]["cost_usd"] == 0.5


def test_a_list_price_is_told_as_one(project: Project) -> None:
    file = project.flow(steps={"a": {"prompt": "hello"}}, defaults={"model": "openai/gpt-4o-mini"})
    outcome = project.cli("run", file)
    assert "(list price of openai/gpt-4o-mini)" in outcome.err, outcome.said
    assert project.json("show", "last")["list_prices"] == ["openai/gpt-4o-mini"]
