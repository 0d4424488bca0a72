"""The items of a foreach in two runs, joined by content and occurrence."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest

from flowllm.core.types import NodeId, NodeStatus, RunId
from flowllm.storage.base import NodeWrite, Store
from flowllm.storage.comparing import ItemOutcome
from flowllm.storage.sql.store import SqlStore
from tests.support.items import POSTS, R1, again, item, write, written
from tests.support.records import ME, lease_of, run

pytestmark = pytest.mark.anyio
R2 = RunId("r2")


async def test_moved_items_are_the_same_and_equal_ones_are_told_apart(store: Store) -> None:
    await written(store, ["a", "twice", "gone", "twice", "b"])
    lease = lease_of(await store.create_run(run(R2, owner=ME)))
    contents = ["twice", "b", "new", "twice", "a"]
    items = [replace(item(place, content), run_id=R2) for place, content in enumerate(contents)]
    items[1] = replace(items[1], output="another")
    items[3] = replace(items[3], key="other")
    await store.commit(nodes=[NodeWrite(lease=lease, node=one) for one in items])
    assert list(await store.unequal_items(R1, R2, POSTS)) == [(4, 1), (None, 2), (3, 3), (2, None)]
    assert list(await store.unequal_items(R1, R1, POSTS)) == []
    mended = list(await store.unequal_items(R1, R2, POSTS, ({"2": "new"}, {})))  # `gone` became `new`
    assert mended == [(4, 1), (2, 2), (3, 3)]
    assert await store.item_outcomes(R2, POSTS, [3, 1, 9]) == [
        ItemOutcome(1, NodeStatus.SUCCEEDED, "another"),
        ItemOutcome(3, NodeStatus.SUCCEEDED, "out twice"),
    ]
    assert await store.item_outcomes(R2, NodeId("none"), [0]) == []


async def test_what_a_resume_left_behind_is_not_compared(store: Store) -> None:
    begun = await written(store, "ab")
    claimed = await again(store, lease_of(begun))
    await write(store, claimed, replace(item(0, "c", epoch=claimed.epoch, number=7)))
    lease = lease_of(await store.create_run(run(R2, owner=ME)))
    await write(store, lease, replace(item(0, "c"), run_id=R2), replace(item(1, "b"), run_id=R2))
    assert list(await store.unequal_items(R2, R1, POSTS)) == []


async def test_what_was_damaged_has_failed(disk: SqlStore) -> None:
    await written(disk, "ab")
    with closing(sqlite3.connect(disk.path)) as connection, connection:
        connection.execute("UPDATE nodes SET output = '\"forged\"' WHERE place = 1")
    assert [one.status for one in await disk.item_outcomes(R1, POSTS, [0, 1])] == ["succeeded", "failed"]
