"""Slots and queues that went wrong elsewhere; each test is named after that (P9)."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.support.project import QUICK, Project, prompts, until
from tests.support.replies import ByPrompt, Reply, failed, prompt_of
from tests.support.server import Server


def _overlap(server: Server) -> int:
    """The most requests that the server had at the same time, by its own log."""
    moments = sorted(
        [(seen.arrived, 1) for seen in server.requests]
        + [(seen.finished, -1) for seen in server.requests if seen.finished is not None]
    )
    level = most = 0
    for _, step in moments:
        level += step
        most = max(most, level)
    return most


@pytest.mark.parametrize("cap", [1, 3])
def test_max_concurrent_was_silently_ignored(cap: int, project: Project, server: Server) -> None:
    server.latency = 0.02
    steps = prompts(**{f"s{n}": f"step {n}" for n in range(12)})
    project.json("run", project.flow(steps=steps, limits={"max_concurrent": cap}))
    assert len(server.requests) == 12
    assert server.peak <= cap
    assert _overlap(server) <= cap


def test_the_option_and_the_environment_cap_too(project: Project, server: Server) -> None:
    server.latency = 0.02
    file = project.flow(steps=prompts(**{f"s{n}": f"step {n}" for n in range(6)}))
    project.json("run", file, "--max-concurrent", 1)
    project.json("run", file, "--no-cache", FLOWLLM_MAX_CONCURRENT="1")
    assert len(server.requests) == 12
    assert server.peak == 1


def test_auto_given_stands_in_place_of_a_number_that_is_written(project: Project, server: Server) -> None:
    server.latency = 0.05
    file = project.flow(steps=prompts(**{f"s{n}": f"step {n}" for n in range(6)}), limits={"max_concurrent": 1})
    project.json("run", file, "--max-concurrent", "auto")
    assert server.peak > 1
    assert "options      --max-concurrent auto\n" in project.cli("show", "last").out
    project.json("run", file, "--no-cache", FLOWLLM_MAX_CONCURRENT="auto")
    assert len(server.requests) == 12
    assert "--max-concurrent auto" in project.cli("show", "last").out
    for words, environ in ((("--max-concurrent", "some"), {}), ((), {"FLOWLLM_MAX_CONCURRENT": "0"})):
        refused = project.cli("run", file, *words, **environ)
        assert refused.code == 2
        assert "a whole number from 1, or auto, not " in refused.err


def test_several_samples_pass_the_limiter_one_by_one(project: Project, server: Server) -> None:
    server.latency = 0.02
    file = project.flow(steps={"a": {"prompt": "a", "samples": 6}}, limits={"max_concurrent": 2})
    project.json("run", file)
    assert len(server.requests) == 6
    assert server.peak <= 2


def test_a_limit_of_1_deadlocked(project: Project, server: Server) -> None:
    """Retries, repairs, fallbacks, samples and equal steps all share the one slot."""
    counts: dict[str, int] = {}

    def script(body: dict[str, Any], n: int) -> Reply:
        first = body["messages"][0]["content"].split()[0]
        counts[first] = counts.get(first, 0) + 1
        if first == "fails" and counts[first] < 3:
            return failed(500)
        if first == "shape":
            return Reply(text='{"x": 1}' if counts[first] > 2 else "no")
        if first == "other" and body["model"] != "second":
            return failed(404, code="model_not_found")
        return Reply(text=first)

    server.script = script
    steps = {
        "fails": {"prompt": "fails"},
        "shape": {"prompt": "shape", "output": {"type": "object", "required": ["x"]}},
        "other": {"prompt": "other", "fallback": ["second"]},
        "several": {"prompt": "several", "samples": 3},
        "equal": {"prompt": "same"},
        "alike": {"prompt": "same"},
        "end": {"prompt": "end {{ fails }} {{ shape }} {{ other }} {{ several }} {{ equal }} {{ alike }}"},
    }
    result = project.json("run", project.flow(steps=steps, limits={"max_concurrent": 1}))
    assert result["status"] == "succeeded"
    assert counts == {"fails": 3, "shape": 3, "other": 2, "several": 3, "same": 1, "end": 1}
    assert server.peak == 1


def test_a_cached_step_waited_for_a_slot(project: Project, server: Server) -> None:
    """The one slot is taken by a request that is answered only when the cached step is on record."""
    project.json("run", project.flow(name="before.yaml", steps=prompts(known="known")))
    file = project.flow(
        steps={"slow": {"prompt": "slow"}, "known": {"prompt": "known"}, "built": {"value": "{{ known }}"}},
        limits={"max_concurrent": 1},
    )
    plain = ByPrompt()
    recorded = threading.Event()

    def script(body: dict[str, Any], n: int) -> Reply:
        if prompt_of(body) == "slow":
            query = "SELECT 1 FROM nodes WHERE node_id = 'known' AND run_id = (SELECT max(run_id) FROM runs)"
            until(lambda: project.rows(query), "the cached step")
            recorded.set()
        return plain(body, n)

    server.script = script
    steps = project.json("run", file)["steps"]
    assert recorded.is_set()
    assert steps["known"]["cached"] is True
    assert steps["known"]["queue_s"] == 0


def test_a_retrys_wait_held_a_slot(project: Project, server: Server) -> None:
    """While one step waits to be tried again, the others go through the one slot."""
    retry = {"initial_delay": "700ms", "max_delay": "700ms", "jitter": "none"}
    file = project.flow(
        defaults={"model": "test-model", "retry": retry},
        steps={
            "fails": {"prompt": "fails [status=500] [times=1]", "priority": "high"},
            **prompts(**{f"s{n}": f"step {n}" for n in range(8)}),
        },
        limits={"max_concurrent": 1},
    )
    project.json("run", file)
    order = [seen.prompt.split()[0] for seen in server.requests]
    assert order[:2] == ["fails", "step"], "the slot was held while the step waited to be tried again"
    assert sorted(order) == ["fails"] * 2 + ["step"] * 8
    assert server.peak == 1


def test_a_retry_went_past_the_queue(project: Project, server: Server) -> None:
    """With the slot taken, the second attempt waits for it like anything else."""
    server.latency = 0.05
    file = project.flow(
        defaults={"model": "test-model", "retry": {**QUICK, "initial_delay": "1ms"}},
        steps=prompts(
            **{f"f{n}": f"fails {n} [status=500] [times=1]" for n in range(3)},
            **{f"s{n}": f"step {n}" for n in range(6)},
        ),
        limits={"max_concurrent": 2},
    )
    assert project.json("run", file)["requests"]["retried"] == 3
    assert len(server.requests) == 12
    assert server.peak <= 2
    assert _overlap(server) <= 2


def test_a_release_woke_no_one(project: Project, server: Server) -> None:
    """Every way in which a call can end gives its slot back."""
    faults = ("400", "500", "reset", "html", "refusal", "429", "empty_choices", "length", "close_midway")
    steps: dict[str, Any] = {
        f"s{place}": {"prompt": f"s{place} [fault={fault}] [times=1]", "on_error": "continue"}
        for place, fault in enumerate(faults)
    }
    steps["late"] = {
        "prompt": "late [sleep=2] [times=1]",
        "retry": {"max_attempts": 1, "attempt_timeout": "50ms"},
        "on_error": "continue",
    }
    file = project.flow(steps={**steps, "last": {"prompt": "last", "priority": "low"}}, limits={"max_concurrent": 1})
    steps = project.json("run", file)["steps"]
    assert steps["last"]["status"] == "succeeded"


def test_priorities_order_what_waits(project: Project, server: Server) -> None:
    """Behind one request that keeps the only slot until all the others wait for it."""
    server.script = lambda body, n: Reply(text="done", delay=0.5 if n == 1 else 0)
    steps: dict[str, Any] = {}
    for word in ("low", "normal", "high"):
        steps |= {f"{word}{n}": {"prompt": f"{word} {n}", "priority": word} for n in range(3)}
    project.json("run", project.flow(steps=steps, limits={"max_concurrent": 1}))
    order = [seen.prompt.split()[0] for seen in server.requests][1:]
    assert order == sorted(order, key=["high", "normal", "low"].index)
    assert len(order) == 8


def test_a_request_larger_than_the_limit_waited_for_ever(project: Project, server: Server) -> None:
    file = project.flow(steps=prompts(a="a " * 500), limits={"tokens_per_minute": 100})
    error = project.json("run", file, code=1)["steps"]["a"]["error"]
    assert "tokens per minute" in error["message"]
    assert server.requests == []


def test_requests_per_minute_are_kept(project: Project, server: Server) -> None:
    """Twelve requests at ten a second take eleven tenths of a second; by the server's log, and a little less
    because the first may be on its way for longer than the last."""
    project.json("run", project.flow(name="warm.yaml", steps=prompts(a="a")))
    server.requests.clear()
    file = project.flow(
        steps=prompts(**{f"s{n}": f"step {n}" for n in range(12)}), limits={"requests_per_minute": 600, "burst": 1}
    )
    project.json("run", file)
    arrived = [seen.arrived for seen in server.requests]
    assert len(arrived) == 12
    assert max(arrived) - min(arrived) > 0.9
