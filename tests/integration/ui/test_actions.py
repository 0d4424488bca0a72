"""What the page may do, where it was allowed; and the figures for Prometheus."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from flowllm.core.money import Spend
from flowllm.core.types import NodeStatus, RunStatus, Usage
from flowllm.storage.following import WorkflowSums
from flowllm.storage.monitoring import Gauge, RunTotals
from flowllm.ui.actions import Actions
from flowllm.ui.metrics import exposition
from tests.support.page import Page, page_of
from tests.support.project import Project, killed_at_exit, until

pytestmark = pytest.mark.anyio

FLOW: dict[str, Any] = {
    "providers": {"slow": {"type": "simulated", "latency": "30s"}},
    "defaults": {"provider": "slow"},
    "steps": {"a": {"prompt": "Say a."}},
}


async def shown(page: Page, run_id: str) -> Any:
    return (await page.get(f"/api/runs/{run_id}")).json


async def is_so(page: Page, run_id: str, status: str) -> Any:
    async with page.events(f"/api/runs/{run_id}/changes") as events:
        async for _, data, _ in events:
            if data["run"]["status"] == status:
                return await shown(page, run_id)
    raise AssertionError("the stream ended")


async def test_a_run_is_stopped_and_resumed_from_the_page(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.flow(**FLOW)
    process = project.start("run", "flow.yaml", "--grace", "0s", "--quiet", anew=True)
    actions = Actions(project.database, str(project.database), config=None, environ=project.environ)
    with killed_at_exit(process):
        await asyncio.to_thread(until, project.run_ids, of=process)
        run_id = project.run_ids()[0]
        async with page_of(project.database, actions=actions) as page:
            assert (await shown(page, run_id))["actions"] == ["stop"]
            assert (await page.post(f"/api/runs/{run_id}/resume")).status == 409
            assert (await page.post(f"/api/runs/{run_id}/stop")).json == {"stopping": True}
            assert (await is_so(page, run_id, "interrupted"))["actions"] == ["resume"]
            answer = await page.post(f"/api/runs/{run_id}/stop")
            assert (answer.status, answer.json["error"]) == (400, f"run {run_id} does not go on")
            project.write("flow.yaml", "other: true")  # the run has its own copy
            project.write("json.py", "raise SystemExit('a module of the folder was taken for one of Python')")
            started = (await page.post(f"/api/runs/{run_id}/resume")).json
            await is_so(page, run_id, "running")
        async with page_of(project.database, actions=actions) as page:  # the run goes on though the page was closed
            await is_so(page, run_id, "running")
            assert (await page.post(f"/api/runs/{run_id}/stop")).status == 200
            await is_so(page, run_id, "interrupted")
            assert Path(started["output"]).stat().st_mode & 0o777 == 0o600
            broken = Actions(
                project.database, str(project.database), config=str(tmp_path / "nowhere.yaml"), environ=project.environ
            )
            page.app.state.actions = broken
            answer = await page.post(f"/api/runs/{run_id}/retry")
            assert (answer.status, "nowhere.yaml" in answer.json["hint"]) == (400, True)
        async with page_of(project.database) as page:
            assert (await shown(page, run_id))["actions"] == []
            for action in ("resume", "retry", "stop"):
                answer = await page.post(f"/api/runs/{run_id}/{action}")
                assert (answer.status, "--allow-actions" in answer.json["hint"]) == (403, True)
            metrics = await page.ask("GET", "/metrics", f"Authorization: Bearer {page.access.token}")
            assert metrics.status == 200
            assert 'flowllm_runs{workflow="flow",status="interrupted"} 1\n' in metrics.body.decode()
            assert (await page.ask("GET", "/api/runs", f"Authorization: Bearer {page.access.token}")).status == 403


def test_figures_are_what_is_on_record_in_the_text_format() -> None:
    spend = Spend(
        requests=3, usage=Usage(cached_input_tokens=None), known_input=20, known_output=4, known_usd=0.5, unknown=1
    )
    totals = RunTotals(nodes={NodeStatus.SUCCEEDED: 2, NodeStatus.RUNNING: 1}, spend=spend)
    sums = [
        WorkflowSums(workflow='a"\\\nb', status=status, runs=2, totals=totals)
        for status in (RunStatus.FAILED, RunStatus.PAUSED)
    ]
    gauges = [
        Gauge(process="h:1", account="acc", at=at, in_flight=at_once, waiting=2, waits={"rate": {"low": 2}})
        for at, at_once in ((95.0, 1), (99.0, 4))
    ]
    old = Gauge(process="h:2", account="acc", at=10.0, in_flight=9, waiting=0)
    text = exposition(sums, [old, *gauges], now=100.0)
    for line in text.splitlines():
        assert re.fullmatch(
            r'# (HELP|TYPE) flowllm_\w+ .+|flowllm_\w+(\{(\w+="(\\["\\n]|[^"\\\n])*",?)*\})? [-0-9.e+]+', line
        ), line
    assert 'flowllm_nodes{workflow="a\\"\\\\\\nb",status="succeeded"} 4\n' in text
    assert 'status="cancelled"} 2\n' in text, "nothing runs in a run that is over"
    assert 'flowllm_cost_usd_total{workflow="a\\"\\\\\\nb"} 1.0\n' in text
    assert 'flowllm_requests_in_flight{account="acc",process="h:1"} 4\n' in text
    assert 'reason="rate",priority="low"} 2\n' in text
    assert "h:2" not in text
