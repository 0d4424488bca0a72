"""A provider that cannot be used: what a person hears, how soon, and that the run goes on afterwards."""

from __future__ import annotations

import contextlib
import socket
import sqlite3
import time
from collections.abc import Mapping
from typing import Any

import pytest

from flowllm.core.errors import ConnectionFailed, RequestRejected, ServerFailed
from flowllm.core.events import NodeRetrying, Notice
from flowllm.core.types import Limits, NodeStatus, RunStatus
from flowllm.providers.base import Account
from tests.support.calls import FakeProvider
from tests.support.project import QUICK, Project, prompts
from tests.support.replies import FAULTS, ByPrompt, Reply, failed, prompt_of, rate_limited
from tests.support.run_attempts import Stage
from tests.support.server import Server
from tests.support.virtual import run_virtual


def _free_port() -> int:
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def _ten(project: Project, **top: Any) -> str:
    return project.flow(steps=prompts(**{f"s{n}": f"ask {n}" for n in range(10)}), **top)


# on the command line


@pytest.mark.usefixtures("short_cooldown")
def test_a_server_that_is_not_there_pauses_the_run_which_goes_on_once_it_is(project: Project) -> None:
    server = Server(ByPrompt())
    server.port = _free_port()
    outcome = project.cli("run", _ten(project), OPENAI_BASE_URL=server.url)
    assert outcome.code == 3, outcome.said
    assert outcome.err.count("notice: ") <= 1, outcome.err
    (run_id,) = project.run_ids()
    assert f"127.0.0.1:{server.port}" in outcome.err
    assert f"flowllm resume {run_id}" in outcome.err
    shown = project.json("show", run_id)
    assert shown["status"] == "paused"
    assert shown["error"]["type"] == "ProviderDown"
    assert shown["error"]["hint"]
    assert {step["status"] for step in shown["steps"].values()} == {"cancelled"}, "a step failed for it"

    server.start()
    try:
        result = project.json("resume", run_id, OPENAI_BASE_URL=server.url)
    finally:
        server.stop()
    assert result["status"] == "succeeded"
    assert len(server.requests) == 10


@pytest.mark.parametrize("fault", ["bad_key", "quota"])
def test_no_key_and_no_quota_pause_the_run_at_once(fault: str, project: Project, server: Server) -> None:
    server.script = lambda body, n: FAULTS[fault]
    outcome = project.cli("run", _ten(project, limits={"max_concurrent": 1}))
    assert outcome.code == 3, outcome.said
    assert len(server.requests) == 1
    (run_id,) = project.run_ids()
    assert f"flowllm resume {run_id}" in outcome.err
    assert project.json("show", run_id)["error"]["type"] == "ProviderDown"

    server.script = ByPrompt()
    assert project.json("resume", run_id)["status"] == "succeeded"
    assert len(server.requests) == 11


def test_an_account_that_runs_dry_midway_pauses_the_run_and_keeps_what_it_has(project: Project, server: Server) -> None:
    server.script = lambda body, n: FAULTS["quota"] if n == 4 else Reply(text="fine")
    shown = project.json("run", _ten(project, limits={"max_concurrent": 1}), code=3)
    assert [step["status"] for step in shown["steps"].values()].count("succeeded") == 3
    assert len(server.requests) == 4
    assert project.json("resume", "last")["status"] == "succeeded"
    assert len(server.requests) == 4 + 7


def test_a_401_after_a_success_fails_its_step_alone(project: Project, server: Server) -> None:
    server.script = lambda body, n: FAULTS["bad_key"] if prompt_of(body) == "ask 5" else Reply(text="fine")
    steps = prompts(first="first", **{f"s{n}": f"ask {n}" for n in range(10)})
    for name, step in steps.items():
        if name != "first":
            step["when"] = "{{ first == 'fine' }}"
    shown = project.json("run", project.flow(steps=steps), code=1)
    assert shown["steps"]["s5"]["error"]["type"] == "Unauthorized"
    assert [step["status"] for step in shown["steps"].values()].count("succeeded") == 10


