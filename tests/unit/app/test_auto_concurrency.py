"""Runs for which nobody wrote how many requests may be in flight."""

from __future__ import annotations

import asyncio

import pytest

from flowllm.app.result import RunResult
from flowllm.core.types import RunStatus
from flowllm.reporting.summary import limits
from flowllm.runtime.options import RunOptions
from tests.support.stores import InlineStore
from tests.support.virtual import LoopClock, run_virtual
from tests.support.virtual_app import opened
from tests.support.workflows import workflow

FLOW = """
    providers: {{sim: {{type: simulated, latency: 1s, slots: {slots}}}}}
    defaults: {{provider: sim, model: m, max_tokens: 20, cache: false}}
    limits: {{{limits}}}
    steps:
      posts: {{foreach: "{{{{ range({items}) | list }}}}", prompt: "{{{{ item }}}}"{more}}}
    """


async def _run(store: InlineStore, *, slots: int = 64, items: int = 320, limits: str = "", more: str = "") -> RunResult:
    clock = LoopClock()
    result = await opened(clock, store).run(workflow(FLOW.format(slots=slots, items=items, limits=limits, more=more)))
    assert result.status is RunStatus.SUCCEEDED
    return result


def test_as_many_go_as_the_server_has_slots_and_later_runs_begin_with_them() -> None:
    async def main() -> None:
        store = InlineStore()
        first, written = await _run(store), await _run(InlineStore(), limits="max_concurrent: 64")
        assert written.stats["duration_s"] == pytest.approx(5.0)
        assert first.stats["duration_s"] <= 1.2 * (written.stats["duration_s"] + 0.1)
        assert first.stats["latency_s"]["p99"] <= 1.3 * written.stats["latency_s"]["p99"]
        gauge = first.stats["limits"]["sim"]
        assert 60 <= gauge["learned_concurrent"] <= 76
        assert limits(first.stats["limits"]) == [
            f"limit of sim: {gauge['learned_concurrent']} requests in flight, found"
        ]
        assert written.stats["limits"]["sim"]["learned_concurrent"] is None
        assert limits(written.stats["limits"]) == []
        ((name, value),) = store.rows("SELECT name, value FROM learned")
        assert (name, value) == ("max_concurrent", gauge["learned_concurrent"])
        app, flow = opened(LoopClock(), store), FLOW.format(slots=64, items=320, limits="", more="")
        assert (await app.forecast(workflow(flow))).max_concurrent == {"m": value}
        assert (await app.forecast(workflow(flow), options=RunOptions(max_concurrent=9))).max_concurrent == {}
        second = await _run(store)
        assert second.stats["duration_s"] <= 1.05 * written.stats["duration_s"]

    run_virtual(main())


def test_runs_of_one_process_share_what_is_found() -> None:
    async def main() -> None:
        clock = LoopClock()
        app, text = opened(clock), FLOW.format(slots=64, items=160, limits="", more="")
        began = clock.monotonic()
        results = await asyncio.gather(
            *(app.run(workflow(text.replace("item }}", "item }} of " + who))) for who in "ab")
        )
        assert {result.status for result in results} == {RunStatus.SUCCEEDED}
        assert clock.monotonic() - began <= 6.3
        (found,) = {result.stats["limits"]["sim"]["max_concurrent"] for result in results}
        assert 60 <= found <= 76

    run_virtual(main())


def test_a_server_with_few_slots_is_not_flooded_for_long() -> None:
    async def main() -> None:
        store = InlineStore()
        await _run(store, slots=4, items=200)
        ((found,),) = store.rows("SELECT value FROM learned")
        assert 4 <= found <= 8

    run_virtual(main())


def test_a_written_number_and_that_of_a_foreach_stay_caps() -> None:
    async def main() -> None:
        ten = await _run(InlineStore(), items=40, limits="max_concurrent: 10")
        assert ten.stats["duration_s"] == pytest.approx(4.0)
        five = await _run(InlineStore(), items=40, limits="max_concurrent: auto", more=", max_concurrent: 5")
        assert five.stats["duration_s"] == pytest.approx(8.0)
        assert five.stats["limits"]["sim"]["learned_concurrent"] is None, "nothing was tried"

    run_virtual(main())
