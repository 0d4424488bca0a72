"""Rows that are at hand already, and fewer rows."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from flowllm.core.tasks import start_task
from flowllm.core.types import Json
from flowllm.datasets.base import Row, Rows


class ListRows:
    """The items of a list, or of a sequence that reads its items when they are looked at."""

    def __init__(self, values: Sequence[Json]) -> None:
        self._values = values
        self._next = 0
        self.total: int | None = len(values)
        self.live = False

    async def take(self, most: int) -> list[Row]:
        """See `Rows`. What a sequence raises where it is read goes through."""
        start = self._next
        end = min(start + most, len(self._values))
        if isinstance(self._values, list):
            values: Sequence[Json] = self._values[start:end]
        else:
            values = await asyncio.to_thread(lambda: self._values[start:end])
        self._next = end
        return [Row(place=place, value=value) for place, value in enumerate(values, start)]

    async def count_rest(self) -> int:
        """See `Rows`."""
        return len(self._values) - self._next

    async def close(self) -> None:
        """See `Rows`."""


class PeekedRows:
    """Rows of which the first are looked at before they are taken."""

    def __init__(self, rows: Rows, most: int = 256) -> None:
        """`most` is how many are looked at."""
        self._rows = rows
        self._most = most
        self._first: asyncio.Task[list[Row]] | None = None
        self._held: list[Row] = []
        self.total = rows.total
        self.live = rows.live

    def peek(self) -> asyncio.Task[list[Row]]:
        """The first ones, or what reading them raises; `take` gives them, or raises it, again."""
        if self._first is None:
            self._first = start_task(self._rows.take(self._most))
        return self._first

    @property
    def columns(self) -> Sequence[str]:
        """Of a table that has no rows, once that is known."""
        found: Sequence[str] = getattr(self._rows, "columns", ())
        return found

    async def take(self, most: int) -> list[Row]:
        """See `Rows`."""
        if self._first is not None:
            self._held = await asyncio.shield(self._first)
            self._first = None
        if self._held:
            given, self._held = self._held[:most], self._held[most:]
            return given
        return await self._rows.take(most)

    async def count_rest(self) -> int:
        """See `Rows`."""
        return len(self._held) + await self._rows.count_rest()

    async def close(self) -> None:
        """See `Rows`."""
        if self._first is not None:
            self._first.cancel()
        await self._rows.close()


class LimitedRows:
    """The first rows of others."""

    def __init__(self, rows: Rows, limit: int) -> None:
        self._rows = rows
        self._left = limit
        self.total = None if rows.total is None else min(rows.total, limit)
        self.live = rows.live

    async def take(self, most: int) -> list[Row]:
        """See `Rows`."""
        if self._left <= 0:
            return []
        rows = await self._rows.take(min(most, self._left))
        self._left -= len(rows)
        return rows

    async def count_rest(self) -> int:
        """See `Rows`."""
        return min(self._left, await self._rows.count_rest()) if self._left > 0 else 0

    async def close(self) -> None:
        """See `Rows`."""
        await self._rows.close()
