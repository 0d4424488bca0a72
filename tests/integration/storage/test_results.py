"""All that is on record of a run, read without a loop: as the other verbs give it, and for whoever comes later."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest

from flowllm.core.types import NodeId, NodeStatus
from flowllm.storage.base import Store
from flowllm.storage.sql.store import SqlStore
from tests.support.items import POSTS, R1, adopt, again, foreach, item, write, written
from tests.support.records import lease_of, node

pytestmark = pytest.mark.anyio


async def test_items_are_those_that_the_store_gives_in_pages(store: Store) -> None:
    begun = await written(store, "abcd" * 300)
    bad = [item(place, "x", status=NodeStatus.FAILED) for place in (3, 1199)]
    inner = [replace(node(f"posts[{at}].x", R1), parent=f"posts[{at}]") for at in (2, 700)]
    await write(store, lease_of(begun), *bad, *inner)
    results = store.results(R1)
    items = results.items(POSTS)
    assert len(items) == 1200
    assert list(items[:500]) == await store.items(R1, POSTS)
    assert items[-1].status is NodeStatus.FAILED
    assert [one.place for one in results.items(POSTS, statuses=[NodeStatus.FAILED])] == [3, 1199]
    within = results.items(POSTS, step="x")
    assert [(one.node_id, one.place, one.item) for one in within] == [
        ("posts[2].x", 2, {"text": "c"}),
        ("posts[700].x", 700, {"text": "a"}),
    ]
    assert len(results.items(POSTS, step="x", statuses=[NodeStatus.FAILED])) == 0
    assert results.node(NodeId("posts[2].x")) == inner[0]
    assert results.node(NodeId("posts[2].y")) is None
    assert results.nodes("posts[2]") == inner[:1]
    assert [one.node_id for one in results.nodes()] == ["posts"]


async def test_what_left_the_data_is_not_given(store: Store) -> None:
    lease = await again(store, lease_of(await written(store, "abcd")))
    await adopt(store, lease, "cb")
    results = store.results(R1)
    assert [(one.node_id, one.place) for one in results.items(POSTS)] == [
        ("posts[2]", 0),
        ("posts[1]", 1),
        ("posts[3]", 3),
    ]
    items = results.items(POSTS)
    assert len(items) == 3
    await write(store, lease, foreach(epoch=lease.epoch))
    assert [one.node_id for one in results.items(POSTS)] == ["posts[2]", "posts[1]"]
    assert [one.node_id for one in items] == ["posts[2]", "posts[1]"], "found at the first look, and there no more"


async def test_they_are_there_once_the_store_is_closed_and_in_another_process(disk: SqlStore) -> None:
    await written(disk, "ab")
    results = disk.results(R1)
    whole = list(results.items(POSTS))
    await disk.close()
    for later in (results, pickle.loads(pickle.dumps(results))):
        assert list(later.items(POSTS)) == whole
        assert later.nodes()[0].node_id == "posts"