def test_an_unknown_model_fails_its_steps_only(project: Project, server: Server) -> None:
    steps = {
        **prompts(good="good", below="below {{ bad }}"),
        "bad": {"prompt": "bad [fault=unknown_model]", "model": "no-such"},
    }
    outcome = project.cli("run", project.flow(steps=steps))
    assert outcome.code == 1, outcome.said
    assert "no-such" in outcome.err
    shown = project.json("show", "last")["steps"]
    assert {name: step["status"] for name, step in shown.items()} == {
        "good": "succeeded",
        "below": "blocked",
        "bad": "failed",
    }
    assert len(server.requests) == 2, "it was sent again"


@pytest.mark.usefixtures("short_cooldown")
def test_give_up_after_pauses_a_run_whose_server_only_fails(project: Project, server: Server) -> None:
    server.script = lambda body, n: failed(500)
    retry = {**QUICK, "max_attempts": 1000}
    file = _ten(project, limits={"give_up_after": "200ms"}, defaults={"model": "test-model", "retry": retry})
    outcome = project.cli("run", file)
    assert outcome.code == 3, outcome.said
    assert "not one success in 0.2 s" in outcome.err
    server.script = ByPrompt()
    assert project.json("resume", "last")["status"] == "succeeded"


@pytest.mark.parametrize("fault", ["bad_key", "quota"])
def test_a_fallback_on_another_provider_is_taken_in_place_of_pausing(
    fault: str, project: Project, server: Server
) -> None:
    server.script = lambda body, n: FAULTS[fault] if body["model"] == "test-model" else Reply(text="fine")
    file = project.flow(
        providers={"other": {"type": "openai", "base_url": server.url, "headers": {"X-Other": "1"}}},
        steps={"a": {"prompt": "a", "fallback": [{"provider": "other", "model": "second"}]}},
    )
    same = project.json("run", file, code=3)
    assert same["error"]["type"] == "ProviderDown", "the other one is the same account by another name"

    file = project.flow(
        providers={"other": {"type": "openai", "base_url": server.url.replace("127.0.0.1", "localhost")}},
        steps={"a": {"prompt": "a", "fallback": [{"provider": "other", "model": "second"}]}},
        outputs={"a": "{{ a }}"},
    )
    result = project.json("run", file)
    assert result["outputs"] == {"a": "fine"}
    assert result["steps"]["a"]["provider"] == "other"


# under a virtual clock


def _flow(count: int, options: str = "") -> str:
    return "steps:\n" + "".join(f"  s{n}: {{prompt: 'ask {n}'{options}}}\n" for n in range(count))


def test_while_a_provider_is_in_trouble_steps_wait_none_fails_and_people_hear_of_it() -> None:
    """Everything fails for a minute. Each step has three attempts."""

    class Shaky(FakeProvider):
        async def complete(self, request: Any, *, timeout: float) -> Any:
            on_fire = stage.clock.monotonic() < 60
            answer = await super().complete(request, timeout=timeout)
            if on_fire:
                raise ServerFailed("it is on fire", status=500)
            return answer

    async def main() -> tuple[list[str], Mapping[str, Any], RunStatus]:
        nonlocal stage
        stage = Stage()
        stage.provider = Shaky(latency=0.5)
        stage.limiter.configure(stage.provider.account, Limits(max_concurrent=10), holder="r1")
        ready = await stage.prepare(_flow(100))
        ending = await ready.attempt()
        during = [at for at, _ in stage.provider.sent if at < 60]
        assert len(during) <= 40, len(during)
        assert any(isinstance(event, NodeRetrying) for event in ready.events)
        return (
            [event.message for event in ready.events if isinstance(event, Notice)],
            await stage.nodes(),
            ending.status,
        )

    stage: Any = None
    notices, nodes, status = run_virtual(main())
    assert status is RunStatus.SUCCEEDED
    assert {node.status for node in nodes.values()} == {NodeStatus.SUCCEEDED}
    trouble, recovery = notices
    assert "it is on fire" in trouble
    assert "requests wait" in trouble
    assert "answers again" in recovery
    assert all("fake" in notice for notice in notices)


