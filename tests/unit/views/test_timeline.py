"""A bar of a timeline: hedges, waits laid into the gaps, what is quiet for too long; and the bars of real runs."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowllm.app.flowllm import FlowLLM
from flowllm.core.cancel import StopSignal
from flowllm.core.errors import UsageError
from flowllm.core.types import AttemptStatus, NodeStatus, RunId, RunStatus
from flowllm.explain.graph import Graph
from flowllm.runtime.options import RunOptions
from flowllm.storage.base import RunRecord
from flowllm.storage.timeline import RUN_ATTEMPTS
from flowllm.views.graph import GraphView, end_of, last_moment, read_graph
from flowllm.views.segments import BarAttempt, wait_segments, with_hedges
from flowllm.views.standing import standing_nodes
from flowllm.views.timeline import Timeline, bar_of, quiet_after, quiet_text, read_timeline, run_attempts
from tests.support.records import attempt_of_node, node, run
from tests.support.virtual import LoopClock, run_virtual
from tests.support.virtual_app import opened

FLOW = """
name: flow
providers: {slow: {type: simulated, latency: 2s}}
defaults: {provider: slow, model: m}
limits: {max_concurrent: 1}
steps:
  short: {prompt: hi}
  long: {prompt: "hi {{ short }}"}
  posts:
    foreach: [a, b, c]
    workflow:
      inputs: {topic: }
      steps:
        head: {prompt: "{{ inputs.topic }}"}
        body: {prompt: "{{ head }}"}
        fine: {value: "{{ body }}"}
      outputs: {text: "{{ fine }}"}
    with: {topic: "{{ item }}"}
  last: {value: "{{ posts }} {{ long }}"}
