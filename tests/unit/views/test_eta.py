"""When the items at work will be done, by how many ended in the last half minute."""

from __future__ import annotations

from typing import Any

import pytest

from flowllm.core.types import Counts, NodeId, NodeStatus, RunId, Usage
from flowllm.storage.following import NodeBrief
from flowllm.storage.timeline import Activity
from flowllm.views.eta import Ahead

pytestmark = pytest.mark.anyio


class Items:
    """A store with as many ended items as it is told."""

    def __init__(self, past: Activity) -> None:
        self.past, self.ended, self.asked = past, 0, 0

    async def activity(self, *_: Any, **__: Any) -> list[Activity]:
        return [self.past]

    async def count_items(self, *_: Any) -> dict[NodeStatus, int]:
        self.asked += 1
        return {NodeStatus.SUCCEEDED: self.ended, NodeStatus.RUNNING: 7}


def foreach(status: NodeStatus = NodeStatus.RUNNING, total: int = 100, name: str = "rows") -> NodeBrief:
    times = {"started_at": 0.0, "finished_at": None, "queue_s": 0.0, "call_s": 0.0}
    rest: dict[str, Any] = {
        "cached": False,
        "reused": False,
        "attempts": 0,
        "model": "",
        "cost_usd": None,
        "error": None,
    }
    return NodeBrief(
        node_id=NodeId(name),
        kind="prompt",
        status=status,
        parent="",
        place=None,
        usage=Usage(),
        counts=Counts(total=total),
        change_no=1,
        **times,
        **rest,
    )


async def test_the_time_left_follows_what_ended_lately() -> None:
    items: Any = Items(Activity(begin=0.0, width=1.0))
    ahead = Ahead(run_id=RunId("R"))
    assert await ahead.left(items, [], now=0.0) is None
    assert await ahead.left(items, [foreach(total=0)], now=0.0) is None
    items.ended = 20
    assert await ahead.left(items, [], now=10.0) is None, "its size is not known"
    assert await ahead.left(items, [foreach()], now=12.0) == pytest.approx(80 / (20 / 12))
    asked = items.asked
    assert await ahead.left(items, [], now=12.5) == pytest.approx(48.0), "not counted more than once a second"
    assert items.asked == asked
    assert await ahead.left(items, [], now=100.0) is None, "nothing ended for half a minute"
    assert await ahead.left(items, [foreach(NodeStatus.SUCCEEDED)], now=101.5) is None


async def test_what_ended_before_somebody_looked_counts() -> None:
    past = Activity(begin=70.0, width=10.0, succeeded=(10, 10, 10), failed=(0, 0, 0), others=(0, 0, 0))
    items: Any = Items(past)
    items.ended = 60
    assert await Ahead(run_id=RunId("R")).left(items, [foreach()], now=100.0) == pytest.approx(40 / (20 / 30))
