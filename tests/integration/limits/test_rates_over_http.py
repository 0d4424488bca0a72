"""Whole runs against a server that enforces limits: what holds on a machine of any speed.

How fast is measured by `python -m tests.benchmarks.limits`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from flowllm import FlowLLM
from flowllm.app.result import RunResult
from flowllm.core.cancel import StopSignal
from flowllm.core.types import Limits, RunStatus, WindowLimit
from flowllm.limits.breaker import LEAST
from flowllm.limits.concurrency import CEILING, UNHEARD
from tests.support.replies import FAULTS
from tests.support.server import Server, running_server
from tests.support.serving import independent_calls

pytestmark = pytest.mark.anyio


@pytest.fixture
def server() -> Iterator[Server]:
    with running_server(latency=0.02) as server:
        yield server


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[FlowLLM]:
    async with FlowLLM(database=tmp_path / "flowllm.db", environ={}) as app:
        yield app


async def run(app: FlowLLM, folder: Path, server: Server, count: int, limits: Limits) -> RunResult:
    return await app.run(independent_calls(folder, "flow", server.url, count, limits))


async def test_a_known_limit_is_never_passed(app: FlowLLM, tmp_path: Path, server: Server) -> None:
    """A server twice as fast as it is said to be, so that a machine that stalls is no 429."""
    server.rule(requests_per_minute=2400, burst=20)
    result = await run(app, tmp_path, server, 40, Limits(max_concurrent=20, requests_per_minute=1200, burst=10))
    assert result.status is RunStatus.SUCCEEDED
    assert (server.counts["refused"], server.counts["accepted"]) == (0, 40)


async def test_a_strict_window_lets_no_more_through_than_it_says(app: FlowLLM, tmp_path: Path, server: Server) -> None:
    windows = (WindowLimit(requests=5, per=30.0),)
    stop = StopSignal()
    limits = Limits(max_concurrent=20, windows=windows)
    workflow = independent_calls(tmp_path, "flow", server.url, 20, limits)
    running = asyncio.ensure_future(app.run(workflow, stop=stop))
    while server.counts["accepted"] < 5:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.3)
    stop.cancel()
    await running
    assert len(server.requests) == 5


async def test_tokens_are_reserved_before_they_are_spent(app: FlowLLM, tmp_path: Path, server: Server) -> None:
    server.rule(tokens_per_minute=12_000, charged="usage", answer_tokens=[10, 1000])
    limits = Limits(max_concurrent=20, tokens_per_minute=10_000, tokens_charged="usage")
    workflow = independent_calls(tmp_path, "flow", server.url, 9, limits, max_tokens=1000)
    result = await app.run(workflow)
    assert result.status is RunStatus.SUCCEEDED
    assert server.counts["refused"] == 0


@pytest.mark.parametrize("headers", [True, False])
async def test_an_unknown_limit_is_met_and_no_node_fails_for_it(
    headers: bool, app: FlowLLM, tmp_path: Path, server: Server
) -> None:
    server.rule(requests_per_minute=1200, burst=10, headers=headers)
    result = await run(app, tmp_path, server, 40, Limits(max_concurrent=10))
    assert result.status is RunStatus.SUCCEEDED
    assert server.counts["accepted"] == 40
    assert server.counts["refused"] <= 20


async def test_many_429s_at_once_are_as_many_retries_and_no_more(
    app: FlowLLM, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowllm.limits.adaptive.DOUBLING", 0.5)
    server.rule(refuse=30, retry_after=False)
    server.hold = 30
    result = await run(app, tmp_path, server, 30, Limits(max_concurrent=30))
    assert result.status is RunStatus.SUCCEEDED
    assert server.counts["refused"] == 30
    assert len(server.requests) == 60


async def test_a_server_that_fails_for_a_while_is_left_alone_and_no_node_fails(
    app: FlowLLM, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowllm.limits.breaker.FIRST_COOLDOWN", cooldown := 0.5)
    server.rule(failing=True)
    running = asyncio.ensure_future(run(app, tmp_path, server, 100, Limits(max_concurrent=10)))
    while server.counts["failed"] < LEAST:
        await asyncio.sleep(0.01)
    await asyncio.sleep(cooldown / 2)
    server.rule(failing=False)
    result = await running
    assert result.status is RunStatus.SUCCEEDED
    assert server.counts["failed"] < LEAST + 10


async def test_no_quota_pauses_the_run_after_one_round_trip(app: FlowLLM, tmp_path: Path, server: Server) -> None:
    server.script = lambda body, n: FAULTS["quota"]
    result = await run(app, tmp_path, server, 100, Limits(max_concurrent=5))
    assert result.status is RunStatus.PAUSED
    assert len(server.requests) <= 5


async def test_without_a_number_more_go_while_none_is_answered_and_more_with_each_answer(
    app: FlowLLM, tmp_path: Path, server: Server
) -> None:
    server.hold = UNHEARD  # nobody is answered before so many are there together
    result = await run(app, tmp_path, server, 3 * UNHEARD, Limits())
    assert result.status is RunStatus.SUCCEEDED
    assert UNHEARD <= server.peak <= CEILING
    assert result.stats["requests"]["sent"] == 3 * UNHEARD
