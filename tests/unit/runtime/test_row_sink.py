"""The lines of `--over` on their way to the file, under a virtual clock."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from flowllm.core.errors import StorageFailed
from flowllm.core.types import ROW, NodeId, NodeStatus
from flowllm.datasets.output import FULL
from flowllm.runtime.row_sink import EVERY, HELD, RowSink
from flowllm.storage.base import NodeRecord, RunLease
from tests.support.items import foreach, item, write
from tests.support.records import ME, lease_of, run
from tests.support.stores import InlineStore
from tests.support.virtual import LoopClock, run_virtual


class FakeLines:
    """Takes lines, and half a second to write them."""

    def __init__(self, *, size: int = 10, takes: float = 0.0) -> None:
        self.written: list[list[int]] = []
        self.at: list[float] = []
        self.full = False
        self.closed = False
        self.largest = 0
        self._size = size
        self._takes = takes
        self._added: list[int] = []

    @property
    def places(self) -> list[int]:
        return [index for block in self.written for index in block]

    @property
    def waiting(self) -> int:
        return self._size * len(self._added)

    def add(self, index: int, row: Any, outputs: Any) -> None:
        assert not self.closed
        self._added.append(index)
        self.largest = max(self.largest, self.waiting)

    async def flush(self, before: Any = None) -> int:
        block, self._added = self._added, []
        await asyncio.sleep(self._takes)
        if self.full:
            raise StorageFailed("the disk is full")
        if block:
            self.written.append(block)
            self.at.append(asyncio.get_running_loop().time())
        return self._size * len(self.places)

    def complete(self) -> None:
        pass

    def disown(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


class Harness:
    """A sink, its file and its record."""

    def __init__(self, lines: FakeLines, *, ordered: bool = False, again: bool = True) -> None:
        self.lines = lines
        self.store = InlineStore()
        self.broke: list[BaseException] = []
        self._how = {"ordered": ordered, "again": again}

    async def open(self) -> RowSink:
        self.lease: RunLease = lease_of(await self.store.create_run(run("r1", owner=ME)))
        await write(self.store, self.lease, foreach(status=NodeStatus.RUNNING))
        self.sink = RowSink(self.lines, store=self.store, lease=self.lease, clock=LoopClock(), **self._how)
        self.sink.begin(self.broke.append)
        return self.sink

    async def end(self, place: int, **changes: Any) -> None:
        """A row ends, durably."""
        record = row(place, **changes)
        await write(self.store, self.lease, record)
        await self.sink.ended(place, record)

    async def offset(self) -> int | None:
        return (await self.store.run(self.lease.run_id)).output_offset


def row(place: int, **changes: Any) -> NodeRecord:
    return replace(item(place, f"row {place}", parent=NodeId(ROW)), **changes)


def test_the_first_line_is_written_at_once_and_the_next_together() -> None:
    async def main() -> None:
        context = Harness(FakeLines())
        await context.open()
        for place in range(4):
            await context.end(place)
            await asyncio.sleep(EVERY / 10)
        await asyncio.sleep(EVERY)
        assert context.lines.written == [[0], [1, 2, 3]]
        assert context.lines.at == [0.0, EVERY]
        assert await context.offset() == 40
        await asyncio.sleep(10)
        await context.end(4)
        await asyncio.sleep(0.001)
        assert context.lines.written[-1] == [4], "after a pause nobody waits"
        await context.sink.finish(complete=True)

    run_virtual(main())


def test_the_end_writes_what_is_left_and_closes() -> None:
    async def main() -> None:
        context = Harness(FakeLines(takes=0.1))
        await context.open()
        for place in range(5):
            await context.end(place)
        await context.sink.finish(complete=True)
        assert context.lines.places == list(range(5))
        assert context.lines.closed
        assert await context.offset() == 50

    run_virtual(main())


def test_only_rows_that_succeeded() -> None:
    async def main() -> None:
        context = Harness(FakeLines(), again=False)
        await context.open()
        await context.end(0, status=NodeStatus.FAILED)
        await context.end(1, status=NodeStatus.SKIPPED)
        await context.end(2)
        await context.end(3, reused=True)
        await context.sink.finish(complete=True)
        assert context.lines.places == [2], "what an earlier attempt printed is not printed again"

    run_virtual(main())


def test_in_order_a_row_waits_for_all_before_it() -> None:
    async def main() -> None:
        context = Harness(FakeLines(), ordered=True)
        await context.open()
        for place, status in ((2, "succeeded"), (1, "failed"), (4, "succeeded")):
            await context.end(place, status=NodeStatus(status))
        await asyncio.sleep(5)
        assert context.lines.places == []
        await context.end(0)
        await context.sink.finish(complete=True)
        assert context.lines.places == [0, 2]

    run_virtual(main())


def test_rows_behind_a_slow_one_are_read_back_and_written_in_blocks() -> None:
    """However many there are, only so many are held, and no more than a block waits to be written."""
    count, size = 6 * HELD, FULL // HELD

    async def main() -> None:
        context = Harness(FakeLines(size=size), ordered=True)
        await context.open()
        for place in range(count, 0, -1):
            await context.end(place)
        assert len(context.sink._held) == HELD
        await context.end(0)
        await context.sink.finish(complete=True)
        assert context.lines.places == list(range(count + 1))
        assert context.lines.largest <= FULL + HELD * size

    run_virtual(main())


@pytest.mark.parametrize("ordered", [False, True])
def test_a_row_that_is_cancelled_leaves_no_hole(ordered: bool) -> None:
    async def main() -> None:
        context = Harness(FakeLines(size=FULL, takes=1.0), ordered=ordered)
        await context.open()
        first = asyncio.ensure_future(context.end(0))
        await asyncio.sleep(0.5)
        second = asyncio.ensure_future(context.end(1))
        await asyncio.sleep(0.1)
        second.cancel()
        await asyncio.wait([first, second])
        await context.end(2)
        await context.sink.finish(complete=True)
        assert context.lines.places == [0, 1, 2]
        assert await context.offset() == 3 * FULL

    run_virtual(main())


def test_a_full_disk_is_heard_of_though_no_row_ends() -> None:
    async def main() -> None:
        context = Harness(FakeLines())
        context.lines.full = True
        await context.open()
        await context.end(0)
        await asyncio.sleep(0.01)
        (error,) = context.broke
        assert isinstance(error, StorageFailed)
        assert await context.offset() is None
        with pytest.raises(StorageFailed):
            await context.sink.finish(complete=True)
        assert context.lines.closed

    run_virtual(main())


def test_a_row_that_finds_a_block_full_waits_until_it_is_written() -> None:
    async def main() -> None:
        context = Harness(FakeLines(size=FULL, takes=1.0))
        await context.open()
        await asyncio.gather(*(context.end(place) for place in range(6)))
        assert context.lines.waiting <= FULL
        await context.sink.finish(complete=True)
        assert sorted(context.lines.places) == list(range(6))

    run_virtual(main())
