"""What comes of the rows of `--over`: appended to a file, each row once, after it is durable."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine
from typing import Protocol

from flowllm.core.clock import Clock
from flowllm.core.errors import OwnershipLost
from flowllm.core.tasks import start_task
from flowllm.core.types import ROW, Json, NodeId, NodeStatus, item_index
from flowllm.datasets.output import FULL, ReorderBuffer
from flowllm.language.inputs import own_fields
from flowllm.storage.base import NodeRecord, RunLease, Store

EVERY = 0.5
"""Seconds from one write of lines, with its place on record, to the next."""
RECENT = 5.0
"""Seconds for which it is believed that the run still is this process's: well below what others wait before they take it."""
HELD = 256
"""Rows that wait for their turn in memory; others are read again when it has come."""


class Lines(Protocol):
    """Where lines go."""

    def add(self, index: int, row: Json, outputs: Json) -> None:
        """Append a line with the next `flush`."""
        ...

    @property
    def waiting(self) -> int:
        """Bytes that are still to be written."""
        ...

    def complete(self) -> None:
        """All rows have ended: also without a line there is a file."""
        ...

    async def flush(self, before: Callable[[], Awaitable[None]] | None = None) -> int | None:
        """Write what waits; how far the file is on disk afterwards, None if nothing of it is. `before` is awaited before a
        file takes the place of what stands there. Raises StorageFailed."""
        ...

    def disown(self) -> None:
        """They are another process' now: nothing more is changed."""
        ...

    def close(self) -> None:
        """No more will come."""
        ...


async def _outlasting(work: Coroutine[object, object, None]) -> None:
    """Wait for work that goes on if the row that waits for it is cancelled: half done it would spoil the file."""
    await asyncio.shield(start_task(work))


class RowSink:
    """The rows of one attempt on their way to the file."""

    def __init__(
        self, lines: Lines, *, store: Store, lease: RunLease, clock: Clock, ordered: bool, again: bool
    ) -> None:
        """`ordered`: in the order of the rows; `again`: rows that earlier attempts finished are wanted too."""
        self._lines = lines
        self._store = store
        self._lease = lease
        self._clock = clock
        self._again = again
        self._order = ReorderBuffer() if ordered else None
        self._held: dict[int, NodeRecord] = {}
        self._turn = asyncio.Lock()
        self._flusher: asyncio.Task[None] | None = None
        self._broke: Callable[[BaseException], None] = lambda _: None

    def begin(self, broke: Callable[[BaseException], None]) -> None:
        """Rows will come; `broke` is called with an error between two of them."""
        self._broke = broke

    async def ended(self, number: int, record: NodeRecord) -> None:
        """A row ended. Raises StoreError."""
        wanted = record.status is NodeStatus.SUCCEEDED and (self._again or not record.reused)
        if self._order is not None:
            index = record.place or 0
            if wanted and len(self._held) < HELD:
                self._held[index] = record
            self._order.ended(index, wanted=wanted)
            if self._order.ready:
                await _outlasting(self._in_order(self._order))
        elif wanted:
            self._lines.add(number, own_fields(record.item), record.output)
        if self._lines.waiting and (self._flusher is None or self._flusher.done()):
            self._flusher = start_task(self._keep_flushing())
        if self._lines.waiting > FULL:
            await _outlasting(self._flush(FULL))

    async def _keep_flushing(self) -> None:
        """While lines come."""
        try:
            while self._lines.waiting:
                await self._flush(0)
                await self._clock.sleep(EVERY)
        except Exception as error:  # noqa: BLE001 - whatever it is, the run must hear of it
            self._broke(error)

    async def _flush(self, least: int) -> None:
        """Unless fewer bytes wait, because somebody else has just done it."""
        async with self._turn:
            if self._lines.waiting > least:
                await self._write()

    async def _write(self) -> None:
        try:
            await self._confirm()
            offset = await self._lines.flush(self._begins)
            if offset is not None:
                await self._store.mark_output(self._lease, offset)
        except OwnershipLost:
            self._lines.disown()
            raise

    async def _confirm(self) -> None:
        """The database guards its rows, but nobody guards the file. What was confirmed before this process stood still counts no more."""
        began = -math.inf
        while abs(self._clock.now() - began) > RECENT:
            began = self._clock.now()
            await self._store.confirm(self._lease)

    async def _begins(self) -> None:
        """From now on what stands there may be this run's."""
        await self._store.mark_output(self._lease, 0)

    async def _in_order(self, order: ReorderBuffer) -> None:
        async with self._turn:
            while order.ready:
                for row in await self._rows(order.take(HELD)):
                    self._lines.add(item_index(row.node_id), own_fields(row.item), row.output)
                if self._lines.waiting > FULL:
                    await self._write()

    async def _rows(self, indexes: list[int]) -> list[NodeRecord]:
        """Rows that are on record."""
        missing = [index for index in indexes if index not in self._held]
        found: dict[int | None, NodeRecord] = {}
        if missing:
            first, last = missing[0], missing[-1]
            read = await self._store.items(self._lease.run_id, NodeId(ROW), after=first - 1, limit=last - first + 1)
            found = {row.place: row for row in read}
        found.update((index, self._held.pop(index)) for index in indexes if index in self._held)
        return [found[index] for index in indexes if index in found]

    async def finish(self, *, complete: bool) -> None:
        """Put the rest on disk; `complete`: all rows have ended well. Raises StoreError."""
        async with self._turn:
            if self._flusher is not None:
                self._flusher.cancel()
            if complete:
                self._lines.complete()
            try:
                await self._write()
            finally:
                self._lines.close()
