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
        return [Row(index=index, value=value) for index, value in enumerate(values, start)]

    async def count_rest(self) -> int:
        """See `Rows`."""
        return len(self._values) - self._next

    async def close(self) -> None:
        """See `Rows`."""


class WrappedRows:
    """Others' rows, as they are."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self.total = rows.total
        self.live = rows.live

    async def take(self, most: int) -> list[Row]:
        """See `Rows`."""
        return await self._rows.take(most)

    async def count_rest(self) -> int:
        """See `Rows`."""
        return await self._rows.count_rest()

    async def close(self) -> None:
        """See `Rows`."""
        await self._rows.close()


class PeekedRows(WrappedRows):
    """Rows of which the first are looked at before they are taken."""

    def __init__(self, rows: Rows, most: int = 256) -> None:
        """`most` is how many are looked at."""
        super().__init__(rows)
        self._most = most
        self._first: asyncio.Task[list[Row]] | None = None
        self._peeked: list[Row] = []

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
            self._peeked = await asyncio.shield(self._first)
            self._first = None
        if not self._peeked:
            return await super().take(most)
        given, self._peeked = self._peeked[:most], self._peeked[most:]
        return given

    async def count_rest(self) -> int:
        """See `Rows`."""
        return len(self._peeked) + await super().count_rest()

    async def close(self) -> None:
        """See `Rows`."""
        if self._first is not None:
            self._first.cancel()
        await super().close()


class LimitedRows(WrappedRows):
    """The first rows of others."""

    def __init__(self, rows: Rows, limit: int) -> None:
        super().__init__(rows)
        self._left = limit
        self.total = None if rows.total is None else min(rows.total, limit)

    async def take(self, most: int) -> list[Row]:
        """See `Rows`."""
        if self._left <= 0:
            return []
        rows = await super().take(min(most, self._left))
        self._left -= len(rows)
        return rows

    async def count_rest(self) -> int:
        """See `Rows`."""
        return min(self._left, await super().count_rest()) if self._left > 0 else 0
