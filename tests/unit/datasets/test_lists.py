"""Rows at hand, and the first ones of others."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest

from flowllm.datasets.rows import LimitedRows, ListRows
from tests.support.data import drain, drained

pytestmark = pytest.mark.anyio


class Paged(Sequence[Any]):
    """Items that are read when they are looked at; remembers by whom."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.threads: set[threading.Thread] = set()
        self.broken = False

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: Any) -> Any:
        self.threads.add(threading.current_thread())
        if self.broken:
            raise RuntimeError("the page is damaged")
        return list(range(self.count))[index]


class Endless:
    """Rows of which nobody knows how many there are."""

    total = None
    live = False
    closed = False

    def __init__(self) -> None:
        self.rows = ListRows(list(range(100)))

    async def take(self, most: int) -> Any:
        return await self.rows.take(most)

    async def count_rest(self) -> int:
        return await self.rows.count_rest()

    async def close(self) -> None:
        self.closed = True


async def test_a_list_gives_its_items() -> None:
    rows = ListRows(["a", None, {"b": 1}])
    assert rows.total == 3
    assert [row.value for row in await rows.take(2)] == ["a", None]
    assert await rows.count_rest() == 1
    assert [(row.index, row.value) for row in await rows.take(2)] == [(2, {"b": 1})]
    assert await rows.take(2) == []


async def test_a_sequence_that_reads_is_read_off_the_loop() -> None:
    sequence = Paged(20)
    assert await drained(ListRows(sequence)) == list(range(20))
    assert threading.main_thread() not in sequence.threads


async def test_a_page_that_cannot_be_read_can_be_asked_for_again() -> None:
    sequence = Paged(3)
    rows = ListRows(sequence)
    sequence.broken = True
    with pytest.raises(RuntimeError, match="damaged"):
        await rows.take(2)
    sequence.broken = False
    assert await drained(rows) == [0, 1, 2]


@pytest.mark.parametrize(("limit", "total"), [(0, 0), (3, 3), (10, 10), (99, 10)])
async def test_a_limit_on_a_list(limit: int, total: int) -> None:
    rows = LimitedRows(ListRows(list(range(10))), limit)
    assert rows.total == total
    assert await rows.count_rest() == total
    assert await drained(rows) == list(range(total))
    assert await rows.count_rest() == 0


async def test_a_limit_where_the_end_is_not_known() -> None:
    inner = Endless()
    rows = LimitedRows(inner, 10)
    assert rows.total is None
    assert len(await rows.take(4)) == 4
    assert await rows.count_rest() == 6
    assert len(await drain(LimitedRows(Endless(), 200))) == 100
    await rows.close()
    assert inner.closed