"""


def attempt(begin: float, end: float | None, number: int = 1) -> BarAttempt:
    return BarAttempt(number=number, started_at=begin, finished_at=end, status="failed", hedge=False, error_type="")


def laid(waits: dict[str, float], attempts: list[BarAttempt], end: float = 20.0) -> list[tuple[str, float, float]]:
    return [(one.reason, one.started_at, one.finished_at) for one in wait_segments(waits, attempts, 0.0, end)]


def test_waits_are_laid_into_the_time_without_an_attempt_and_backoff_behind_one() -> None:
    attempts = [attempt(5.0, 6.0), attempt(9.0, 12.0, 2)]
    assert laid({"slot": 1.0, "rate": 3.0, "backoff": 2.5, "dependency": 9.0}, attempts) == [
        ("rate", 0.0, 3.0),
        ("slot", 3.0, 4.0),
        ("backoff", 6.0, 8.5),
    ]
    assert laid({"backoff": 12.0}, attempts) == [("backoff", 0.0, 1.0), ("backoff", 6.0, 9.0), ("backoff", 12.0, 20.0)]
    assert laid({"commit": 1.0}, [], end=0.5) == [("commit", 0.0, 0.5)]
    assert laid({"rate": 3.0}, [attempt(0.0, None)]) == []


@given(
    st.dictionaries(st.sampled_from(["slot", "rate", "backoff", "breaker"]), st.floats(0, 30)),
    st.lists(st.floats(0, 20), max_size=8).map(sorted),
)
def test_waits_never_overlap_an_attempt_or_each_other(waits: dict[str, float], times: list[float]) -> None:
    attempts = [attempt(begin, end) for begin, end in zip(times[::2], times[1::2], strict=False)]
    found = laid(waits, attempts)
    spans = sorted(
        [*((begin, end) for _, begin, end in found), *((one.started_at, one.finished_at or 0.0) for one in attempts)]
    )
    assert all(end <= begin + 1e-9 for (_, end), (begin, _) in pairwise(spans))
    for reason, seconds in waits.items():
        assert sum(end - begin for name, begin, end in found if name == reason) <= seconds + 1e-9


def test_an_attempt_that_is_sent_beside_another_is_a_hedge() -> None:
    sent = [attempt_of_node("a", "r1", number=number) for number in (1, 2, 3)]
    times = [(1.0, 9.0), (4.0, 6.0), (9.0, None)]
    sent = [replace(one, started_at=begin, finished_at=end) for one, (begin, end) in zip(sent, times, strict=True)]
    assert [one.hedge for one in with_hedges(reversed(sent))] == [False, True, False]


def test_what_takes_much_longer_than_its_like_is_quiet() -> None:
    assert quiet_after([1.0] * 4) == 60.0
    assert quiet_after([0.1] * 5) == 10.0
    assert quiet_after([*[5.0] * 95, *[99.0] * 5]) == 15.0
    assert quiet_text(0.0, 14.9, [5.0] * 20) == ""
    assert quiet_text(0.0, 15.0, [5.0] * 20) == "no answer for 15.0s; its like took 5.0s at most"
    assert quiet_text(0.0, 61.0, []) == "no answer for 1m 01s; nothing is known of its like"


def test_a_bar_says_what_its_node_waits_for_once_that_is_on_record() -> None:
    sent = replace(attempt_of_node("a", "r1", status=AttemptStatus.SENT), started_at=4.0)
    going = replace(node("a", "r1", status=NodeStatus.RUNNING), started_at=1.0, finished_at=None, waits={})
    (gap,) = bar_of(going, [sent], now=9.0).segments
    assert (gap.reason, gap.started_at, gap.finished_at) == ("", 1.0, 4.0)
    for seconds, now, expected in (
        (2.0, 9.0, [("rate", 1.0, 3.0), ("", 3.0, 9.0)]),
        (2.0, 5.0, [("rate", 1.0, 5.0)]),  # it was noted a moment ago
    ):
        found = bar_of(replace(going, waits={"rate": seconds}), [], now=now).segments
        assert [(one.reason, one.started_at, one.finished_at) for one in found] == expected
    ended = replace(
        going, status=NodeStatus.FAILED, finished_at=8.0, waits={"rate": 2.0}, error={"type": "X", "message": "no"}
    )
    bar = bar_of(ended, [replace(sent, finished_at=8.0)], now=9.0)
    assert [one.reason for one in bar.segments] == ["rate"]
    assert bar.as_dict()["segments"] == [["rate", 1.0, 3.0]]
    assert bar.error == "X: no"


def test_what_a_run_that_is_over_left_running_was_cancelled_and_is_drawn_to_the_runs_end() -> None:
    going = replace(node("a", "r1", status=NodeStatus.RUNNING), finished_at=1_700_000_001.5)
    over = replace(run("r1"), status=RunStatus.INTERRUPTED)
    (stands,) = standing_nodes(over, [going])
    assert (stands.status, end_of(stands)) == (NodeStatus.CANCELLED, None)
    assert standing_nodes(run("r1"), [going]) == [going]
    assert [last_moment(one, [going], 9e9) for one in (run("r1"), over, replace(over, finished_at=8e9))] == [
        9e9,
        1_700_000_001.5,
        8e9,
    ]


async def _at(app: FlowLLM, run: RunRecord, graph: Graph, parent: str) -> tuple[GraphView, Timeline]:
    return (
        await read_graph(app.store, run, graph, parent, now=app._clock.now()),
        await read_timeline(app.store, run, graph, parent, now=app._clock.now()),
    )


def test_the_graph_and_the_bars_of_a_run_while_it_goes_on_and_after(tmp_path: Path) -> None:
    path = tmp_path / "flow.yaml"
    path.write_text(FLOW, encoding="utf-8")

    async def go() -> None:
        app = opened(LoopClock())
        task = asyncio.ensure_future(app.run(str(path)))
        await asyncio.sleep(7.0)
        (listed,) = await app.store.runs()
        run = await app.store.run(listed.run_id)
        graph = Graph.of(app.workflow_of(run))
        view, line = await _at(app, run, graph, "")
        assert [(one.id, one.generation, one.foreach, one.inner) for one in view.nodes] == [
            ("short", 0, False, False),
            ("long", 1, False, False),
            ("posts", 0, True, True),
            ("last", 2, False, False),
        ]
        assert view.nodes[2].status == "running"
        assert sum(view.nodes[2].counts.values()) == 3
        assert view.nodes[3].status == "pending"
        assert view.edges == (("short", "long", False), ("posts", "last", False), ("long", "last", False))
        assert [bar.id for bar in line.bars][-1] == "last"
        assert line.bars[-1].started_at is None
        assert [(bar.status, bar.finished_at) for bar in line.bars if bar.id == "posts"] == [("running", None)]
        assert not any(bar.quiet for bar in line.bars)
        await task
        run = await app.store.run(run.run_id)
        view, line = await _at(app, run, graph, "")
        assert view.critical_path == ("posts", "last")
        assert [bar.id for bar in line.bars if bar.critical] == ["posts", "last"]
        assert line.as_dict(since=line.changes)["critical_path"] == ["posts", "last"], "also where no bar has changed"
        posts = next(bar for bar in line.bars if bar.id == "posts")
        assert posts.counts == {"succeeded": 3}
        (activity,) = posts.activity
        assert (sum(activity.started), sum(activity.succeeded), sum(activity.failed)) == (3, 3, 0)
        short = next(bar for bar in line.bars if bar.id == "short")
        assert [round(one.finished_at - one.started_at) for one in short.attempts if one.finished_at] == [2]
        assert {one.reason for bar in line.bars for one in bar.segments} >= {"slot"}
        view, line = await _at(app, run, graph, "posts")
        assert [(one.id, one.counts) for one in view.nodes] == [
            (f"posts.{step}", {"succeeded": 3}) for step in ("head", "body", "fine")
        ]
        assert [(bar.id, bar.inner, bar.place) for bar in line.bars] == [(f"posts[{n}]", True, n) for n in range(3)]
        view, line = await _at(app, run, graph, "posts[1]")
        assert view.edges[0] == ("posts[1].head", "posts[1].body", False)
        assert [bar.id for bar in line.bars] == [f"posts[1].{step}" for step in ("head", "body", "fine")]
        page = await read_timeline(app.store, run, graph, "posts", after=0, limit=1, now=0.0)
        assert ([bar.id for bar in page.bars], page.more) == (["posts[1]"], True)
        for name in ("short", "none", "posts[0].head"):
            with pytest.raises(UsageError, match=re.escape(name)):
                await read_graph(app.store, run, graph, name, now=0.0)
        await app._close()

    run_virtual(go())


RESUMED = """
name: flow
providers: {slow: {type: simulated, latency: 2s}}
defaults: {provider: slow, model: m}
steps:
  posts: {foreach: [a, b], max_concurrent: 1, prompt: "{{ item }}"}
  whole: {workflow: {steps: {one: {prompt: "1"}, two: {prompt: "{{ one }}"}}}}
