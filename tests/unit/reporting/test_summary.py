from __future__ import annotations

from flowllm.core.events import Event
from flowllm.core.types import NodeStatus, RunStatus
from flowllm.reporting.screen import plain
from flowllm.reporting.summary import MOST_ERRORS, Summary
from tests.support.events import ERROR, item_ended, node_ended, run_ended, run_started


def summed(*events: Event, resume: str = "") -> list[str]:
    summary = Summary()
    for event in events:
        summary.handle(event)
    return [plain(line) for line in summary.lines(resume)]


def test_nothing_before_the_end() -> None:
    assert summed(run_started(), node_ended("a")) == []


def test_a_success() -> None:
    assert summed(
        run_started(nodes=3),
        node_ended("a"),
        node_ended("b", cached=True),
        node_ended("c", reused=True),
        run_ended(),
        resume="flowllm resume x",
    ) == [
        "succeeded in 3.4s: 3 steps, 1 succeeded, 1 cached, 1 reused",
        "requests: 4 sent, 1 cached, 2 retried, 1 rate limited, 3 sent twice; tokens: 1,080 in, 240 out; cost: $0.0004",
        "latency: p50 1.1s, p90 1.3s, p99 1.4s",
    ]


def test_a_failure_names_each_error_with_its_hint_and_the_next_command() -> None:
    lines = summed(
        run_started(nodes=2),
        node_ended("judge", status=NodeStatus.FAILED, error=ERROR),
        node_ended("post", status=NodeStatus.BLOCKED),
        run_ended(status=RunStatus.FAILED),
        resume="flowllm resume x --db 'a b'",
    )
    assert lines[0] == "failed in 3.4s: 2 steps, 1 failed, 1 blocked"
    assert lines[3:] == [
        "error: judge: RateLimited: too many requests",
        "  wait a little",
        "resume it with: flowllm resume x --db 'a b'",
    ]


def test_steps_that_were_not_come_to_are_counted() -> None:
    lines = summed(run_started(nodes=4), node_ended("a"), run_ended(status=RunStatus.INTERRUPTED))
    assert lines[0] == "interrupted in 3.4s: 1 of 4 steps"


def test_what_people_must_know_is_said() -> None:
    lines = summed(
        run_started(simulated=True),
        node_ended("outline", truncated=True, cost_usd=None, model="my-model"),
        run_ended(stats={**run_ended().stats, "cost_usd": None, "unknown": {"unpriced": 1}}),
    )
    assert "cost: unknown (no price for my-model)" in lines[1]
    assert lines[3] == "cut short: outline; raise max_tokens to get whole answers"
    assert lines[4].startswith("simulated answers:")


def test_answers_that_were_cut_are_named_in_the_order_of_their_items() -> None:
    cut = [item_ended("posts", place, truncated=True) for place in (10, 2, 0)]
    assert "cut short: posts[0], posts[2], posts[10];" in "\n".join(summed(run_started(), *cut, run_ended()))


def test_many_answers_that_were_cut_are_counted_by_step() -> None:
    cut = [
        item_ended(step, place, truncated=True) for step, count in (("a", 2), ("posts", 1204)) for place in range(count)
    ]
    assert "cut short: posts 1,204 times, a 2 times;" in "\n".join(summed(run_started(), *cut, run_ended()))


def test_the_error_of_a_run_itself_is_told() -> None:
    lines = summed(run_started(), run_ended(status=RunStatus.PAUSED, error=ERROR, stats={}), resume="r")
    assert lines[0] == "paused in 3.4s"
    assert lines[-3:] == ["error: RateLimited: too many requests", "  wait a little", "resume it with: r"]


def test_many_errors_are_counted() -> None:
    failed = [node_ended(f"s{i}", status=NodeStatus.FAILED, error=ERROR) for i in range(MOST_ERRORS + 3)]
    lines = summed(run_started(), *failed, run_ended(status=RunStatus.FAILED))
    assert lines[-1] == "and 3 more"
    assert sum(line.startswith("error:") for line in lines) == MOST_ERRORS


def test_an_error_of_an_earlier_attempt_is_told_as_such() -> None:
    lines = summed(node_ended("a", status=NodeStatus.FAILED, error=ERROR, reused=True), run_ended())
    assert any("too many requests (reused: --retry-failed runs it again)" in line for line in lines)


def test_all_numbers_have_their_thousands_apart() -> None:
    many = {"sent": 1500, "cached": 0, "joined": 2000, "retried": 12_345}
    lines = summed(run_started(), run_ended(stats={**run_ended().stats, "requests": many}))
    assert any(line.startswith("requests: 1,500 sent, 2,000 joined, 12,345 retried; ") for line in lines)
