"""`flowllm why` says why a step waited, by a real server behind the real client."""

from __future__ import annotations

from typing import Any

import pytest

from flowllm.limits.breaker import LEAST
from tests.support.project import Project, prompts
from tests.support.replies import Reply, failed, rate_limited
from tests.support.server import Server

TWO = prompts(a="one", b="two")
PATIENT = {"defaults": {"model": "m", "retry": {"initial_delay": "100ms", "jitter": "none"}}}
HUNGRY = {"defaults": {"model": "m", "max_tokens": 301_000}}


def once(fault: Reply) -> Any:
    """The first request gets this, the others an answer."""
    return lambda body, n: fault if n == 1 else Reply(text="fine")


@pytest.mark.parametrize(
    ("reason", "top", "script"),
    [
        ("slot", {"limits": {"max_concurrent": 1}}, None),
        ("rate", {"limits": {"requests_per_minute": 600, "burst": 1}}, None),
        ("tokens", {"limits": {"tokens_per_minute": 600_000}, **HUNGRY}, None),
        ("budget", {"budget": {"tokens": 500_000}, **HUNGRY}, None),
        ("backoff", {"steps": prompts(a="one"), **PATIENT}, once(failed(500))),
        ("batch", {"steps": {"a": {"embed": "one", "model": "e", "batch": {"max_wait": "100ms"}}}}, None),
        ("server_pause", {"steps": prompts(a="one")}, once(rate_limited("0.3"))),
    ],
)
def test_each_reason_is_named_with_its_seconds(
    reason: str, top: dict[str, Any], script: Any, project: Project, server: Server
) -> None:
    server.latency = 0.1
    if script is not None:
        server.script = script
    project.json("run", project.flow(**{"steps": TWO, **top}))
    steps = top.get("steps", TWO)
    found = {step: project.json("why", "last", step)["waits"] for step in steps}
    longest = max(found, key=lambda step: found[step].get(reason, 0.0))
    assert found[longest].get(reason, 0.0) > 0.005, found
    said = project.cli("why", "last", longest).out
    assert "\nwaited " in said, said
    assert reason.replace("_", " ") in said.splitlines()[-1], said


def test_a_breaker_that_has_opened_is_named(project: Project, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowllm.limits.breaker.FIRST_COOLDOWN", 0.3)
    server.script = lambda body, n: failed(500) if n <= LEAST else Reply(text="fine")
    steps = prompts(**{f"s{number}": f"text {number}" for number in range(10)})
    retry = {"initial_delay": "1ms", "jitter": "none", "max_attempts": 9}
    project.json("run", project.flow(steps=steps, defaults={"model": "m", "retry": retry}))
    found = {step: project.json("why", "last", step)["waits"] for step in steps}
    longest = max(found, key=lambda step: found[step].get("breaker", 0.0))
    assert found[longest].get("breaker", 0.0) > 0.2, found
    assert "breaker " in project.cli("why", "last", longest).out


def test_whoever_waited_for_an_equal_call_is_told_who_sent_it(project: Project, server: Server) -> None:
    server.latency = 0.2
    project.json("run", project.flow(steps=prompts(x="same", y="same")))
    found = {step: project.json("why", "last", step) for step in ("x", "y")}
    (joined,) = [step for step in found if "equal_call" in found[step]["waits"]]
    (leader,) = {"x", "y"} - {joined}
    assert found[joined]["equal_call"] == {"run_id": found[joined]["run_id"], "step": leader}
    assert found[leader]["equal_call"] is None
    assert f"equal call of `{leader}` " in project.cli("why", "last", joined).out

    project.json("run", "flow.yaml")  # nothing is sent for what is cached: it waited for the cache, or with the other
    again = project.json("why", "last", joined)
    assert again["equal_call"] is None
    assert set(again["waits"]) <= {"cache_lookup", "commit", "equal_call"}
    assert "answered " in again["text"]
