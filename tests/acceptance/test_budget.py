"""A run stays within its budget, resumes included, and says what to do when it is used up."""

from __future__ import annotations

import re
import signal
from typing import Any

import pytest

from tests.support.project import Project, killed_at_exit, until
from tests.support.replies import FAULTS, Reply, prompt_of
from tests.support.server import Server

PRICES = {"prices": {"test-model": {"input": 1000, "output": 1000}}}
"""A tenth of a cent for each token."""
FIFTY = {"prompt_tokens": 10, "completion_tokens": 40, "total_tokens": 50}
"""What each answer takes. A bit over 60 are set aside for it."""


@pytest.fixture(autouse=True)
def _each_answer_takes_fifty(server: Server) -> None:
    server.script = lambda body, n: Reply(text=f"re: {prompt_of(body)}", usage=FIFTY)


def _flow(project: Project, count: int = 10, *, name: str = "flow.yaml", concurrent: int = 1, **top: Any) -> str:
    asks = {f"s{n}": {"prompt": f"ask {n}", "max_tokens": 50, "retry": {"max_attempts": 1}} for n in range(count)}
    return project.flow(name=name, limits={"max_concurrent": concurrent}, **{"steps": asks, **top})


def _sent(server: Server) -> list[str]:
    return [seen.prompt for seen in server.requests]


@pytest.mark.parametrize("concurrent", [1, 10])
@pytest.mark.parametrize("budget", [{"tokens": 200}, {"usd": 0.2}, {"usd": 0.2, "tokens": 1_000_000}])
def test_nothing_is_sent_that_could_pass_it(
    budget: dict[str, Any], concurrent: int, project: Project, server: Server
) -> None:
    """50, 100, 150 are spent; a fourth could take the run to 210."""
    project.write("flowllm.yaml", PRICES)
    outcome = project.cli("run", _flow(project, budget=budget, concurrent=concurrent))
    assert outcome.code == 3, outcome.said
    assert len(server.requests) == 3
    (run_id,) = project.run_ids()
    assert "could pass the budget" in outcome.err
    assert f"flowllm resume {run_id}" in outcome.err
    more = f"tokens={2 * budget['tokens']}" if "usd" not in budget else "usd=0.4"
    assert set(re.findall(r"--budget (\S+)", outcome.err)) == {more}
    shown = project.json("show", run_id)
    assert shown["status"] == "paused"
    assert shown["error"]["type"] == "BudgetExceeded"
    assert [step["status"] for step in shown["steps"].values()].count("succeeded") == 3
    assert all(step["status"] != "failed" for step in shown["steps"].values())


@pytest.mark.parametrize(("unit", "scale"), [("tokens", 1), ("usd", 0.001)])
def test_a_larger_one_goes_on_with_what_was_spent_and_sends_what_is_missing(
    unit: str, scale: float, project: Project, server: Server
) -> None:
    project.write("flowllm.yaml", PRICES)

    def budget(tokens: int) -> dict[str, Any]:
        return {unit: tokens if scale == 1 else tokens * scale}

    run_id = project.json("run", _flow(project, budget=budget(200)), code=3)["run_id"]
    first = _sent(server)
    assert len(first) == 3

    again = project.json("resume", run_id, code=3)
    assert again["status"] == "paused"
    assert len(server.requests) == 3, "the same budget left room for more the second time"

    raised = _flow(project, budget=budget(300))
    project.json("resume", run_id, "--file", raised, code=3)
    assert len(server.requests) == 5, "what was spent before does not count"

    project.json("resume", run_id, code=3)
    assert len(server.requests) == 5, "the budget that was raised was not kept"

    result = project.json("resume", run_id, "--file", _flow(project, budget=budget(10_000)))
    assert result["status"] == "succeeded"
    assert sorted(_sent(server)) == sorted(f"ask {n}" for n in range(10)), "something was sent twice"


