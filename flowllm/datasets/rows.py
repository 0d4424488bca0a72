"""Rows of rows: those at hand already, the first of others, and every combination of several, the last changing fastest."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from math import prod

from flowllm.core.errors import DataFailed
from flowllm.core.fingerprint import canonical
from flowllm.core.records import dataclass
from flowllm.core.tasks import start_task
from flowllm.core.types import Json
from flowllm.datasets.base import Countable, Row, Rows


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
        return len(self._values) - self._next

    async def close(self) -> None:
        """See `Rows`."""


async def counted(rows: Rows, wanted: Callable[[], bool]) -> int | None:
    """As `Countable.count`, of any rows."""
    if rows.total is not None or not isinstance(rows, Countable):
        return rows.total
    return await rows.count(wanted)


class WrappedRows:
    """Others' rows, as they are."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self.total = rows.total
        self.live = rows.live

    async def take(self, most: int) -> list[Row]:
        return await self._rows.take(most)

    async def count_rest(self) -> int:
        return await self._rows.count_rest()

    async def close(self) -> None:
        await self._rows.close()

    async def count(self, wanted: Callable[[], bool]) -> int | None:
        return await counted(self._rows, wanted)


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
        if self._first is not None:
            self._peeked = await asyncio.shield(self._first)
            self._first = None
        if not self._peeked:
            return await super().take(most)
        given, self._peeked = self._peeked[:most], self._peeked[most:]
        return given

    async def count_rest(self) -> int:
        return len(self._peeked) + await super().count_rest()

    async def close(self) -> None:
        if self._first is not None:
            self._first.cancel()
        await super().close()


class LimitedRows(WrappedRows):
    """The first rows of others."""

    def __init__(self, rows: Rows, limit: int) -> None:
        super().__init__(rows)
        self._limit = self._left = limit
        self.total = None if rows.total is None else min(rows.total, limit)

    async def take(self, most: int) -> list[Row]:
        if self._left <= 0:
            return []
        rows = await super().take(min(most, self._left))
        self._left -= len(rows)
        return rows

    async def count_rest(self) -> int:
        return min(self._left, await super().count_rest()) if self._left > 0 else 0

    async def count(self, wanted: Callable[[], bool]) -> int | None:
        found = await super().count(wanted)
        return None if found is None else min(found, self._limit)


KEPT = 10_000
KEPT_SIZE = 16 * 1024 * 1024
"""Rows of an axis, and characters of their JSON, that are held in memory; a longer one is read again for every
combination of those before it."""
PAGE = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One of the data sets, which may be opened any number of times."""

    opened: Callable[[], Rows]
    """Raises DataFailed."""
    total: int | None = None
    """How many rows it has, where that is known before it is read: they are in memory then."""


class MatrixRows:
    """A bad row of one axis makes bad every combination that it is in."""

    def __init__(self, axes: Mapping[str, Axis]) -> None:
        totals = [axis.total for axis in axes.values()]
        self.live = False
        self.total: int | None = prod(total for total in totals if total is not None) if None not in totals else None
        self._names = list(axes)
        self._opened = [axis.opened for axis in axes.values()]
        self._axes = [_Cursor(axis, keeps=at > 0) for at, axis in enumerate(axes.values())]
        self._chosen: list[Row] = []
        self._index = 0
        self._over = not axes
        self._failed: DataFailed | None = None

    async def take(self, most: int) -> list[Row]:
        rows: list[Row] = []
        try:
            while len(rows) < most and self._failed is None and await self._advance():
                rows.append(self._combination())
        except DataFailed as error:
            self._failed = error
        if not rows and self._failed is not None:
            raise self._failed
        return rows

    async def _advance(self) -> bool:
        """To the next combination: the last axis goes on; at its end it begins anew, and the one before it goes on."""
        while not self._over:
            if len(self._chosen) == len(self._axes):
                self._chosen.pop()
            row = await self._axes[len(self._chosen)].next()
            if row is not None:
                self._chosen.append(row)
                if len(self._chosen) == len(self._axes):
                    return True
            elif self._chosen:
                self._chosen.pop()
            else:
                self._over = True
        return False

    def _combination(self) -> Row:
        value = {name: row.value for name, row in zip(self._names, self._chosen, strict=True)}
        error = next((row.error for row in self._chosen if row.error is not None), None)
        self._index += 1
        return Row(index=self._index - 1, value=value, error=error)

    async def count_rest(self) -> int:
        if self.total is not None:
            return self.total - self._index
        before = self._index
        try:
            while await self.take(PAGE):
                pass
        except DataFailed:
            pass
        return self._index - before

    async def count(self, wanted: Callable[[], bool]) -> int | None:
        try:
            found = [await counted(opened(), wanted) for opened in self._opened]
        except DataFailed:
            return None
        return None if None in found else prod(one for one in found if one is not None)

    async def close(self) -> None:
        for axis in self._axes:
            await axis.close()


class _Cursor:
    """Goes through one axis, from the beginning again once it has come to the end."""

    def __init__(self, axis: Axis, *, keeps: bool) -> None:
        self._axis = axis
        self._rows: Rows | None = None
        self._page: deque[Row] = deque()
        self._keeps = keeps and axis.total is None
        self._kept: list[Row] = []
        self._kept_size = 0
        self._whole = False
        """All rows are kept."""
        self._begun = False

    async def next(self) -> Row | None:
        """None at the end."""
        if not self._page and not await self._more():
            return None
        return self._page.popleft()

    async def _more(self) -> bool:
        if not self._begun:
            self._begun = True
            if self._whole:
                self._page.extend(self._kept)
            else:
                self._rows = self._axis.opened()
        if self._rows is not None:
            page = await self._rows.take(PAGE)
            self._page.extend(page)
            self._keep(page)
        if not self._page:
            await self.close()
            self._begun, self._whole = False, self._keeps
        return bool(self._page)

    def _keep(self, page: list[Row]) -> None:
        if not self._keeps:
            return
        self._kept += page
        self._kept_size += sum(len(canonical(row.value)) for row in page)
        if len(self._kept) > KEPT or self._kept_size > KEPT_SIZE:
            self._keeps = False
            self._kept.clear()

    async def close(self) -> None:
        if self._rows is not None:
            await self._rows.close()
            self._rows = None
