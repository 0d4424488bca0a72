"""What the page reads for its graph, its timeline and its gauges."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flowllm.core.clock import SystemClock
from flowllm.core.types import NodeStatus, RunId
from flowllm.storage.base import NodeWrite
from flowllm.storage.monitoring import Gauge
from flowllm.storage.open import open_store, this_process
from flowllm.storage.timeline import RUN_ATTEMPTS, begun
from tests.support import records
from tests.support.page import page_of

pytestmark = pytest.mark.anyio
CLOCK = SystemClock()
TEXT = "name: blog\nsteps:\n  a: {value: x}\n  b: {value: '{{ a }}'}\n  g: {workflow: {steps: {one: {value: y}}}}\n"


async def test_graph_timeline_and_gauges_of_a_run_that_goes_on(tmp_path: Path) -> None:
    path, now = tmp_path / "x.db", CLOCK.now()
    store = await open_store(str(path), clock=CLOCK)
    me = this_process(CLOCK)
    run, stats = records.run("R1", owner=replace(me, since=now - 9)), {RUN_ATTEMPTS: [begun(me, now - 9)]}
    run = await store.create_run(replace(run, snapshot={run.path: TEXT}, started_at=now - 9, options={}, stats=stats))
    odd = records.run("R2", owner=this_process(CLOCK))
    odd = await store.create_run(replace(odd, run_id=RunId("R2"), snapshot={odd.path: "steps: 1"}, options={}))
    lease = records.lease_of(run)
    going = replace(records.node("a", "R1", status=NodeStatus.RUNNING), started_at=now - 8, finished_at=None)
    gauge = Gauge(
        process=me.process,
        account="openai https://x.test/v1 0a1b",
        at=now,
        in_flight=2,
        waiting=3,
        waits={"slot": {"normal": 2, "high": 1}},
    )
    other = replace(gauge, process="there:1", account="openai https://other.test/v1 0a1b", waiting=900)
    store.note_gauges([gauge, other])
    store.note_running(lease, going)
    await store.commit(nodes=[NodeWrite(lease=records.lease_of(odd), node=records.node("z", "R2"))])
    async with page_of(path) as page:
        graph = (await page.get("/api/runs/R1/graph")).json
        assert [(node["id"], node["status"], node["inner"]) for node in graph["nodes"]] == [
            ("a", "running", False),
            ("b", "pending", False),
            ("g", "pending", True),
        ]
        assert (graph["edges"], graph["critical_path"]) == ([["a", "b", False]], ["a"])
        within = (await page.get("/api/runs/R1/graph?within=g")).json
        assert [node["id"] for node in within["nodes"]] == ["g.one"]
        line = (await page.get("/api/runs/R1/timeline")).json
        assert [(bar["id"], bar["finished_at"]) for bar in line["bars"]] == [("a", None), ("b", None), ("g", None)]
        ended = replace(records.node("b", "R1"), started_at=now - 3, finished_at=now - 2)
        await store.commit(nodes=[NodeWrite(lease=lease, node=ended)])
        newer: dict[str, Any] = (await page.get(f"/api/runs/R1/timeline?since={line['changes']}")).json
        assert [bar["id"] for bar in newer["bars"]] == ["a", "b"]
        gauges = (await page.get("/api/runs/R1/gauges")).json
        assert [(one["name"], one["queue"]) for one in gauges["accounts"]] == [("x.test", gauge.waits)]
        assert gauges["every"] == 1
        assert gauges["answer"]["throttled"]
        assert gauges["answer"]["text"].startswith("Yes: 3 of 5 wait for a slot")
        known = (await page.get("/api/runs/R2/graph")).json
        assert ([node["id"] for node in known["nodes"]], known["edges"]) == (["z"], [])
        for question, status in (("R1/graph?within=a", 400), ("R1/timeline?after=x", 400), ("R9/graph", 404)):
            assert (await page.get(f"/api/runs/{question}")).status == status
    await store.close()
