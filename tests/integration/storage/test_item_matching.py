"""Items of a resumed foreach are found among those of earlier run attempts."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from flowllm.core.clock import SystemClock
from flowllm.core.errors import DatabaseCorrupt, OwnershipLost, StorageFailed
from flowllm.core.types import NodeStatus, StepKind
from flowllm.storage.base import ItemKey, RunLease, Store
from flowllm.storage.open import open_store
from flowllm.storage.sql.store import SqlStore
from flowllm.storage.sql.writer import Failpoints
from flowllm.storage.sqlite.engine import at
from tests.support.items import POSTS, R1, adopt, again, foreach, item, told, write, written
from tests.support.records import ME, lease_of, node

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("batch", [1, 2, 100])
@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ("abc", [(0, "a"), (1, "b"), (2, "c")]),
        ("abcd", [(0, "a"), (1, "b"), (2, "c"), (3, None)]),
        ("bc", [(1, "b"), (2, "c")]),
        ("xabc", [(3, None), (0, "a"), (1, "b"), (2, "c")]),
        ("cab", [(2, "c"), (0, "a"), (1, "b")]),
        ("aabc", [(0, "a"), (3, None), (1, "b"), (2, "c")]),
        ("xyz", [(3, None), (4, None), (5, None)]),
        ("", []),
    ],
)
async def test_items_are_found_again_by_content(store: Store, now: str, expected: list[object], batch: int) -> None:
    lease = await again(store, lease_of(await written(store, "abc")))
    assert told(await adopt(store, lease, now, batch=batch)) == expected


async def test_of_equal_items_each_row_is_taken_once(store: Store) -> None:
    lease = await again(store, lease_of(await written(store, "aab")))
    found = told(await adopt(store, lease, "baaa", batch=1))
    assert sorted(number for number, content in found if content == "a") == [0, 1]
    assert [content for _, content in found] == ["b", "a", "a", None]
    assert len({number for number, _ in found}) == 4


async def test_what_is_taken_over_is_given_as_it_now_stands(store: Store) -> None:
    lease = await again(store, lease_of(await written(store, "abc")))
    found = await adopt(store, lease, "cab")
    moved = replace(item(2, "c"), place=0, epoch=2)
    assert found[0].node == moved
    assert await store.node(R1, moved.node_id) == moved


async def test_an_item_keeps_its_name_when_it_moves(store: Store) -> None:
    lease = await again(store, lease_of(await written(store, "abc")))
    await adopt(store, lease, "cab")
    assert [found.node_id for found in await store.items(R1, POSTS)] == ["posts[2]", "posts[0]", "posts[1]"]
    assert list(store.outputs(R1, POSTS)) == ["out c", "out a", "out b"]
    assert list(store.outputs(R1, POSTS, numbers=[0, 2])) == ["out a", "out c"]


async def test_a_third_run_attempt_finds_them_once_more(store: Store) -> None:
    lease = await again(store, lease_of(await written(store, "abc")))
    await adopt(store, lease, "cab")
    lease = await again(store, lease)
    assert told(await adopt(store, lease, "abc", batch=2)) == [(0, "a"), (1, "b"), (2, "c")]


async def test_what_a_killed_run_attempt_did_not_come_to_is_still_found(store: Store) -> None:
    lease = await again(store, lease_of(await written(store, "abcd")))
    await adopt(store, lease, "ba")
    lease = await again(store, lease)
    assert told(await adopt(store, lease, "badc")) == [(1, "b"), (0, "a"), (3, "d"), (2, "c")]


async def test_of_two_rows_at_one_place_the_newer_is_shown(store: Store) -> None:
    lease = await again(store, lease_of(await written(store, "abc")))
    await adopt(store, lease, "bc")
    assert [found.content for found in await store.items(R1, POSTS)] == ["b", "c"]  # a stands where b is now
    await write(store, lease, foreach(epoch=lease.epoch))
    assert [found.content for found in await store.items(R1, POSTS)] == ["b", "c"]
    assert await store.count_items(R1, POSTS) == {NodeStatus.SUCCEEDED: 2}


@pytest.mark.parametrize("batch", [1, 2, 3, 100])
@pytest.mark.parametrize("now", ["xabcyz", "xbcw", "abxyzw", "xyzwvu", "aaaabbbbcccc"])
async def test_a_new_item_is_named_as_nothing_that_is_not_written_yet(store: Store, now: str, batch: int) -> None:
    lease = await again(store, lease_of(await written(store, "abc")))
    found = await adopt(store, lease, now, batch=batch)  # nothing is written meanwhile
    assert len({one.number for one in found}) == len(now)
    assert all(one.number > 2 for one in found if one.node is None)


async def test_steps_within_and_other_foreaches_are_left_alone(store: Store) -> None:
    lease = lease_of(await written(store, "abc"))
    other = replace(item(0, "a"), node_id="others[0]", parent="others")
    within = replace(node("posts[0].headline", "r1"), parent="posts[0]")
    await write(store, lease, other, within)
    lease = await again(store, lease)
    await adopt(store, lease, "cabx")
    assert await store.items(R1, other.parent) == [other]
    assert await store.nodes(R1, "posts[0]") == [within]


async def test_a_stale_owner_takes_nothing_over(store: Store) -> None:
    stale = lease_of(await written(store, "abc"))
    before = await store.items(R1, POSTS)
    await again(store, stale)
    with pytest.raises(OwnershipLost):
        await adopt(store, stale, "abc")
    assert await store.items(R1, POSTS) == before


@pytest.mark.parametrize("now", ["abc", "bca"])
async def test_a_damaged_row_is_found_and_given_as_failed(disk: SqlStore, path: Path, now: str) -> None:
    lease = await again(disk, lease_of(await written(disk, "abc")))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE nodes SET output = CAST(x'22ff22' AS TEXT) WHERE place = 1")  # not UTF-8
        connection.commit()
    found = await adopt(disk, lease, now)
    kept = {one.number: one.node.status for one in found if one.node is not None}
    assert kept == {0: NodeStatus.SUCCEEDED, 1: NodeStatus.FAILED, 2: NodeStatus.SUCCEEDED}
    with pytest.raises(DatabaseCorrupt, match="hash"):
        list(disk.outputs(R1, POSTS))


async def test_an_item_without_a_content_is_new(store: Store) -> None:
    lease = lease_of(await written(store, "ab"))
    await write(store, lease, replace(item(2, "c"), content=""))
    lease = await again(store, lease)
    assert told(await adopt(store, lease, ["", "b", "a", "", "x"])) == [
        (5, None),
        (1, "b"),
        (0, "a"),
        (3, None),
        (4, None),
    ]


async def test_of_no_items_nothing_is_said(store: Store) -> None:
    lease = await again(store, lease_of(await written(store, "abc")))
    assert await store.adopt(lease, POSTS, []) == []


async def test_2000_shuffled_items_are_all_found(store: Store) -> None:
    contents = [f"c{number}" for number in range(2000)]
    lease = await again(store, lease_of(await written(store, contents)))
    now = random.Random(5).sample(contents, len(contents))
    found = told(await adopt(store, lease, now, batch=256))
    assert [content for _, content in found] == now
    assert sorted(number for number, _ in found) == list(range(2000))


async def run_attempt(store: Store, lease: RunLease, contents: list[str], batch: int, reached: int) -> RunLease:
    """A run attempt that is killed after so many items."""
    lease = await again(store, lease)
    for start in range(0, reached, batch):
        places = range(start, min(start + batch, reached))
        keys = [ItemKey(place=place, content=contents[place]) for place in places]
        found = await store.adopt(lease, POSTS, keys)
        fresh = [
            item(key.place, key.content, number=one.number, epoch=lease.epoch)
            for key, one in zip(keys, found, strict=True)
            if one.node is None
        ]
        for record in fresh:
            assert await store.node(R1, record.node_id) is None  # a name that nothing has
        await write(store, lease, *fresh)
    return lease


@pytest.mark.parametrize("seed", range(12))
async def test_each_item_keeps_its_name_and_no_row_is_paid_for_twice(path: Path, seed: int) -> None:
    disk = await open_store(str(path), clock=SystemClock())
    rng = random.Random(seed)
    data = [rng.choice("abcdefgh") for _ in range(rng.randrange(1, 12))]
    lease = lease_of(await written(disk, data))
    for _ in range(5):
        data = [*data, *rng.choices("abcxyz", k=rng.randrange(4))]
        rng.shuffle(data)
        data = data[rng.randrange(3) :]
        batch, reached = rng.randrange(1, 6), rng.randrange(len(data) + 1)
        lease = await run_attempt(disk, lease, data, batch, reached)
        seen = await disk.items(R1, POSTS)
        assert [one.content for one in seen[:reached]] == data[:reached]
        assert [one.place for one in seen] == sorted({one.place for one in seen})
        assert len({one.node_id for one in seen}) == len(seen)
    before = Counter(found.content for found in await rows(disk))
    lease = await again(disk, lease)
    found = await adopt(disk, lease, data, batch=4)
    assert Counter(one.node.content for one in found if one.node) == before & Counter(data)
    await disk.close()


async def rows(disk: Store) -> list[object]:
    """All items that were ever written: each has a number of its own."""
    numbered = [await disk.node(R1, f"posts[{number}]") for number in range(400)]
    return [record for record in numbered if record is not None]


async def test_a_call_that_fails_took_nothing_and_can_be_made_again(path: Path) -> None:
    await (await open_store(str(path), clock=SystemClock())).close()
    failures: list[Exception] = []

    def fail() -> None:
        if failures:
            raise failures.pop()

    store = SqlStore(at(path), owner=ME, failpoints=Failpoints(before_commit=fail))
    lease = await again(store, lease_of(await written(store, "abc")))
    failures.append(OSError("no"))
    with pytest.raises(StorageFailed):
        await adopt(store, lease, "cxa")
    assert {found.epoch for found in await store.items(R1, POSTS)} == {1}
    found = told(await adopt(store, lease, "cxa"))
    assert [content for _, content in found] == ["c", None, "a"]
    assert found[1][0] > 2
    await store.close()


async def test_a_mended_row_gets_the_name_of_the_one_that_failed(store: Store) -> None:
    lease = lease_of(await written(store, "abc"))
    await write(store, lease, item(1, "b", status=NodeStatus.FAILED))
    lease = await again(store, lease)
    assert told(await adopt(store, lease, "aBc")) == [(0, "a"), (1, None), (2, "c")]


async def test_a_failed_row_that_stands_elsewhere_now_keeps_its_name(store: Store) -> None:
    lease = lease_of(await written(store, "abc"))
    await write(store, lease, item(1, "b", status=NodeStatus.FAILED))
    lease = await again(store, lease)
    assert told(await adopt(store, lease, "aBb")) == [(0, "a"), (3, None), (1, "b")]


async def test_so_does_a_mended_row_whose_graph_had_begun(store: Store) -> None:
    """Unless its own item stands elsewhere now, among those that are looked up together."""
    lease = lease_of(await written(store, "abc"))
    failed = replace(item(1, "b", status=NodeStatus.FAILED), kind=StepKind.WORKFLOW)
    await write(store, lease, failed)
    lease = await again(store, lease)
    assert told(await adopt(store, lease, "aBcb")) == [(0, "a"), (3, None), (2, "c"), (1, "b")]
    await write(store, lease, failed)
    lease = await again(store, lease)
    assert told(await adopt(store, lease, "aBc")) == [(0, "a"), (1, None), (2, "c")]
