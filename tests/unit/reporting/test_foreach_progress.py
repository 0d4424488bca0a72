"""What is shown of items: a line now and then, the first errors, and sums at the end."""

from __future__ import annotations

import io
from collections.abc import Iterable

import pytest

from flowllm.core.events import Event, FailuresHigh
from flowllm.core.types import NodeStatus, RunId, RunStatus, StepKind, Usage, WaitReason
from flowllm.reporting.progress import Progress, what_ended
from flowllm.reporting.screen import Screen, plain
from flowllm.reporting.stats import Stats
from flowllm.reporting.summary import Summary
from tests.support.events import (
    ERROR,
    fan_out_counted,
    fan_out_started,
    item_ended,
    node_ended,
    node_retrying,
    node_started,
    node_waiting,
    request_ended,
    request_sent,
    run_ended,
    run_started,
    stop_requested,
)

COUNTS = {"total": 50_000, "succeeded": 49_997, "failed": 3, "skipped": 0, "accepted": 0, "not_sent": 0}
BAD = {"status": NodeStatus.FAILED, "error": ERROR}
OVER = {"nodes": 1, "over": "/data/rows.csv", "output": "/data/out.jsonl"}


def printed(events: Iterable[Event]) -> str:
    stream = io.StringIO()
    progress = Progress(Screen(stream, colour=False))
    for event in events:
        progress.handle(event)
    return stream.getvalue()


def summed(*events: Event, resume: str = "", failed: str = "flowllm failed x") -> list[str]:
    summary = Summary()
    for event in events:
        summary.handle(event)
    return [plain(line) for line in summary.lines(resume, failed)]


def test_lines_say_how_many_nodes_wait_and_why() -> None:
    limited = [node_waiting(f"posts[{i}]", WaitReason.RATE) for i in range(4)]
    lines = printed(
        [
            run_started(nodes=1),
            node_waiting("headline", WaitReason.SERVER_PAUSE, at=1.0, until=13.0),
            node_waiting("headline", WaitReason.SERVER_PAUSE, at=2.0, until=13.0),
            node_waiting("intro", WaitReason.SLOT),
            fan_out_started("posts", 99),
            *limited,
            node_waiting("posts[0]", WaitReason.EQUAL_CALL, at=1.5, leader_node="x"),
            request_sent("posts[1]"),
            item_ended("posts", 0, at=6.0),
            fan_out_counted("posts", 98),
            item_ended("posts", 1, at=11.0),
        ]
    ).splitlines()[1:]
    assert lines == [
        "0 of 1  WAITING   headline about 12.0s: server pause",
        "0 of 1  RUN       posts 99 items",
        "0 of 1  ...       posts: 1 of 99 (1%), 10.0/min, ETA 9m 48s, 2 wait: rate",
        "0 of 1  ...       posts: 2 of 98 (2%), 10.9/min, ETA 8m 48s, 2 wait: rate",
    ]


def test_many_items_have_a_line_now_and_then_and_the_first_errors() -> None:
    items = [item_ended("posts", i, at=i / 20, **(BAD if i % 20 == 7 else {})) for i in range(300)]
    inner = [
        node_started("posts[0]", parent="posts", place=0),
        request_sent("posts[0].title"),
        node_retrying("posts[0].title"),
        request_sent("posts[0].title"),
        request_ended("posts[0].title", cost_usd=0.25),
        node_ended("posts[0].title", parent="posts[0]", **BAD),
        fan_out_started("posts[0].parts", 3),
        item_ended("posts[0].parts", 0, **BAD),
        node_ended("posts[0].parts", parent="posts[0]", counts=COUNTS),
    ]
    lines = printed(
        [
            run_started(nodes=3),
            node_started("posts"),
            fan_out_started("posts", 50_000),
            *inner,
            *items,
            node_ended(
                "posts", total=3, counts=COUNTS, usage=Usage(output_tokens=9), attempts=50_001, call_s=1e5, cost_usd=0.0
            ),
        ]
    ).splitlines()[1:]
    assert [line for line in lines if "ERROR" not in line] == [
        "0 of 3  RUN       posts 50,000 items",
        "0 of 3  ...       posts: 101 of 50,000 (0%), 5 failed, 1 retried, 20.2/s, ETA 41m 10s, $0.25",
        "0 of 3  ...       posts: 201 of 50,000 (0%), 10 failed, 1 retried, 20.1/s, ETA 41m 18s, $0.25",
        "1 of 3  OK        posts 50,000 items: 49,997 succeeded, 3 failed [9 tokens, 2 requests]",
    ]
    errors = [line for line in lines if "ERROR" in line]
    assert errors[0] == "0 of 3  ERROR     posts[7] RateLimited: too many requests"
    assert len(errors) == 5


