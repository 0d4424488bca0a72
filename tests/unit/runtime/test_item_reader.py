from __future__ import annotations

import asyncio
import gc
from types import SimpleNamespace

import pytest

from flowllm.core.errors import DataFailed, StorageFailed
from flowllm.core.types import NodeStatus, StepKind
from flowllm.datasets.base import Row, Rows, content_of
from flowllm.datasets.rows import ListRows
from flowllm.runtime.item_reader import BATCH, Item, ItemReader
from flowllm.runtime.options import RunOptions
from flowllm.storage.base import MatchedItem, NodeRecord, RunLease

pytestmark = pytest.mark.anyio

EARLIER = {0: NodeStatus.SUCCEEDED, 1: NodeStatus.RUNNING, 2: NodeStatus.FAILED}


class FakeStore:
    """Has items 0 to 2, and a node within the second."""

    def __init__(self) -> None:
        self.looked_up: list[str] = []

    async def adopt(self, lease: object, parent: str, keys: list) -> list[MatchedItem]:
        return [MatchedItem(number=key.place + 100, node=record(key.place)) for key in keys]

    async def nodes_within(self, run_id: str, parents: list[str]) -> dict[str, list[str]]:
        self.looked_up += parents
        return {parent: [f"{parent}.x"] for parent in parents if parent == "a[101]"}


def record(place: int) -> NodeRecord | None:
    if place not in EARLIER:
        return None
    name = f"a[{place + 100}]"
    return NodeRecord(run_id="r1", node_id=name, kind=StepKind.WORKFLOW, status=EARLIER[place], place=place)


class FakeContext(SimpleNamespace):
    async def wait(self) -> None:
        self.times += 1

    @property
    def writes(self) -> FakeContext:
        return self


def reader(
    rows: Rows, *, kind: StepKind = StepKind.WORKFLOW, resumed: bool = True, retry_failed: bool = False
) -> tuple[ItemReader, FakeContext]:
    context = FakeContext(
        store=FakeStore(),
        lease=RunLease(run_id="r1", epoch=1),
        run=SimpleNamespace(run_id="r1"),
        resumed=resumed,
        retry_failed=retry_failed,
        options=RunOptions(),
        times=0,
    )
    invocation = SimpleNamespace(node_id="a", step=SimpleNamespace(kind=kind), earlier=SimpleNamespace(epoch=0))
    return ItemReader(context, invocation, rows), context


async def all_of(these: ItemReader) -> list[Item]:
    found = []
    while await more(these):
        found.append(these.next())
    return found


async def more(these: ItemReader) -> bool:
    woken = asyncio.Event()
    while (there := these.more(woken.set)) is None:
        await woken.wait()
    return there


async def test_items_come_in_input_order_a_batch_at_a_time() -> None:
    these, context = reader(ListRows(list(range(BATCH + 1))), resumed=False)
    assert await more(these)
    assert (context.times, these.next().row.value) == (1, 0)
    assert await these.left() == BATCH
    assert [item.number for item in await all_of(these)] == list(range(1, BATCH + 1))
    assert (await these.left(), these.broken) == (0, None)
    assert context.store.looked_up == []


async def test_a_resume_finds_each_item_and_what_is_within_unfinished_graphs() -> None:
    these, context = reader(ListRows(["a", "b", "c", "d"]))
    items = await all_of(these)
    assert [item.number for item in items] == [100, 101, 102, 103]
    assert [item.before and item.before.record.status for item in items] == [*EARLIER.values(), None]
    assert [item.before and item.before.within for item in items] == [None, ["a[101].x"], (), None]
    assert context.store.looked_up == ["a[101]", "a[102]"]


async def test_with_retry_failed_graphs_that_succeeded_are_looked_up_too_and_all_at_once() -> None:
    these, context = reader(ListRows(["a", "b", "c", "d"]), retry_failed=True)
    assert [item.before and item.before.within for item in await all_of(these)] == [(), ["a[101].x"], (), None]
    assert context.store.looked_up == ["a[100]", "a[101]", "a[102]"]


async def test_items_that_are_no_graphs_have_nothing_within() -> None:
    these, context = reader(ListRows(["a", "b"]), kind=StepKind.PROMPT)
    assert len(await all_of(these)) == 2
    assert context.store.looked_up == []


async def test_data_that_cannot_be_read_any_further_ends_there() -> None:
    class Torn(ListRows):
        async def take(self, most: int) -> list[Row]:
            rows = await super().take(2)
            if not rows:
                raise DataFailed("torn")
            return rows

    these, _ = reader(Torn(["a", "b"]), resumed=False)
    assert len(await all_of(these)) == 2
    assert str(these.broken) == "torn"


async def test_what_was_mended_is_in_the_place_of_what_it_was_mended_from() -> None:
    mended = {"a": {"1": [content_of("b"), "B"], "2": [content_of("other"), "C"], "3": [content_of("d"), "D"]}}
    found, context = reader(ListRows(["a", "b", "c", "D"]), resumed=False)
    context.options = RunOptions(mended=mended)
    items = await all_of(found)
    assert [item.row.value for item in items] == ["a", "B", "c", "D"]
    assert [item.content for item in items] == [content_of(value) for value in "abcd"]


async def test_a_failure_that_nobody_asks_for_any_more_is_not_complained_of() -> None:
    heard: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: heard.append(told))
    these, context = reader(ListRows([1]))
    woken = asyncio.Event()

    async def fails(*_: object) -> None:
        raise StorageFailed("the disk is full")

    context.store.adopt = fails
    assert these.more(woken.set) is None
    await woken.wait()
    these.stop()
    del these
    gc.collect()
    assert heard == []
