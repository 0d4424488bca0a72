"""What a run does when the provider misbehaves: status, exit code, attempts on record, requests sent."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import pytest

from tests.support.project import QUICK, Project, prompts
from tests.support.replies import FAULTS, Reply, echo, prompt_of, rate_limited
from tests.support.server import Server


def _one(project: Project, **options: Any) -> str:
    return project.flow(steps={"a": {"prompt": "ask", **options}}, outputs={"a": "{{ a }}"})


def _answers(server: Server, *replies: Reply) -> None:
    """One after the other, the last one for all that follow."""
    server.script = lambda body, n: replies[min(n, len(replies)) - 1]


def _log(project: Project, step: str = "a") -> list[dict[str, Any]]:
    log: list[dict[str, Any]] = project.json("show", "last", step)["attempt_log"]
    return log


def _statuses(project: Project) -> list[str]:
    return [attempt["status"] for attempt in _log(project)]


GOOD = Reply(text="good")


@pytest.mark.parametrize(
    "fault",
    [
        *("408", "409", "500", "502", "503", "529"),
        *("reset", "reset_midway", "close", "close_midway"),
        *("truncated_json", "invalid_json", "deep_json", "huge_integer", "not_utf8"),
        *("html", "empty_body", "error_at_200", "empty_choices", "null_content"),
    ],
)
def test_a_passing_fault_is_tried_again_and_is_on_record(fault: str, project: Project, server: Server) -> None:
    _answers(server, FAULTS[fault], FAULTS[fault], GOOD)
    result = project.json("run", _one(project))
    assert result["outputs"] == {"a": "good"}
    assert result["steps"]["a"]["attempts"] == 3
    assert result["requests"]["sent"] == 3
    assert result["requests"]["retried"] == 2
    log = _log(project)
    assert [attempt["number"] for attempt in log] == [1, 2, 3]
    assert all(attempt["error"]["message"] for attempt in log[:2])
    lost = "unknown" if fault.startswith(("reset", "close")) else "failed"
    assert [attempt["status"] for attempt in log] == [lost, lost, "succeeded"]


@pytest.mark.parametrize("fault", ["500", "html", "reset", "empty_choices"])
def test_a_fault_that_stays_fails_after_the_policys_attempts(fault: str, project: Project, server: Server) -> None:
    _answers(server, FAULTS[fault])
    outcome = project.cli("run", _one(project, retry={**QUICK, "max_attempts": 3}))
    assert outcome.code == 1
    assert len(server.requests) == 3
    assert "Traceback" not in outcome.err
    assert outcome.err.count("1 of 1  ERROR     a ") == 1
    step = project.json("show", "last")["steps"]["a"]
    assert (step["status"], step["attempts"], len(step["attempt_log"])) == ("failed", 3, 3)
    if fault == "html":
        assert "Welcome" in step["error"]["answer"], "the raw text was not kept"
    assert project.json("cache", "stats")["entries"] == 0


@pytest.mark.parametrize("fault", ["403", "bad_key", "quota"])
def test_a_provider_that_lets_nobody_in_pauses_the_run_at_once(fault: str, project: Project, server: Server) -> None:
    _answers(server, FAULTS[fault])
    outcome = project.cli("run", _one(project))
    assert outcome.code == 3
    assert len(server.requests) == 1
    assert "Traceback" not in outcome.err
    assert _statuses(project) == ["failed"]
    shown = project.json("show", "last")
    assert (shown["status"], shown["steps"]["a"]["status"]) == ("paused", "cancelled")
    assert shown["error"]["hint"], "it does not say what to do"
    _answers(server, GOOD)
    assert project.cli("resume").code == 0


@pytest.mark.parametrize("fault", ["400", "422", "too_long"])
def test_a_fault_that_cannot_pass_is_not_tried_again(fault: str, project: Project, server: Server) -> None:
    _answers(server, FAULTS[fault])
    outcome = project.cli("run", _one(project))
    assert outcome.code == 1
    assert len(server.requests) == 1
    assert "Traceback" not in outcome.err
    assert _statuses(project) == ["failed"]
    error = project.json("show", "last")["steps"]["a"]["error"]
    assert error["hint"], "it does not say what to do"


def test_no_money_left_is_no_retry_storm(project: Project, server: Server) -> None:
    _answers(server, FAULTS["quota"])
    file = project.flow(steps=prompts(**{f"s{n}": f"step {n}" for n in range(10)}))
    assert project.cli("run", file).code == 3
    assert len(server.requests) <= 10


@pytest.mark.parametrize("after", ["1"])
def test_retry_after_holds_the_whole_account_back(after: str, project: Project, server: Server) -> None:
    """Not only the call that was refused: none of the account's is sent meanwhile."""
    project.json("run", project.flow(name="warm.yaml", steps=prompts(a="warm")))
    server.requests.clear()

    def script(body: dict[str, Any], n: int) -> Reply:
        return rate_limited(after) if n == 1 else echo(body, n)

    server.script = script
    steps = {f"s{n}": {"prompt": f"step {n}"} for n in range(8)}
    file = project.flow(steps=steps, limits={"max_concurrent": 1})
    result = project.json("run", file)
    assert result["status"] == "succeeded"
    assert result["requests"]["rate_limited"] == 1
    assert len(server.requests) == 9
    refused = server.requests[0].finished
    assert refused is not None
    early = [seen for seen in server.requests[1:] if seen.arrived < refused + float(after) - 0.1]
    assert early == [], f"{len(early)} requests were sent before the server wanted any"