def test_the_longer_it_takes_the_fewer_lines_there_are() -> None:
    hour = [item_ended("posts", i, at=float(i)) for i in range(3600)]
    lines = printed([run_started(nodes=1), fan_out_started("posts", None), *hour]).splitlines()
    assert len(lines) < 200
    assert lines[-1].startswith("0 of 1  ...       posts: 3,")
    assert lines[-1].endswith(", 1.0/s")


@pytest.mark.parametrize("source", ["reused", "cached"])
def test_what_was_not_carried_out_is_no_part_of_the_rate(source: str) -> None:
    items = [item_ended("posts", i, at=0.1, **{source: True}) for i in range(1000)]
    items += [item_ended("posts", 1000 + i, at=1 + i / 2) for i in range(9)]
    lines = printed([run_started(nodes=1), fan_out_started("posts", 2000, at=0.0), *items]).splitlines()
    assert lines[-1] == "0 of 1  ...       posts: 1,009 of 2,000 (50%), 1.8/s, ETA 9m 11s"


def test_a_clock_that_is_set_back_silences_nothing() -> None:
    day = 86_400.0
    items = [item_ended("posts", i, at=day + i / 10) for i in range(20)]
    items += [item_ended("posts", i, at=i / 5) for i in range(20, 60)]
    lines = printed([run_started(nodes=1), fan_out_started("posts", 60, at=day), *items]).splitlines()
    assert sum("..." in line for line in lines) >= 2
    assert "5.2/s" in lines[-1]


def test_few_items_have_a_line_each() -> None:
    lines = printed(
        [
            run_started(nodes=2),
            node_started("p", kind=StepKind.PYTHON),
            fan_out_started("p", 2),
            node_retrying("p[0]"),
            item_ended("p", 0, call_s=1.0),
            item_ended("p", 1, at=5.0, tolerated=True, **BAD),
            node_ended("p", total=2, counts=COUNTS | {"total": 2, "succeeded": 2, "failed": 0}),
        ]
    ).splitlines()[1:]
    assert lines == [
        "0 of 2  RUN       p",
        "0 of 2  RETRY     p[0] in 1.2s: RateLimited: too many requests",
        "0 of 2  OK        p[0] [1.0s]",
        "0 of 2  ERROR     p[1] RateLimited: too many requests (on_error: continue)",
        "0 of 2  ...       p: 2 of 2 (100%), 1 failed, 1 retried, 24.0/min",
        "1 of 2  OK        p 2 items",
    ]


def test_steps_within_a_step_do_not_count_as_steps_of_the_run() -> None:
    lines = printed(
        [
            run_started(nodes=2),
            request_sent("post.headline"),
            node_ended("post.headline", parent="post", done=1, total=7),
            node_ended("post", kind=StepKind.WORKFLOW, total=2),
        ]
    ).splitlines()[1:]
    assert lines == ["0 of 2  RUN       post.headline", "0 of 2  OK        post.headline", "1 of 2  OK        post"]


def test_rows_are_counted_and_said_to_be_rows() -> None:
    items = [item_ended("row", i, at=2.0 * i, **(BAD if i == 2 else {})) for i in range(4)]
    events = [run_started(**OVER), node_started("row"), fan_out_started("row", None), *items]
    lines = printed([*events, stop_requested(at=8.0), run_ended(at=8.0)]).splitlines()
    assert lines == [
        "run 20261121-abc: blog, each row of /data/rows.csv, provider openai",
        "ERROR     row[2] RateLimited: too many requests",
        "rows: 4, 1 failed, 40.0/min",
    ]


def test_the_summary_of_items() -> None:
    items = [item_ended("posts", i, tolerated=True, **(BAD if i < 30 else {})) for i in range(40)]
    lines = summed(
        run_started(nodes=2),
        *items,
        node_ended("posts", counts=COUNTS),
        item_ended("more", 0),
        item_ended("posts[0].parts", 0, **BAD),
        node_ended("a"),
        run_ended(stats={}),
    )
    assert lines[0] == (
        "succeeded in 3.4s: 2 steps; posts 50,000 items (49,997 succeeded, 3 failed); more 1 item so far"
    )
    assert sum(line.startswith("error: posts[") for line in lines) == 5
    assert lines[-2:] == ["and 25 more", "the failed items, to be mended for resume --mended: flowllm failed x"]