def test_without_one_success_the_run_is_paused_after_give_up_after() -> None:
    async def main() -> float:
        stage = Stage()
        stage.provider.script = [ServerFailed("dead", status=500) for _ in range(1000)]
        limits = Limits(max_concurrent=10, give_up_after=120.0)
        stage.limiter.configure(stage.provider.account, limits, holder="r1")
        ending = await stage.run(_flow(100))
        assert ending.status is RunStatus.PAUSED
        assert ending.error is not None
        assert ending.error["type"] == "ProviderDown"
        assert len(stage.provider.sent) < 40
        assert all(node.status is not NodeStatus.FAILED for node in (await stage.nodes()).values())
        return stage.clock.monotonic()

    took = run_virtual(main())
    assert 120 <= took <= 120 + 65, "the longest time between two probes is a minute"


def test_a_server_that_was_never_reached_is_left_in_seconds_for_another() -> None:
    async def main() -> float:
        stage = Stage()
        stage.provider.latency = 0.01
        stage.provider.script = [ConnectionFailed("refused", reason="refused") for _ in range(1000)]
        other = stage.others["other"] = FakeProvider(latency=0.01)
        other.name = "other"
        other.account = Account(type="fake", base_url="other:")
        fallback = ", fallback: [{provider: other, model: n}]"
        text = f"providers: {{other: {{type: simulated}}}}\n{_flow(30, fallback)}"
        ending = await stage.run(text)
        assert ending.status is RunStatus.SUCCEEDED
        assert {node.provider for node in (await stage.nodes()).values()} == {"other"}
        assert len(other.sent) == 30
        return stage.clock.monotonic()

    assert run_virtual(main()) < 120


def test_a_request_that_is_wrong_is_no_trouble_of_the_provider() -> None:
    async def main() -> None:
        stage = Stage()
        stage.provider.script = [RequestRejected("bad", status=400) for _ in range(100)]
        ready = await stage.prepare(_flow(100))
        ending = await ready.attempt()
        assert ending.status is RunStatus.FAILED
        assert len(stage.provider.sent) == 100
        assert not any(isinstance(event, Notice) for event in ready.events)

    run_virtual(main())


# rates


def _learned(result: Any) -> Any:
    return result["limits"]["openai"]["learned_per_minute"]


def test_a_rate_that_was_learned_is_where_the_next_run_begins(project: Project, server: Server) -> None:
    server.script = lambda body, n: rate_limited("0.05") if n <= 3 else Reply(text="fine")
    first = project.json("run", project.flow(steps=prompts(a="a", b="b", c="c")))
    assert _learned(first) is not None
    ((account, rate),) = project.rows("SELECT account, value FROM learned WHERE name = 'requests_per_second'")
    assert str(server.port) in account
    assert rate > 0
    second = project.json("run", project.flow(steps=prompts(d="d")))
    assert second["requests"]["rate_limited"] == 0
    assert _learned(second) is not None, "it began anew"
    assert _learned(second) < 60 * rate * 3


def test_a_rate_that_is_a_week_old_is_no_longer_believed(project: Project, server: Server) -> None:
    server.script = lambda body, n: rate_limited("0.05") if n == 1 else Reply(text="fine")
    project.json("run", project.flow(steps=prompts(a="a")))
    with contextlib.closing(sqlite3.connect(project.database)) as connection, connection:
        connection.execute("UPDATE learned SET learned_at = ?", (time.time() - 8 * 86_400,))
    assert _learned(project.json("run", project.flow(steps=prompts(b="b")))) is None


def test_where_nothing_was_refused_nothing_is_remembered(project: Project) -> None:
    assert _learned(project.json("run", project.flow(steps=prompts(a="a")))) is None
    assert project.rows("SELECT * FROM learned") == []