@pytest.mark.parametrize("over", [False, True])
def test_an_option_names_another_amount_which_the_run_keeps(project: Project, server: Server, *, over: bool) -> None:
    flow, words = _flow(project, budget={"tokens": 150}), []
    if over:
        flow = project.flow(
            inputs={"n": {}}, budget={"tokens": 150}, limits={"max_concurrent": 1},
            steps={"s": {"prompt": "ask {{ inputs.n }}", "max_tokens": 50}},
        )  # fmt: skip
        words = ["--over", project.write("rows.csv", "n\n" + "".join(f"{n}\n" for n in range(10)))]
        words += ["--output", "out.jsonl"]
    outcome = project.cli("run", flow, *words, "--budget", "tokens=2_00")
    assert outcome.code == 3, outcome.said
    assert len(server.requests) == 3
    assert "150 of 200 tokens are spent" in outcome.err

    again = project.cli("resume", "--quiet")
    assert (again.code, len(server.requests)) == (3, 3)
    assert "150 of 200 tokens are spent" in again.err

    result = project.json("resume", "--budget", "tokens=300", code=3)
    assert len(server.requests) == 5
    assert result["error"]["type"] == "BudgetExceeded"
    project.json("resume", code=3)
    assert len(server.requests) == 5, "the larger budget was not kept"
    assert project.json("resume", "--budget", "tokens=10_000")["status"] == "succeeded"
    assert len(server.requests) == 10


@pytest.mark.parametrize("given", ["5", "eur=5", "usd=", "usd=lots", "usd=-1", "tokens=0", "tokens=1.5", "usd=nan"])
def test_a_budget_that_is_none_is_refused(given: str, project: Project, server: Server) -> None:
    outcome = project.cli("run", _flow(project), "--budget", given)
    assert outcome.code == 2, outcome.said
    assert "budget" in outcome.err
    assert server.requests == []


def test_on_exceed_fail_fails_the_run(project: Project, server: Server) -> None:
    outcome = project.cli("run", _flow(project, budget={"tokens": 200, "on_exceed": "fail"}))
    assert outcome.code == 1, outcome.said
    assert len(server.requests) == 3
    assert "150 of 200 tokens are spent" in outcome.err
    assert project.json("show", "last")["status"] == "failed"


def test_one_too_small_for_the_first_request_sends_nothing_and_says_what_it_takes(
    project: Project, server: Server
) -> None:
    outcome = project.cli("run", project.flow(budget={"tokens": 100}, steps={"a": {"prompt": "hi"}}))
    assert outcome.code == 3
    assert "0 of 100 tokens are spent, and it may take 1,03" in outcome.err
    assert server.requests == []


@pytest.mark.parametrize("command", ["run", "resume"])
def test_a_price_that_is_not_known_is_told_before_anything_is_sent(
    command: str, project: Project, server: Server
) -> None:
    steps = {"cheap": {"prompt": "a"}, "dear": {"prompt": "b", "model": "mystery-9"}}
    project.write("flowllm.yaml", PRICES)
    words: list[object] = ["run"]
    if command == "resume":
        failing = {"cheap": {"prompt": "a", "params": {"x": 1}}, "dear": steps["dear"]}
        server.script = lambda body, n: FAULTS["400"]
        run_id = project.json("run", project.flow(steps=failing), code=1)["run_id"]
        server.requests.clear()
        words = ["resume", run_id, "--file"]
    outcome = project.cli(*words, project.flow(budget={"usd": 5}, steps=steps))
    assert outcome.code == 2, outcome.said
    assert "mystery-9" in outcome.err
    assert "dear" in outcome.err
    assert "prices" in outcome.err
    assert server.requests == []


def test_the_price_of_a_fallback_must_be_known_too(project: Project, server: Server) -> None:
    project.write("flowllm.yaml", PRICES)
    steps = {"a": {"prompt": "a", "fallback": ["mystery-9"]}}
    outcome = project.cli("run", project.flow(budget={"usd": 5}, steps=steps))
    assert outcome.code == 2
    assert "mystery-9" in outcome.err
    assert server.requests == []


def test_a_model_of_unknown_price_that_a_template_names_fails_its_step_unsent(project: Project, server: Server) -> None:
    project.write("flowllm.yaml", PRICES)
    steps = {"name": {"value": "mystery-9"}, "a": {"prompt": "a", "model": "{{ name }}"}}
    outcome = project.cli("run", project.flow(budget={"usd": 5}, steps=steps))
    assert outcome.code == 1, outcome.said
    assert "price of mystery-9" in outcome.err
    assert server.requests == []


def test_without_dollars_in_the_budget_no_price_need_be_known(project: Project) -> None:
    result = project.json("run", _flow(project, 2, budget={"tokens": 10_000}))
    assert result["status"] == "succeeded"
    assert result["cost_usd"] is None