def test_the_summary_of_rows() -> None:
    counts = COUNTS | {"total": 4, "succeeded": 3, "failed": 1}
    failed = {"type": "ItemsFailed", "message": "1 of 4 items failed", "hint": ""}
    lines = summed(
        run_started(**OVER),
        item_ended("row", 0),
        item_ended("row", 1, **BAD),
        node_ended("row", status=NodeStatus.FAILED, error=failed, counts=counts),
        run_ended(status=RunStatus.FAILED, error=failed, stats={}),
        resume="flowllm resume x",
    )
    assert lines[0] == "failed in 3.4s: rows: 4, 3 succeeded, 1 failed; written to /data/out.jsonl"
    assert lines[2:] == [
        "error: row[1]: RateLimited: too many requests",
        "  wait a little",
        "the failed items, to be mended for resume --mended: flowllm failed x",
        "resume it with: flowllm resume x",
    ]
    assert summed(run_started(**OVER | {"output": "-"}), run_ended())[0] == (
        "succeeded in 3.4s: rows: 0; written to standard output"
    )


def test_what_rows_could_not_be_read_for_is_told() -> None:
    failed = {"type": "DataFailed", "message": "the file ends in the middle of a row", "hint": ""}
    lines = summed(
        run_started(**OVER),
        node_ended("row", status=NodeStatus.FAILED, error=failed),
        run_ended(status=RunStatus.FAILED, stats={}),
    )
    assert "error: row: DataFailed: the file ends in the middle of a row" in lines


def test_what_fails_a_graph_within_a_step_is_told_once() -> None:
    lines = summed(
        run_started(nodes=1),
        node_ended("post.title", parent="post", **BAD),
        node_ended("post.extra", parent="post", tolerated=True, **BAD),
        node_ended("post", kind=StepKind.WORKFLOW, **BAD),
        run_ended(status=RunStatus.FAILED, stats={}),
    )
    assert [line for line in lines if line.startswith("error:")] == [
        "error: post.extra: RateLimited: too many requests",
        "error: post: RateLimited: too many requests",
    ]
    assert lines[0] == "failed in 3.4s: 1 step, 1 failed"


def test_the_figures_of_all_items_are_those_of_their_step() -> None:
    stats = Stats()
    for place in range(3):
        stats.handle(request_ended(f"posts[{place}].title"))
        stats.handle(node_ended(f"posts[{place}].title", cached=True))
    stats.handle(node_ended("texts", kind=StepKind.EMBED, cached=True))
    stats.handle(node_ended("posts", cached=True, counts=COUNTS))
    found = stats.as_dict(duration_s=1.0)
    assert list(found["step_figures"]) == ["posts.title"]
    assert found["step_figures"]["posts.title"]["requests"] == 3
    assert found["requests"]["cached"] == 4


def test_each_failed_item_is_told_once_and_the_way_on_is_told() -> None:
    failed = {"type": "RateLimited", "message": "too many requests", "hint": ""}
    counts = {**COUNTS, "total": 2, "succeeded": 1, "failed": 1}
    whole = {
        "type": "ItemsFailed",
        "message": "1 of 2 items failed; posts[1]: too many requests; `max_failed` allows 0",
        "hint": "`flowllm resume --retry-failed` runs them again",
    }
    events = [
        run_started(nodes=1),
        fan_out_started("posts", 2),
        item_ended("posts", 0),
        item_ended("posts", 1, status=NodeStatus.FAILED, error=failed),
        node_ended("posts", total=1, counts=counts, status=NodeStatus.FAILED, error=whole),
        run_ended(status=RunStatus.FAILED),
    ]
    summary = Summary(errors_shown=True)
    for event in events:
        summary.handle(event)
    lines = [plain(line) for line in summary.lines("flowllm resume x", "")]
    everything = printed(events) + "\n".join(lines)
    for once in ("too many requests", "1 of 2 items failed", "`flowllm resume --retry-failed` runs them again"):
        assert everything.count(once) == 1
    assert lines[-1] == "resume it with: flowllm resume x --retry-failed"
    assert summed(*events).count("error: posts[1]: RateLimited: too many requests") == 1


def test_alerts_name_items_as_items() -> None:
    assert [
        what_ended(FailuresHigh(run_id=RunId("r"), at=0.0, failed=5, ended=20, share=0.25, items=items))
        for items in (0, 7, 20)
    ] == ["steps", "steps and items", "items"]


def test_a_rate_begins_with_the_first_request_and_what_failed_at_once_says_nothing_of_the_end() -> None:
    failed = item_ended("posts", 0, at=1.0, **BAD)
    answered = [item_ended("posts", n, at=6.0 + n / 10) for n in range(1, 21)]
    lines = printed(
        [
            run_started(nodes=1),
            fan_out_started("posts", 100),
            failed,
            item_ended("posts", 99, at=5.0, **BAD),
            request_sent("posts[1]", at=6.0),
            *answered,
            item_ended("posts", 21, at=10.0),
        ]
    ).splitlines()
    assert lines[-2:] == [
        "0 of 1  ...       posts: 2 of 100 (2%), 2 failed, 24.0/min",
        "0 of 1  ...       posts: 23 of 100 (23%), 2 failed, 5.2/s, ETA 15s",
    ]
