"""A run has one price, to the digit, wherever it is told."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest

from flowllm import FlowLLM
from flowllm.core.money import Spend, price
from flowllm.core.types import Usage
from tests.support.project import Project, until
from tests.support.replies import Reply, prompt_of
from tests.support.server import Server

TOOLS = """
    def work(ask, fails):
        ask(prompt="asked")
        ask(prompt="asked again")
        if fails:
            raise ValueError("no")
        return 1
"""
LATE = {"on_error": "continue", "retry": {"max_attempts": 2, "attempt_timeout": "150ms", "initial_delay": "1ms"}}
STEPS: dict[str, Any] = {
    "first": {"prompt": "one"},
    "joined": {"prompt": "one"},
    "many": {"foreach": ["x", "y", "x", "late"], "prompt": "item {{ item }}", **LATE},
    "graph": {"workflow": {"steps": {"same": {"prompt": "one"}, "own": {"prompt": "in a graph"}}}},
    "asking": {"python": "./tools.py:work", "asks": True, "with": {"fails": False}},
    "failing": {
        "needs": ["asking"],
        "python": "./tools.py:work",
        "asks": True,
        "with": {"fails": True},
        "on_error": "continue",
    },
    "late": {"prompt": "late too", **LATE},
    "samples": {"prompt": "several", "samples": 3},
}
KEPT = ("cost_usd", "at_least", "unknown")


@pytest.fixture(autouse=True)
def _project(project: Project, server: Server) -> None:
    project.write("flowllm.yaml", {"prices": {"test-model": {"input": 0.17, "output": 1.9}}})
    project.write("tools.py", TOOLS)
    server.script = lambda body, _n: Reply(text="hi", delay=2.0 if "late" in prompt_of(body) else 0.0)


def _events(project: Project) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (project.folder / "events.jsonl").read_text().splitlines()]


def _summed(events: list[dict[str, Any]]) -> dict[str, Any]:
    """What the requests that ended say together."""
    ended = [event for event in events if event["event"] == "RequestEnded"]
    each = [
        Spend.of(
            Usage(**event["usage"]),
            event["cost_usd"],
            reserved_tokens=event["reserved_tokens"],
            reserved_usd=event["reserved_usd"],
        )
        for event in ended
    ]
    return sum(each, Spend()).as_dict()


def _told_alike(project: Project, run: dict[str, Any]) -> None:
    """By the history, as JSON and as text, and by the library."""
    of_run = {name: run[name] for name in (*KEPT, "usage")}
    shown = project.json("show", run["run_id"])
    assert {name: shown[name] for name in of_run} == of_run
    costs = {name: step["cost_usd"] for name, step in run["steps"].items()}
    assert {name: step["cost_usd"] for name, step in shown["steps"].items()} == costs
    (listed,) = (one for one in project.json("runs") if one["run_id"] == run["run_id"])
    assert {name: listed[name] for name in KEPT} == {name: run[name] for name in KEPT}
    known = re.split(r",? \(?(?:and )?up to ", price(run))[0].removeprefix("at least ")
    short = known if price(run) == known else f"at least {known}"
    for words, told in ((["runs"], short), (["show", run["run_id"]], price(run))):
        outcome = project.cli(*words)
        assert told in outcome.out, outcome.said

    async def result() -> dict[str, Any]:
        async with FlowLLM(database=str(project.database)) as app:
            return (await app.result(run["run_id"])).as_dict()

    found = asyncio.run(result())
    assert {name: found[name] for name in of_run} == of_run
    assert {name: step["cost_usd"] for name, step in found["steps"].items()} == costs


def _known(run: dict[str, Any]) -> float:
    return sum(step["cost_usd"] or 0.0 for step in run["steps"].values())


def test_a_run_with_timeouts_joined_calls_graphs_items_and_questions(project: Project) -> None:
    file = project.flow(steps=STEPS)
    run = project.json("run", file, "--events", "events.jsonl")
    events = _events(project)
    of_run = {name: run[name] for name in (*KEPT, "usage")}
    assert _summed(events) == of_run
    assert {name: events[-1]["stats"][name] for name in of_run} == of_run
    assert (run["cost_usd"], run["unknown"]["requests"], run["unknown"]["unpriced"]) == (None, 4, 0)
    assert "for 4 requests of unknown cost" in price(run)
    figures = [one for name, one in run["step_figures"].items() if name in {"late", "many"}]
    assert sum(one["unknown"]["reserved_usd"] for one in figures) == run["unknown"]["reserved_usd"] > 0
    assert run["steps"]["joined"]["cost_usd"] + run["steps"]["first"]["cost_usd"] == pytest.approx(
        run["step_figures"]["first"]["cost_usd"]
    )
    of_items = run["step_figures"]["many"]["at_least"]["cost_usd"]
    assert of_items > 0
    assert _known(run) + of_items == pytest.approx(run["at_least"]["cost_usd"])
    _told_alike(project, run)
    # what failed is asked once more, and the price of the first run attempt stays in it
    (project.folder / "events.jsonl").unlink()
    resumed = project.json("resume", run["run_id"], "--retry-failed", "--events", "events.jsonl")
    assert resumed["unknown"]["requests"] == 8
    assert _summed(_events(project)) == resumed["since_resumed"]
    assert _known(resumed) + of_items == pytest.approx(resumed["at_least"]["cost_usd"])
    _told_alike(project, resumed)
    # the same again is answered from the memo: it costs nothing but what comes too late once more
    again = project.json("run", file)
    assert (again["at_least"]["cost_usd"], _known(again), again["unknown"]["requests"]) == (0, 0, 4)
    _told_alike(project, again)
    # what that saved is still told when it was resumed
    saved = {one["model"]: one["response_cache"] for one in again["models"]}
    assert saved["test-model"]["saved_usd"] > 0
    project.cli("resume", again["run_id"], "--retry-failed", "--quiet")
    of_all = {one["model"]: one["response_cache"] for one in project.json("show", again["run_id"])["models"]}
    assert of_all == saved
    assert "which saved $" in project.cli("show", again["run_id"]).out


def test_a_run_with_a_model_of_unknown_price(project: Project) -> None:
    steps = {"a": STEPS["first"], "b": {"prompt": "two", "model": "nobody's"}, "late": STEPS["late"]}
    outcome = project.cli("run", project.flow(steps=steps))
    run = project.json("show", "last")
    assert (run["cost_usd"], run["unknown"]["requests"], run["unknown"]["unpriced"]) == (None, 2, 1)
    assert price(run, ["nobody's"]) in outcome.err
    assert "no price for nobody's; up to $" in outcome.err
    _told_alike(project, run)


def test_a_run_that_was_killed_and_is_resumed(project: Project, server: Server) -> None:
    steps = {"a": STEPS["first"], "b": {"prompt": "late after {{ a }}"}, "c": {"prompt": "{{ b }}"}}
    process = project.start("run", project.flow(steps=steps))
    until(lambda: len(server.requests) == 2)
    process.kill()
    process.communicate()
    (run,) = project.json("runs")
    assert (run["status"], run["cost_usd"], run["unknown"]["requests"]) == ("interrupted", None, 1)
    shown = project.json("show", "last")
    assert {name: step["cost_usd"] for name, step in shown["steps"].items()} == {
        "a": run["at_least"]["cost_usd"],
        "b": None,
        "c": 0,
    }
    (attempt,) = project.json("show", "last", "b")["attempt_log"]
    assert (attempt["status"], attempt["cost_usd"], attempt["usage"]["input_tokens"]) == ("unknown", None, None)
    assert attempt["reserved_usd"] == pytest.approx(run["unknown"]["reserved_usd"])
    _told_alike(project, shown)
    server.script = lambda _body, _n: Reply(text="hi")
    _told_alike(project, resumed := project.json("resume"))
    assert (resumed["cost_usd"], resumed["unknown"]) == (None, run["unknown"])
    assert _known(resumed) == pytest.approx(resumed["at_least"]["cost_usd"])