def test_an_answer_that_names_a_dated_version_is_paid_for_all_the_same(project: Project, server: Server) -> None:
    """The price that is written is that of the model that was asked."""
    project.write("flowllm.yaml", PRICES)
    message = {"role": "assistant", "content": "fine"}
    body = {
        "id": "x",
        "object": "chat.completion",
        "model": "test-model-2026-01-01",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": FIFTY,
    }
    server.script = lambda _, n: Reply(body=body)
    result = project.json("run", _flow(project, budget={"usd": 0.2}), code=3)
    assert len(server.requests) == 3
    assert result["cost_usd"] == pytest.approx(0.15)


def test_a_request_of_unknown_outcome_counts_with_what_was_set_aside(project: Project, server: Server) -> None:
    """It may have been paid for."""
    server.script = lambda body, n: Reply(end="reset")
    file = _flow(project, 1, budget={"tokens": 100})
    project.json("run", file, code=1)
    (attempt,) = project.json("show", "last", "s0")["attempt_log"]
    assert attempt["status"] == "unknown"
    server.script = lambda body, n: Reply(text="fine", usage=FIFTY)
    resumed = project.json("resume", "last", code=3)
    assert resumed["error"]["type"] == "BudgetExceeded"
    assert len(server.requests) == 1
    assert project.json("resume", "last", "--file", _flow(project, 1, budget={"tokens": 130}))["status"] == "succeeded"


def test_so_does_one_that_was_out_when_the_process_was_killed(project: Project, server: Server) -> None:
    server.script = lambda body, n: Reply(delay=60.0)
    process = project.start("run", _flow(project, 1, budget={"tokens": 100}))
    with killed_at_exit(process):
        until(lambda: server.requests, "the request", of=process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    server.script = lambda body, n: Reply(text="fine", usage=FIFTY)
    resumed = project.json("resume", "last", code=3)
    assert resumed["error"]["type"] == "BudgetExceeded"
    assert len(server.requests) == 1


def test_one_that_was_refused_counts_nothing(project: Project, server: Server) -> None:
    server.script = lambda body, n: FAULTS["400"]
    project.json("run", _flow(project, 1, budget={"tokens": 70}), code=1)
    server.script = lambda body, n: Reply(text="fine", usage=FIFTY)
    assert project.json("resume", "last")["status"] == "succeeded"


def test_simulated_answers_cost_nothing(project: Project, server: Server) -> None:
    result = project.json("run", _flow(project, budget={"usd": 0.000001}), "--provider", "simulated")
    assert result["status"] == "succeeded"
    assert result["cost_usd"] == 0
    assert server.requests == []


def test_answers_that_were_there_cost_nothing(project: Project, server: Server) -> None:
    project.json("run", _flow(project, 5))
    assert len(server.requests) == 5
    result = project.json("run", _flow(project, 6, budget={"tokens": 62}))
    assert result["status"] == "succeeded"
    assert result["requests"]["cached"] == 5
    assert len(server.requests) == 6


def test_what_was_asked_for_again_counts(project: Project, server: Server) -> None:
    """Three answers to one question: what the two that would not do took is spent too."""
    server.script = lambda body, n: Reply(text="no JSON" if n < 3 else "{}", usage=FIFTY)
    asked = {"a": {"prompt": "ask", "output": "json", "max_tokens": 50}}
    top = {"budget": {"tokens": 240}, "limits": {"max_concurrent": 1}}
    project.json("run", project.flow(steps=asked, **top))
    assert len(server.requests) == 3
    more = {**asked, "b": {"prompt": "b {{ a }}", "max_tokens": 50}, "c": {"prompt": "c {{ b }}", "max_tokens": 50}}
    outcome = project.json("resume", "last", "--file", project.flow(steps=more, **top), code=3)
    assert outcome["steps"]["b"]["status"] == "succeeded"
    assert "200 of 240" in outcome["error"]["message"]


def test_a_budget_of_the_project_is_that_of_each_run(project: Project, server: Server) -> None:
    project.write("flowllm.yaml", {"budget": {"tokens": 200}})
    assert project.cli("run", _flow(project)).code == 3
    assert len(server.requests) == 3
    assert project.cli("run", _flow(project, budget={"tokens": 100_000})).code == 0
