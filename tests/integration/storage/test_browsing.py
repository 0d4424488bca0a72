"""Items looked through: all statuses, and pages that are sorted, filtered and searched."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flowllm.core.types import NodeStatus
from flowllm.storage.base import NodeRecord, Store
from flowllm.storage.browsing import Beside, ItemOrder, ItemQuery
from flowllm.storage.sql import browsing
from tests.support.items import POSTS, R1, again, item, write, written
from tests.support.records import lease_of

pytestmark = pytest.mark.anyio
LONG = "The über-long answer of many words, which is kept once and leaned on: " * 9


def _items() -> list[NodeRecord]:
    """0 dear, 1 slow, 2 failed, 3 running, 4 long."""
    plain = [item(place, "abcde"[place]) for place in range(5)]
    return [
        replace(plain[0], cost_usd=9.0),
        replace(plain[1], finished_at=1_700_000_099.0),
        replace(plain[2], status=NodeStatus.FAILED, output=None, error={"type": "X", "message": 'no "such" row'}),
        replace(plain[3], status=NodeStatus.RUNNING, output=None, finished_at=None, cost_usd=None),
        replace(plain[4], item={"text": LONG}, output=LONG),
    ]


async def _found(store: Store, **query: object) -> list[int | None]:
    return [one.place for one in (await store.browse(R1, POSTS, ItemQuery(**query))).items]


async def test_statuses_orders_filters_and_searches(store: Store) -> None:
    begun = await written(store, "abcde")
    await write(store, lease_of(begun), *_items())
    statuses = await store.item_statuses(R1, POSTS)
    assert "".join(status.value[0] for _, status in statuses) == "ssfrs"
    assert [place for place, _ in statuses] == [0, 1, 2, 3, 4]
    assert await _found(store) == [0, 1, 2, 3, 4]
    assert await _found(store, order=ItemOrder.FAILED) == [2, 3, 0, 1, 4]
    assert (await _found(store, order=ItemOrder.SLOWEST))[0] == 1
    assert await _found(store, order=ItemOrder.DEAREST) == [0, 1, 2, 4, 3]
    assert await _found(store, statuses={NodeStatus.FAILED, NodeStatus.RUNNING}) == [2, 3]
    assert await _found(store, search='"SUCH"') == [2]
    assert await _found(store, search="ÜBER-long") == [4]
    assert await _found(store, search="out b") == [1]
    assert await _found(store, search="nowhere") == []
    whole = (await store.browse(R1, POSTS, ItemQuery(search="many words"))).items
    assert whole == [_items()[4]]


async def test_pages_follow_each_other(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    await written(store, "abacadae")
    first = await store.browse(R1, POSTS, ItemQuery(limit=5))
    assert first.cursor == 5
    last = await store.browse(R1, POSTS, ItemQuery(limit=5, after=5))
    assert ([one.place for one in last.items], last.cursor) == ([5, 6, 7], None)
    monkeypatch.setattr(browsing, "SEARCHED", 3)  # each search looks at three, and says where it stopped
    found, cursor = [], 0
    while cursor is not None:
        page = await store.browse(R1, POSTS, ItemQuery(search="out A", after=cursor))
        found += [one.place for one in page.items]
        cursor = page.cursor
    assert found == [0, 2, 4, 6]
    page = await store.browse(R1, POSTS, ItemQuery(search="out a", limit=1))
    assert ([one.place for one in page.items], page.cursor) == ([0], 1)


async def test_what_is_beside_an_item_and_what_left_the_data(store: Store) -> None:
    begun = await written(store, "abcd")
    failed = [replace(item(at, "x"), status=NodeStatus.FAILED) for at in (0, 3)]
    await write(store, lease_of(begun), *failed)
    assert await store.beside(R1, POSTS, 1) == Beside("posts[0]", "posts[2]", "posts[0]", "posts[3]")
    assert await store.beside(R1, POSTS, 3) == Beside("posts[2]", None, "posts[0]", None)
    lease = await again(store, lease_of(begun))
    await write(store, lease, item(1, "new", epoch=lease.epoch, number=7))  # the row of `posts[1]` was at this place
    assert await store.beside(R1, POSTS, 0) == Beside(None, "posts[7]", None, "posts[3]")
    assert len(await store.item_statuses(R1, POSTS)) == 4
    assert (await store.browse(R1, POSTS, ItemQuery())).items[1].node_id == "posts[7]"
