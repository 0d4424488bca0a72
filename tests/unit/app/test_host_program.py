"""flowllm within a program of somebody else: it changes nothing of the process, and holds nothing of runs that are over."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from pathlib import Path

import pytest

from flowllm import FlowLLM

FLOW = """
defaults: {provider: simulated, model: m}
providers: {simulated: {latency: 0s}}
steps:
  words: {value: ["a", "b", "c"]}
  each: {foreach: "{{ words }}", prompt: "{{ item }}"}
  own: {python: "./own.py:double", with: {x: "{{ each | length }}"}}
outputs: {n: "{{ own }}"}
"""


class Noted:
    """What the process is set to while a run is under way."""

    def __init__(self) -> None:
        self.thresholds: set[tuple[int, int, int]] = set()

    def handle(self, _event: object) -> None:
        self.thresholds.add(gc.get_threshold())


@pytest.fixture
def flow(tmp_path: Path) -> str:
    (tmp_path / "own.py").write_text("def double(x):\n    return 2 * x\n")
    (tmp_path / "flow.yaml").write_text(FLOW)
    return str(tmp_path / "flow.yaml")


def process() -> tuple[object, ...]:
    return gc.get_threshold(), list(sys.path), dict(os.environ), Path.cwd(), sys.getrecursionlimit(), sys.stdout


def test_a_run_changes_nothing_of_the_process(flow: str, tmp_path: Path) -> None:
    async def main() -> Noted:
        noted = Noted()
        async with FlowLLM(database=tmp_path / "x.db") as app:
            result = await app.run(flow, observers=[noted])
        assert result.outputs == {"n": 6}
        return noted

    before = process()
    noted = asyncio.run(main())
    assert process() == before
    assert noted.thresholds == {before[0]}


def test_runs_and_resumes_that_are_over_leave_nothing_behind(flow: str, tmp_path: Path) -> None:
    """A service keeps one FlowLLM open for months."""

    def held(app: FlowLLM) -> list[int]:
        limiter, calls = app._limiter, app._calls
        tables = [limiter._accounts, *limiter._claims.values(), *(vars(calls)[name] for name in sorted(vars(calls)))]
        return [len(table) for table in tables if isinstance(table, (dict, set, list))]

    async def main() -> None:
        async with FlowLLM(database=tmp_path / "x.db") as app:
            run = await app.run(flow)
            first, tasks = held(app), len(asyncio.all_tasks())
            for _ in range(3):
                await app.resume(run.run_id, file=flow)
                await app.run(flow)
            assert (held(app), len(asyncio.all_tasks())) == (first, tasks)

    asyncio.run(main())