@pytest.mark.parametrize("after", [None, "-5", "NaN", "soon", "Thu, 01 Jan 1970 00:00:00 GMT"])
def test_a_retry_after_that_says_nothing_is_a_backoff(after: str | None, project: Project, server: Server) -> None:
    """A rate limit uses up no attempt: with one attempt allowed it still ends well."""
    _answers(server, rate_limited(after), GOOD)
    result = project.json("run", _one(project, retry={**QUICK, "max_attempts": 1}))
    assert result["outputs"] == {"a": "good"}
    assert result["requests"]["rate_limited"] == 1


def test_a_retry_after_of_thirty_years_does_not_hang(project: Project, server: Server) -> None:
    _answers(server, rate_limited("1000000000"), GOOD)
    outcome = project.cli("run", _one(project, timeout="5s"))
    assert outcome.code in {1, 3}, outcome.said
    assert len(server.requests) == 1


def test_an_answer_after_our_timeout_is_on_record_as_unknown(project: Project, server: Server) -> None:
    """It may have been paid for."""
    _answers(server, Reply(text="late", delay=1.0), GOOD)
    result = project.json("run", _one(project, retry={**QUICK, "attempt_timeout": "300ms"}))
    assert result["outputs"] == {"a": "good"}
    assert _statuses(project) == ["unknown", "succeeded"]
    assert _log(project)[0]["error"]["type"] == "AttemptTimedOut"


def test_a_byte_now_and_then_does_not_keep_an_attempt_alive(project: Project, server: Server) -> None:
    _answers(server, Reply(text="slow", drip=0.1), GOOD)
    result = project.json("run", _one(project, retry={**QUICK, "attempt_timeout": "500ms"}))
    assert result["outputs"] == {"a": "good"}
    assert _statuses(project) == ["unknown", "succeeded"]


def test_the_steps_timeout_ends_all_attempts_together(project: Project, server: Server) -> None:
    retry = {"max_attempts": 1000, "initial_delay": "40ms", "max_delay": "40ms", "jitter": "none"}
    _answers(server, FAULTS["500"])
    step = project.json("run", _one(project, retry=retry, timeout="500ms"), code=1)["steps"]["a"]
    assert step["error"]["type"] == "NodeTimedOut"
    # the last attempt may have had too little time left to hear the server's answer
    assert re.search("the last one: .*(something broke|gave no whole answer)", step["error"]["message"])
    assert 1 < len(server.requests) <= 500 / 40 + 1


@pytest.mark.usefixtures("short_cooldown")
def test_a_server_that_is_not_there(project: Project) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    outcome = project.cli("run", _one(project), OPENAI_BASE_URL=f"http://127.0.0.1:{port}/v1")
    assert outcome.code == 3
    assert f"127.0.0.1:{port}" in outcome.err
    assert "Traceback" not in outcome.err
    assert set(_statuses(project)) == {"failed"}, "nothing can have been paid for"


@pytest.mark.usefixtures("short_cooldown")
def test_a_host_that_nobody_knows(project: Project) -> None:
    outcome = project.cli("run", _one(project), OPENAI_BASE_URL="http://nowhere.invalid/v1")
    assert outcome.code in {1, 3}
    assert "nowhere.invalid" in outcome.err
    assert "Traceback" not in outcome.err


def test_an_answer_too_large_for_memory_fails_the_step_alone(project: Project, server: Server) -> None:
    server.script = lambda body, n: FAULTS["huge_answer"] if prompt_of(body) == "huge" else echo(body, n)
    file = project.flow(
        defaults={"model": "test-model", "retry": {**QUICK, "max_attempts": 1}},
        steps=prompts(huge="huge", other="other", below="below {{ other }}"),
    )
    steps = project.json("run", file, code=1)["steps"]
    assert "16 MiB" in steps["huge"]["error"]["message"]
    assert steps["below"]["status"] == "succeeded"


@pytest.mark.parametrize("count", [30])
def test_one_of_many_fails_and_cancels_nobody(count: int, project: Project, server: Server) -> None:
    texts: dict[str, str] = {f"s{n}": f"step {n}" for n in range(count)}
    texts["s7"] += " [status=400]"
    steps = project.json("run", project.flow(steps=prompts(**texts)), code=1)["steps"]
    assert _tally(step["status"] for step in steps.values()) == {"succeeded": count - 1, "failed": 1}


def _tally(statuses: Any) -> dict[str, int]:
    found: Sequence[str] = list(statuses)
    return {status: found.count(status) for status in found}
