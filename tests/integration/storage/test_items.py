"""Items of a foreach: one by one, in order, found again by content, and lazily as a whole."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from flowllm.core.clock import SystemClock
from flowllm.core.errors import DatabaseCorrupt, OwnershipLost
from flowllm.core.types import Counts, NodeId, NodeStatus, RunId
from flowllm.storage.base import ItemKey, MatchedItem, NodeWrite, RunLease, Store
from flowllm.storage.open import open_store
from flowllm.storage.sql import item_matching, outputs
from flowllm.storage.sql.store import SqlStore
from tests.support.items import POSTS, R1, again, foreach, item, write, written
from tests.support.items import adopt as adopt_all
from tests.support.records import ME, lease_of, node, run

pytestmark = pytest.mark.anyio


async def test_items_are_apart_from_the_nodes_at_the_top(store: Store) -> None:
    await written(store, "abc")
    assert [found.node_id for found in await store.nodes(R1)] == ["posts"]
    assert [found.node_id for found in await store.items(R1, POSTS)] == ["posts[0]", "posts[1]", "posts[2]"]
    assert await store.node(R1, NodeId("posts[1]")) == item(1, "b")
    assert await store.node(R1, NodeId("posts[7]")) is None
    assert (await store.nodes(R1))[0].counts == Counts(total=3, succeeded=3)


async def test_items_come_in_pages_and_by_status(store: Store) -> None:
    begun = await written(store, "abcde")
    bad = item(3, "d", status=NodeStatus.FAILED)
    await store.commit(nodes=[NodeWrite(lease=lease_of(begun), node=bad)])
    page = await store.items(R1, POSTS, after=1, limit=2)
    assert [found.place for found in page] == [2, 3]
    assert [found.place for found in await store.items(R1, POSTS, status=NodeStatus.FAILED)] == [3]
    assert await store.count_items(R1, POSTS) == {NodeStatus.SUCCEEDED: 4, NodeStatus.FAILED: 1}
    assert [found.item for found in await store.failed_items(R1)] == [{"text": "d"}]
    assert await store.failed_items(R1, after=("posts", 3)) == []


async def test_nodes_within_items(store: Store) -> None:
    begun = await written(store, "ab")
    inner = [replace(node(f"posts[{at}].{name}", "r1"), parent=f"posts[{at}]") for at in (0, 1) for name in "xy"]
    await store.commit(nodes=[NodeWrite(lease=lease_of(begun), node=record) for record in inner])
    assert await store.nodes(R1, "posts[1]") == inner[2:]
    found = await store.nodes_within(R1, [NodeId("posts[0]"), NodeId("posts[1]"), NodeId("posts[2]")])
    assert {name: list(records) for name, records in found.items()} == {"posts[0]": inner[:2], "posts[1]": inner[2:]}


async def test_outputs_are_a_lazy_sequence(store: Store) -> None:
    begun = await written(store, "abc" * 400)
    failed = item(1, "b", status=NodeStatus.FAILED)
    await store.commit(nodes=[NodeWrite(lease=lease_of(begun), node=failed)])
    outputs = store.outputs(R1, POSTS)
    assert len(outputs) == 1200
    assert (outputs[0], outputs[1], outputs[-1], list(outputs[2:4])) == ("out a", None, "out c", ["out c", "out a"])
    assert list(outputs)[600:603] == ["out a", "out b", "out c"]
    with pytest.raises(IndexError):
        outputs[1200]
    seen: list[object] = []
    thread = threading.Thread(target=lambda: seen.extend(outputs[10:12]))
    thread.start()
    thread.join()
    assert seen == ["out b", "out c"]
    assert list(store.outputs(R1, POSTS, numbers=[5, 3])) == ["out c", "out a"]
    assert list(store.outputs(R1, NodeId("none"))) == []


async def test_items_are_read_page_by_page_in_order(store: Store) -> None:
    await written(store, [f"c{number}" for number in range(1203)])
    seen: list[int | None] = []
    while page := await store.items(R1, POSTS, after=-1 if not seen else seen[-1] or 0):
        assert len(page) <= 500
        seen += [found.place for found in page]
    assert seen == list(range(1203))


async def test_failed_items_of_all_foreaches_come_in_pages(store: Store) -> None:
    lease = lease_of(await written(store, "abc"))
    lists = [NodeId(name) for name in ("a[0].lines", "posts", "z")]
    bad = [item(at, "x", status=NodeStatus.FAILED, parent=name) for name in lists for at in (10, 9, 2)]
    outer = replace(node("step", "r1"), status=NodeStatus.FAILED)  # a step that failed is no dead letter
    await write(store, lease, *bad, outer)
    expected = [(name, place) for name in lists for place in (2, 9, 10)]
    seen: list[tuple[str, int]] = []
    while page := await store.failed_items(R1, after=seen[-1] if seen else ("", -1), limit=2):
        seen += [(found.parent, found.place or 0) for found in page]
    assert seen == expected
    assert await store.failed_items(RunId("other")) == []


async def test_a_failed_item_that_left_the_data_is_no_dead_letter(store: Store) -> None:
    lease = lease_of(await written(store, "abc"))
    await write(store, lease, *(item(at, name, status=NodeStatus.FAILED) for at, name in enumerate("abc")))
    lease = await again(store, lease)
    await adopt_all(store, lease, "ac")
    await write(store, lease, foreach(epoch=lease.epoch))
    assert [found.content for found in await store.failed_items(R1)] == ["a", "c"]


@pytest.mark.parametrize(
    ("status", "left"),
    [
        (NodeStatus.RUNNING, "abc"),
        (NodeStatus.CANCELLED, "abc"),
        (NodeStatus.SUCCEEDED, "a"),
        (NodeStatus.FAILED, "a"),
        (NodeStatus.SKIPPED, "a"),
    ],
)
async def test_items_that_were_not_taken_over_stand_until_the_foreach_has_ended(
    store: Store, status: NodeStatus, left: str
) -> None:
    lease = await again(store, lease_of(await written(store, "abc")))
    await adopt_all(store, lease, "a")
    await write(store, lease, foreach(epoch=lease.epoch, status=status))
    assert [found.content for found in await store.items(R1, POSTS)] == list(left)
    assert list(store.outputs(R1, POSTS)) == [f"out {content}" for content in left]
    assert await store.count_items(R1, POSTS) == {NodeStatus.SUCCEEDED: len(left)}


async def test_hostile_names_and_items_come_back(store: Store) -> None:
    lease = lease_of(await store.create_run(run("r1", owner=ME)))
    parent = NodeId("p\ud800\\0")
    hostile = replace(item(2, "\udfff\\", parent=parent), item=["\0", 2**70, {"\ud800": None}])
    await write(store, lease, hostile)
    assert await store.items(R1, parent) == [hostile]
    assert await store.node(R1, hostile.node_id) == hostile
    lease = await again(store, lease)
    taken = (await adopt_at(store, lease, parent, hostile.content))[0]
    assert (taken.number, taken.node) == (2, replace(hostile, epoch=2))


async def adopt_at(store: Store, lease: RunLease, parent: NodeId, content: str) -> list[MatchedItem]:
    return await store.adopt(lease, parent, [ItemKey(place=2, content=content)])


# outputs


async def test_an_output_by_index_and_slice(store: Store) -> None:
    await written(store, [f"c{number}" for number in range(1001)])
    found = store.outputs(R1, POSTS)
    whole = [f"out c{number}" for number in range(1001)]
    assert list(found) == whole
    assert [found[at] for at in (0, 499, 500, -1, -1001)] == [whole[at] for at in (0, 499, 500, -1, -1001)]
    assert list(found[995:2000]) == whole[995:]
    assert list(found[::-250]) == whole[::-250]
    for outside in (1001, -1002):
        with pytest.raises(IndexError):
            found[outside]
    assert "out c777" in found


async def test_a_chosen_item_that_is_not_there_is_told(store: Store) -> None:
    await written(store, "abc")
    with pytest.raises(DatabaseCorrupt, match=r"posts\[7\] is missing"):
        list(store.outputs(R1, POSTS, numbers=[0, 7]))


async def test_outputs_are_read_only_when_looked_at_and_a_page_at_a_time(disk: SqlStore) -> None:
    await written(disk, [f"c{number}" for number in range(1200)])
    found = disk.outputs(R1, POSTS)
    pages: list[int] = []
    read = found._read
    found._read = lambda number: pages.append(number) or read(number)
    assert len(found) == 1200
    assert pages == []
    for at in (3, 4, 499, 700, 701):
        assert found[at] == f"out c{at}"
    assert pages == [0, 1]


async def test_many_threads_look_at_once(disk: SqlStore) -> None:
    await written(disk, [f"c{number}" for number in range(1200)])
    found = disk.outputs(R1, POSTS)
    seen: list[list[object]] = []
    threads = [threading.Thread(target=lambda: seen.append(list(found))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [[f"out c{number}" for number in range(1200)]] * 4


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("UPDATE nodes SET output = '\"another\"' WHERE place = 1", r"posts\[1\] does not match its hash"),
        ("UPDATE nodes SET status = 'skipped' WHERE place = 1", r"posts\[1\] does not match its hash"),
        ("DELETE FROM nodes WHERE place = 1", "have changed"),
    ],
)
async def test_a_damaged_output_is_told_never_given(disk: SqlStore, path: Path, damage: str, told: str) -> None:
    await written(disk, "abc")
    found = disk.outputs(R1, POSTS)
    assert len(found) == 3
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(damage)
        connection.commit()
    with pytest.raises(DatabaseCorrupt, match=told):
        list(found)


async def test_outputs_of_a_database_without_its_tables(path: Path) -> None:
    store = await open_store(str(path), clock=SystemClock())
    found = store.outputs(R1, POSTS)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE nodes")
    with pytest.raises(DatabaseCorrupt, match="no such table"):
        len(found)
    await store.close()


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (outputs._PLACES, "ix_nodes_parent_place"),
        (outputs._AT_PLACES, "ix_nodes_parent_place"),
        (outputs._NAMED, "sqlite_autoindex_nodes"),
        (item_matching._AT_PLACES, "ix_nodes_parent_place (run_id=? AND parent=? AND place>? AND place<?)"),
        (item_matching._TAKE, "sqlite_autoindex_nodes"),
        (item_matching._ROW, "sqlite_autoindex_nodes"),
        (item_matching._HIGHEST, "ix_nodes_parent_place"),
        (item_matching._GATHER[1], "ix_nodes_parent_place"),
        (item_matching._NEXT, "PRIMARY KEY (foreach=? AND content=?)"),
        (item_matching._USED, "PRIMARY KEY (foreach=? AND content=? AND place=? AND node_id=?)"),
    ],
)
async def test_what_looks_for_items_uses_an_index(disk: SqlStore, path: Path, query: str, index: str) -> None:
    names = (
        "run",
        "parent",
        "node",
        "first",
        "last",
        "epoch",
        "new_place",
        "new_hash",
        "new_change",
        "foreach",
        "content",
        "place",
    )
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(item_matching._CREATE)
        values = dict.fromkeys(names, "x")
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}", values)]
    assert index in " ".join(plan)
    assert not any(found.startswith("SCAN") or "TEMP B-TREE" in found for found in plan)


async def test_how_far_the_output_file_is_on_disk(store: Store) -> None:
    begun = await store.create_run(run("r1", owner=ME))
    assert begun.output_offset is None
    await store.mark_output(lease_of(begun), 4096)
    assert (await store.run(R1)).output_offset == 4096
    assert (await store.runs())[0].output_offset == 4096
    lease = await again(store, lease_of(begun))
    assert (await store.run(R1)).output_offset == 4096
    with pytest.raises(OwnershipLost):
        await store.mark_output(lease_of(begun), 5000)
    await store.mark_output(lease, 0)
    assert (await store.run(R1)).output_offset == 0


async def test_outputs_are_like_a_list(store: Store) -> None:
    await written(store, "ab")
    outputs = store.outputs(R1, POSTS)
    assert outputs == ["out a", "out b"]
    assert outputs != ["out a"]
    assert outputs != "out a"
    assert outputs + ["more"] == ["out a", "out b", "more"]  # noqa: RUF005
    assert ["less", *outputs] == ["less", "out a", "out b"]