"""


def test_a_run_that_was_resumed_has_all_its_attempts_on_its_timeline(tmp_path: Path) -> None:
    path = tmp_path / "flow.yaml"
    path.write_text(RESUMED, encoding="utf-8")

    async def go() -> None:
        clock, stop = LoopClock(), StopSignal()
        app, began = opened(clock), clock.now()
        task = asyncio.ensure_future(app.run(str(path), stop=stop, options=RunOptions(grace=0.0)))
        await asyncio.sleep(3.0)
        stop.request("the user")
        run_id = (await task).run_id
        await asyncio.sleep(1000.0)
        await app.resume(run_id)
        run = await app.store.run(RunId(run_id))
        _, line = await _at(app, run, Graph.of(app.workflow_of(run)), "")
        assert [(round(one - began), round((two or 0.0) - began)) for one, two in line.attempts] == [
            (0, 3),
            (1003, 1005),
        ]
        whole, posts = sorted(line.bars, key=lambda bar: bar.foreach)
        assert [(round(one.begin - began), sum(one.succeeded)) for one in posts.activity] == [(0, 1), (1003, 1)]
        assert [(round(one.begin - began), sum(one.succeeded)) for one in whole.activity] == [(0, 1)]
        _, line = await _at(app, run, Graph.of(app.workflow_of(run)), "whole")
        two = next(bar for bar in line.bars if bar.id == "whole.two")
        sent = [(round(one.started_at - began), round((one.finished_at or 0.0) - began)) for one in two.attempts]
        assert sent == [(2, 3), (1003, 1005)]
        await app._close()

    run_virtual(go())


def test_attempts_at_a_run_end_as_is_on_record_and_the_last_one_with_the_run() -> None:
    attempts = [{"started_at": 10.0, "finished_at": 20.0}, {"started_at": 90.0, "finished_at": None}]
    going = replace(run("r1"), stats={RUN_ATTEMPTS: attempts})
    assert run_attempts(going, 95.0) == ((10.0, 20.0), (90.0, None))
    assert run_attempts(replace(going, status=RunStatus.FAILED), 95.0) == ((10.0, 20.0), (90.0, 95.0))
    assert run_attempts(replace(going, stats={}), 0.0) == ((going.started_at, None),)


def test_the_rows_of_a_run_over_a_data_set_are_one_node_with_the_graph_within_it(tmp_path: Path) -> None:
    steps = "steps: {a: {value: '{{ inputs.x }}'}, b: {value: '{{ a }}'}}"
    (tmp_path / "flow.yaml").write_text(f"name: f\ninputs: {{x: }}\n{steps}\noutputs: {{b: '{{{{ b }}}}'}}\n")
    (tmp_path / "data.csv").write_text("x\n1\n2\n")

    async def go() -> None:
        app = opened(LoopClock())
        data = str(tmp_path / "data.csv")
        await app.run(str(tmp_path / "flow.yaml"), options=RunOptions(over=data, output=str(tmp_path / "out.jsonl")))
        (listed,) = await app.store.runs()
        run = await app.store.run(listed.run_id)
        graph = Graph.of(app.workflow_of(run))
        view, line = await _at(app, run, graph, "")
        assert [(one.id, one.foreach, one.inner, one.counts) for one in view.nodes] == [
            ("row", True, True, {"succeeded": 2})
        ]
        assert [bar.counts for bar in line.bars] == [{"succeeded": 2}]
        view, line = await _at(app, run, graph, "row")
        assert [(one.id, one.counts) for one in view.nodes] == [
            ("row.a", {"succeeded": 2}),
            ("row.b", {"succeeded": 2}),
        ]
        assert [bar.id for bar in line.bars] == ["row[0]", "row[1]"]
        view, _ = await _at(app, run, graph, "row[1]")
        assert [(one.id, one.status) for one in view.nodes] == [("row[1].a", "succeeded"), ("row[1].b", "succeeded")]
        await app._close()

    run_virtual(go())
