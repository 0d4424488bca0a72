"""When many steps fail, a run says so while it goes on, or ends where its author wants that; and its figures."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.project import Project
from tests.support.replies import Reply, prompt_of
from tests.support.server import Server


def _flow(project: Project, count: int, *, failing: int, **top: Any) -> str:
    """Steps of which the first so many fail."""
    steps = {f"s{n:03}": {"prompt": f"ask {n}" + (" [status=400]" if n < failing else "")} for n in range(count)}
    return project.flow(steps=steps, **top)


def _events(project: Project, kind: str) -> list[dict[str, Any]]:
    lines = (project.folder / "events.jsonl").read_text().splitlines()
    return [event for line in lines if (event := json.loads(line))["event"] == kind]


@pytest.mark.parametrize("failing", [3, 30])
def test_a_run_in_which_many_steps_fail_says_so_once(failing: int, project: Project) -> None:
    outcome = project.cli("run", _flow(project, 40, failing=failing), "--events", "events.jsonl")
    assert outcome.code == 1, outcome.said
    (told,) = _events(project, "FailuresHigh")
    assert told["ended"] >= 20
    assert told["share"] == pytest.approx(told["failed"] / told["ended"])
    assert told["share"] > 0.05
    (alert,) = [line for line in outcome.err.splitlines() if line.startswith("alert: ")]
    assert f"{told['failed']} of {told['ended']} steps failed so far" in alert
    assert outcome.err.count("many steps failed") == 1
    assert len(_events(project, "NodeEnded")) == 40, "the alert alone ended the run"


@pytest.mark.parametrize(("count", "failing"), [(19, 19), (40, 0), (40, 1)])
def test_a_few_steps_or_a_few_failures_are_no_alert(count: int, failing: int, project: Project) -> None:
    """The one of forty ends first: 1 of 20 is just 5 %."""
    outcome = project.cli("run", _flow(project, count, failing=failing), "--events", "events.jsonl")
    assert outcome.code == (1 if failing else 0), outcome.said
    assert _events(project, "FailuresHigh") == []
    assert "alert" not in outcome.err
    assert "many steps failed" not in outcome.err


def test_attempts_that_succeeded_in_the_end_are_no_failures(project: Project) -> None:
    shaky = " [status=503] [times=1]"
    steps = {f"s{n}": {"prompt": f"ask {n}" + (shaky if n % 5 == 0 else "")} for n in range(25)}
    outcome = project.cli("run", project.flow(steps=steps), "--events", "events.jsonl")
    assert outcome.code == 0, outcome.said
    assert len(_events(project, "NodeRetrying")) == 5
    assert _events(project, "FailuresHigh") == []


def test_steps_that_an_earlier_run_attempt_carried_out_do_not_count_again(project: Project, server: Server) -> None:
    """Of 40 steps 30 failed; they are mended, and the 10 that are kept do not hide or make an alert."""
    project.json("run", _flow(project, 40, failing=30), code=1)
    server.script = lambda body, n: Reply(text="fine")
    outcome = project.cli("resume", "last", "--events", "events.jsonl")
    assert outcome.code == 0, outcome.said
    assert _events(project, "FailuresHigh") == []


def test_stop_at_error_rate_ends_the_run_and_nothing_more_is_sent(project: Project, server: Server) -> None:
    file = _flow(project, 200, failing=200, limits={"stop_at_error_rate": "50%", "max_concurrent": 2})
    outcome = project.cli("run", file, "--events", "events.jsonl")
    assert outcome.code == 1, outcome.said
    sent = len(server.requests)
    assert 10 <= sent <= 50, sent
    assert "more than `stop_at_error_rate` allows" in outcome.err
    shown = project.json("show", "last")
    assert shown["status"] == "failed"
    assert shown["error"]["type"] == "TooManyFailures"
    tally = [step["status"] for step in shown["steps"].values()]
    assert tally.count("failed") == sent
    assert tally.count("cancelled") == 200 - sent

    server.script = lambda body, n: Reply(text="fine")
    assert project.json("resume", "last")["status"] == "succeeded"
    assert len(server.requests) == sent + 200


@pytest.mark.parametrize(("count", "allowed"), [(9, "0%"), (30, "80%")])
def test_a_share_that_is_allowed_does_not_end_it(count: int, allowed: str, project: Project, server: Server) -> None:
    file = _flow(project, count, failing=5, limits={"stop_at_error_rate": allowed})
    shown = project.json("run", file, code=1)
    assert len(server.requests) == count
    assert shown["error"] is None


# figures


def test_figures_are_told_by_model_and_by_step_and_of_each_account(project: Project, server: Server) -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}

    def script(body: dict[str, Any], n: int) -> Reply:
        failed = prompt_of(body) == "bad"
        return Reply(status=400, body="no") if failed else Reply(text="fine", usage=usage)

    server.script = script
    project.write("flowllm.yaml", {"prices": {"test-model": {"input": 1000, "output": 2000}}})
    steps = {"a": {"prompt": "a", "samples": 3}, "b": {"prompt": "b", "model": "other-model"}, "bad": {"prompt": "bad"}}
    result = project.json("run", project.flow(steps=steps, limits={"max_concurrent": 4}), code=1)
    models, by_step = result["models"], result["step_figures"]
    found = [(one["model"], one["provider"], one["requests"], one["failed"]) for one in models]
    assert found == [("other-model", "openai", 1, 0), ("test-model", "openai", 4, 1)]
    assert [one["cost_usd"] for one in models] == [None, pytest.approx(0.039)]
    assert {name: part["requests"] for name, part in by_step.items()} == {"a": 3, "b": 1, "bad": 1}
    assert (by_step["a"]["input_tokens"], by_step["a"]["output_tokens"]) == (21, 9)
    assert by_step["a"]["cost_usd"] == pytest.approx(0.039)
    assert by_step["b"]["cost_usd"] is None
    assert result["usage"]["input_tokens"] == 28
    assert result["requests"]["sent"] == 5
    assert by_step["bad"]["latency_s"] == {"p50": None, "p90": None, "p99": None}
    gauge = result["limits"]["openai"]
    assert (gauge["max_concurrent"], gauge["granted"], gauge["in_flight"], gauge["waiting"]) == (4, 5, 0, 0)
    assert gauge["breaker"] == "closed"
    assert project.json("show", "last")["models"] == models


def test_quantiles_are_those_of_the_requests(project: Project) -> None:
    """Of a hundred requests, the slowest two took at least 0.3 s, and half of them waited for one of ten slots."""
    steps = {f"s{n}": {"prompt": f"ask {n}" + (" [sleep=0.3]" if n < 2 else "")} for n in range(100)}
    result = project.json("run", project.flow(steps=steps))
    p50, p90, p99 = (result["latency_s"][name] for name in ("p50", "p90", "p99"))
    assert 0 < p50 <= p90 <= p99
    assert p99 >= 0.295
    assert result["queue_s"]["p99"] > 0
