"""What a drawing of a run over time asks of the store."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flowllm.core.models import MODELS
from flowllm.core.types import Counts, NodeId, NodeStatus, RunId, RunStatus, StepId
from flowllm.storage.base import NodeRecord, NodeWrite, Store
from flowllm.storage.following import Within
from flowllm.storage.sql.store import SqlStore
from flowllm.storage.timeline import RUN_ATTEMPTS
from tests.support.owners import orphan
from tests.support.records import ME, attempt_of_node, lease_of, node, run

pytestmark = pytest.mark.anyio
R1 = RunId("r1")
S, F, K = NodeStatus.SUCCEEDED, NodeStatus.FAILED, NodeStatus.SKIPPED


async def test_items_are_counted_by_when_they_began_and_ended(store: Store) -> None:
    lease = lease_of(await store.create_run(run("r1", owner=ME)))
    times = [
        (S, 10.0, 11.0),
        (S, 10.5, 19.99),
        (F, 12.0, 14.0),
        (K, 15.0, 16.0),
        (S, 5.0, 25.0),
        (NodeStatus.RUNNING, 18.0, 19.0),
    ]
    for place, (status, began, ended) in enumerate(times):
        item = replace(node(f"each[{place}]", "r1", status=status, seq=place + 1), parent=NodeId("each"), place=place)
        record = replace(item, started_at=began, finished_at=ended, content="c")
        await store.commit(nodes=[NodeWrite(lease=lease, node=record)])
    found, before = await store.activity(R1, NodeId("each"), [(10.0, 20.0), (4.0, 8.0)], spans=5)
    assert ((found.begin, found.width), (before.begin, before.width)) == ((10.0, 2.0), (4.0, 0.8))
    assert ([*before.started], [*before.succeeded]) == ([0, 1, 0, 0, 0], [0] * 5)
    assert [*found.started] == [2, 1, 1, 0, 1]
    assert [*found.succeeded] == [1, 0, 0, 0, 1]
    assert ([*found.failed], [*found.others]) == ([0, 0, 1, 0, 0], [0, 0, 0, 1, 0])
    (empty,) = await store.activity(R1, NodeId("other"), [(10.0, 10.0)], spans=2)
    assert [*empty.started] == [0, 0]


async def test_a_claim_notes_when_each_attempt_at_the_run_began_and_ended(store: SqlStore) -> None:
    lease = lease_of(created := await store.create_run(run("r1", owner=ME)))
    figures = {"x": 1, MODELS: []}
    await store.finish_run(lease, status=RunStatus.FAILED, finished_at=created.started_at + 5.0, stats=figures)
    began = created.started_at + 100.0
    lease = lease_of(claimed := await store.claim_run(R1, replace(ME, since=began)))
    assert claimed.stats[MODELS] == []
    late = replace(node("a", "r1"), started_at=began, finished_at=began + 7.0)
    await store.commit(nodes=[NodeWrite(lease=lease, node=late)])
    orphan(store._engine, "r1")  # its process dies
    claimed = await store.claim_run(R1, replace(ME, since=began + 50.0))
    times = [(created.started_at, created.started_at + 5.0), (began, began + 7.0), (began + 50.0, None)]
    assert claimed.stats == (await store.run(R1)).stats
    found = claimed.stats[RUN_ATTEMPTS]
    assert [(one["started_at"], one["finished_at"]) for one in found] == times
    assert ([one.get("process") for one in found], claimed.stats["x"]) == ([None, ME.process, ME.process], 1)
    assert MODELS not in claimed.stats, "nobody knows what caches saved in the attempt before"


def _within(name: str, parent: str, seq: int, **fields: object) -> NodeRecord:
    return replace(node(name, "r1", seq=seq), parent=NodeId(parent), **fields)


async def test_the_steps_within_a_foreach_are_counted_over_its_items_and_not_those_deeper_within(store: Store) -> None:
    lease = lease_of(await store.create_run(run("r1", owner=ME)))
    nodes = [
        _within("posts[0].head", "posts[0]", 1),
        _within("posts[1].head", "posts[1]", 2, status=F),
        _within("posts[0].deep", "posts[0]", 3),
        _within("posts[0].deep.head", "posts[0].deep", 4),
        _within("posts[0].deep[1].head", "posts[0].deep[1]", 5),
        _within("posts[0]", "posts", 6, place=0, content="c"),
        _within("postsx[0].head", "postsx[0]", 7),
    ]
    await store.commit(nodes=[NodeWrite(lease=lease, node=one) for one in nodes])
    found = await store.count_within(R1, NodeId("posts"))
    assert found == {StepId("head"): {S: 1, F: 1}, StepId("deep"): {S: 1}}


async def test_the_attempts_of_many_nodes_are_read_at_once(store: Store) -> None:
    lease = lease_of(await store.create_run(run("r1", owner=ME)))
    for name, number in (("a", 1), ("b", 1), ("a", 2), ("c", 1)):
        await store.commit(attempt=attempt_of_node(name, "r1", number=number), attempt_lease=lease)
    found = await store.attempts_of(R1, [NodeId("a"), NodeId("c"), NodeId("none")])
    assert {name: [one.number for one in attempts] for name, attempts in found.items()} == {"a": [1, 2], "c": [1]}
    assert await store.attempts_of(R1, []) == {}


async def test_what_became_of_the_nodes_within_a_foreach_is_summed_up_by_step(store: Store) -> None:
    lease = lease_of(await store.create_run(run("r1", owner=ME)))
    assert await store.last_sign(R1) is None
    sized = {"counts": Counts(total=3), "started_at": 5.0, "finished_at": None}
    nodes = [
        _within("posts[0].head", "posts[0]", 1, cached=True),
        _within("posts[1].head", "posts[1]", 2, status=F),
        _within("posts[2].head", "posts[2]", 3, status=NodeStatus.RUNNING, started_at=9.0, finished_at=None),
        _within("posts[0].parts", "posts[0]", 4, status=NodeStatus.RUNNING, **sized),
        _within("posts[1].parts", "posts[1]", 5, status=NodeStatus.BLOCKED),
        _within("posts[2].parts", "posts[2]", 10, status=NodeStatus.RUNNING, counts=Counts()),
        _within("posts[0].parts[0]", "posts[0].parts", 6, place=0, content="c"),
        _within("posts[0].parts[1]", "posts[0].parts", 7, place=1, content="c", status=F),
        _within("posts[0].parts[1].deep", "posts[0].parts[1]", 8),
        _within("postsx[0].head", "postsx[0]", 9),
    ]
    await store.commit(nodes=[NodeWrite(lease=lease, node=one) for one in nodes])
    assert await store.within(R1, NodeId("posts")) == [
        Within("head", ended=2, failed=1, skipped=0, worked=1, begun=3, total=None, alike=False),
        Within("parts", ended=2, failed=1, skipped=0, worked=2, begun=1, total=3, alike=True),
    ]
    assert await store.last_sign(R1) == 1_700_000_002.0
