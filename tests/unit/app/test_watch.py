"""What a run attempt does once a second."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from flowllm.app.limit_shares import LimitShares
from flowllm.core.types import NodeId, RunStatus
from tests.support.virtual import LoopClock, run_virtual
from tests.support.virtual_app import opened
from tests.support.waiting import approval_steps
from tests.support.workflows import workflow

SIMULATED = """
    providers: {sim: {type: simulated, latency: 2500ms, limits: {max_concurrent: 2, requests_per_minute: 600}}}
    defaults: {provider: sim, model: m, max_tokens: 20}
    steps:
      posts: {foreach: [1, 2, 3, 4], prompt: "{{ item }}"}
      after: {value: "{{ posts | length }}"}
    """


def test_the_gauges_of_the_limiter_and_what_nodes_wait_are_noted_once_a_second() -> None:
    async def main() -> None:
        clock = LoopClock()
        app = opened(clock)
        began, gauges, waits = clock.now(), [], []
        app.store.note_gauges = gauges.extend
        app.store.note_waits = lambda _, noted: waits.append(noted)
        result = await app.run(workflow(SIMULATED))
        assert result.status is RunStatus.SUCCEEDED
        assert [round(gauge.at - began, 3) for gauge in gauges] == [1, 2, 3, 4, 5]
        assert [(gauge.in_flight, gauge.waiting) for gauge in gauges[:4]] == [(2, 2), (2, 2), (2, 0), (2, 0)]
        assert {gauge.rate for gauge in gauges} == {10.0}
        slots = [{node: round(of["slot"], 2) for node, of in noted.items() if "slot" in of} for noted in waits]
        assert slots[:2] == [{"posts[2]": 1.0, "posts[3]": 1.0}, {"posts[2]": 2.0, "posts[3]": 2.0}]
        assert slots[2] == {"posts[2]": 2.5, "posts[3]": 2.5}
        assert all(":" in gauge.process and "simulated" in gauge.account for gauge in gauges)

    run_virtual(main())


def test_many_processes_together_note_as_many_waits_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LimitShares, "processes", 100)

    async def main() -> None:
        clock = LoopClock()
        app = opened(clock)
        app._shares = LimitShares(app._limiter, app.store.balance, clock)
        noted: list[Mapping[NodeId, object]] = []
        app.store.note_waits = lambda _, waits: noted.append(waits)
        await app.run(workflow(SIMULATED.replace("[1, 2, 3, 4]", '"{{ range(40) | list }}"')))
        assert max(map(len, noted)) == 2

    run_virtual(main())


def test_a_suspended_node_is_woken_while_others_run() -> None:
    text = SIMULATED.replace("after: {value", "ok: {approve: it, due: 3s}\n      after: {value")

    async def main() -> None:
        clock = LoopClock()
        result = await opened(clock).run(workflow(text))
        assert (result.status, result.steps["ok"].output) == (RunStatus.SUCCEEDED, ["it", None])

    with approval_steps():
        run_virtual(main())
