"""Hands items of a run to its workers, which are processes of their own, and takes back what these put on record.

The process that owns the run goes through the data, and decides all that it decides for items that it executes itself; a
worker leases a range of them, executes these, and reports which have ended.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from flowllm.core.cancel import CancelToken
from flowllm.core.errors import RunStopped, StoreError
from flowllm.core.records import dataclass, replace
from flowllm.core.types import Json, NodeId, RunStatus
from flowllm.runtime.item_reader import Item
from flowllm.runtime.range_size import RangeSizes, ahead, pause, weight
from flowllm.runtime.run_context import RunContext
from flowllm.storage.base import NodeRecord
from flowllm.storage.ranges import ItemEnd, OfferedRange, RangeItem, RangeNews, RangeReport

QUICK = 0.05
SLOW = 0.25
"""Seconds from one look at what workers report to the next: after one that found something, and at most."""
HOPED = 5.0
"""Seconds for which a worker that wants to have something to do is believed to be there."""
FEW = 500
"""Items with workers below which it looks quickly: of more there is enough to do meanwhile."""
HEARD = 20
"""Reports that were taken note of from which on they are removed, also if there is nothing else to write."""
LOOKED = 1.0
"""Seconds from one look whether workers are alive to the next."""
SETTLING = 2.0
"""Seconds in which workers say what was not sent of what is not wanted any more."""
ON_RECORD = frozenset({ItemEnd.ENDED, ItemEnd.REUSED, ItemEnd.WAITING})


class Owner(Protocol):
    """Whose the items are that are handed out."""

    async def returned(self, item: Item, record: NodeRecord) -> None:
        """A worker has put its end on record, or that it waits for the world."""
        ...

    def lost(self, item: Item, *, sent: bool) -> None:
        """It was no longer wanted, or the run is stopping; `sent`: after something was sent for it."""
        ...

    @property
    def room(self) -> int:
        """How many more could be executed here."""
        ...

    def wake(self) -> None:
        """There may be."""
        ...

    def start_here(self, item: Item) -> None:
        """No worker has it: it is executed here."""
        ...


@dataclass(slots=True)
class _Out:
    """A range that was offered."""

    foreach: HandedOut
    open: dict[int, Item]


class HandedOut:
    """The items of one foreach that workers execute."""

    def __init__(
        self, coordinator: Coordinator, node: NodeId, terms: Mapping[str, Json], owner: Owner, token: CancelToken
    ) -> None:
        """`terms` tell workers what the run's record does not say of these items."""
        self.node = node
        self.terms = terms
        self.owner = owner
        self.token = token
        self.sizes = RangeSizes()
        self.recalled = self.withdrawn = False
        self._coordinator = coordinator
        self._waiting: deque[Item] = deque()
        self._left: int | None = None
        self.free = self.out = 0
        """Ranges that wait for a worker, and items in all ranges there are."""

    @property
    def window(self) -> int:
        """Items that may be with workers, or on their way to them: so many that a range waits for each."""
        workers = self._coordinator.workers
        if not workers:
            return self.out + len(self._waiting)
        missing = max(0, workers + 1 - self.free)
        wanted = missing * self.sizes.next(workers=workers, left=self._all_left)
        return min(ahead(workers), self.sizes.bearable, self.out + max(len(self._waiting), wanted))

    @property
    def _all_left(self) -> int | None:
        return None if self._left is None else self._left + len(self._waiting)

    def back(self) -> Item | None:
        """One that no worker was offered yet, taken back."""
        return self._waiting.popleft() if self._waiting else None

    def take(self, item: Item) -> None:
        """A worker is to execute it."""
        self._waiting.append(item)
        self.sizes.weighed(weight(item.row.value))

    def look(self, left: int | None) -> None:
        """No more can be pulled for now; `left` are still in the data, None: not known."""
        self._left = left
        if self._waiting:
            self._coordinator.go_on()

    def ranges(self, free: int) -> Iterable[list[Item]]:
        """Cut what waits into so many ranges at most."""
        workers = self._coordinator.workers
        for _ in range(free):
            if not self._waiting:
                return
            size = self.sizes.next(workers=workers, left=self._all_left)
            yield [self._waiting.popleft() for _ in range(min(size, len(self._waiting)))]

    def drop(self) -> None:
        """What no worker was offered yet is not wanted any more."""
        while self._waiting:
            self.owner.lost(self._waiting.popleft(), sent=False)

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def recall(self) -> None:
        """What has not begun is not wanted any more."""
        self.recalled = True

    async def settle(self) -> None:
        """Wait a moment for workers to say what was not sent, after the foreach has stopped."""
        await self._coordinator.settle(self)


class Coordinator:
    """One for each attempt at a run that may have workers."""

    def __init__(
        self, context: RunContext, *, workers: int | None, figures: Callable[[Mapping[str, Json]], None]
    ) -> None:
        """`workers` are started with the run, and this process executes no items then. None: it does, and those that join do, too.
        `figures` takes what workers count."""
        self._context = context
        self._store = context.store
        self._lease = context.lease
        self._figures = figures
        self._started = workers or 0
        self.in_flight = 0
        """Requests of workers that are out, about."""
        self.works = workers is None
        """Items are executed here, too."""
        self._wanted = -math.inf
        """When a worker last said that it would like to have something to do (monotonic seconds)."""
        self._processes: frozenset[int] = frozenset()
        self._foreaches: dict[NodeId, HandedOut] = {}
        self._out: dict[int, _Out] = {}
        self._free: frozenset[int] = frozenset()
        self._heard: list[int] = []
        self._known: set[int] = set()
        """Reports that were taken note of, and are still there."""
        self._freed = -math.inf
        """When it was last looked whether workers are alive (monotonic seconds)."""
        self._number = 0
        self._wake = asyncio.Event()
        self._going = False
        self._moved = asyncio.Event()

    @property
    def workers(self) -> int:
        """Those that are there, or will be soon; of a run that leaves all to those that join at least one is hoped for."""
        found = max(self._started, len(self._processes))
        if found or not self.works:
            return max(1, found)
        return int(self._context.clock.monotonic() < self._wanted + HOPED)

    @property
    def handed(self) -> list[NodeId]:
        """The foreaches of which workers have items."""
        return [node for node, foreach in self._foreaches.items() if foreach.out]

    async def look(self) -> None:
        """Once a second: does a worker wait for something to do? Raises StoreError."""
        if self.works and await self._store.workers_wait(self._context.run.run_id):
            if not self._number and not self._going:
                await self.begin()  # an earlier attempt may have left something
            self._wanted = self._context.clock.monotonic()
            self.go_on()

    def alone(self) -> None:
        """None of the workers is left that were started with the run."""
        self._started, self.works = 0, True
        for foreach in self._foreaches.values():
            foreach.owner.wake()
        self.gone()

    async def begin(self) -> None:
        """Before the first item. Raises StoreError."""
        await self._store.clear_ranges(self._lease)

    async def end(self) -> None:
        """After the last one."""
        if self.works and not self._wanted > -math.inf and not self._number:
            return  # nobody came
        with suppress(StoreError):  # what ends the run is told already; they are left to the next attempt
            await self._store.clear_ranges(self._lease)

    def foreach(self, node: NodeId, terms: Mapping[str, Json], owner: Owner, token: CancelToken) -> HandedOut:
        """A foreach whose items are to be handed out, until the token is stopped."""
        found = self._foreaches[node] = HandedOut(self, node, terms, owner, token)
        return found

    def gone(self) -> None:
        """A worker has ended: what it had is for others."""
        self._freed = -math.inf
        self._wake.set()

    def go_on(self) -> None:
        """There are items to hand out."""
        if not self._going:
            self._going = True
            self._context.tasks.spawn(self._go(), self._give_up)
        self._wake.set()

    async def settle(self, foreach: HandedOut) -> None:
        """See `HandedOut.settle`."""
        until = self._context.clock.monotonic() + SETTLING
        while any(out.foreach is foreach for out in self._out.values()) and self._context.clock.monotonic() < until:
            self._wake.set()
            await self._context.clock.sleep(QUICK)

    # the task

    async def _go(self) -> None:
        try:
            pause = QUICK
            while await self._turn():
                few = sum(foreach.out for foreach in self._foreaches.values()) < FEW
                pause = QUICK if few and self._moved.is_set() else min(SLOW, pause * 1.5) if few else SLOW
                self._moved.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), pause)
                self._wake.clear()
        except StoreError as error:
            self._context.broke(error)
            self._give_up()
        except asyncio.CancelledError:
            await self._cancelled()
            raise
        finally:
            self._going = False

    async def _turn(self) -> bool:
        """One look; whether there is more to do."""
        await self._withdraw()
        await self._forget_gone()
        await self._offer()
        await self._take_up()
        news = await self._store.range_news(self._context.run.run_id)
        await self._take_note(news)
        return bool(self._out or self._heard) or any(self._foreaches.values())

    async def _withdraw(self) -> None:
        for foreach in self._foreaches.values():
            if (foreach.recalled or foreach.token.stopped) and not foreach.withdrawn:
                foreach.withdrawn = True
                foreach.drop()
                self._end_ranges(await self._store.withdraw_ranges(self._lease, foreach.node))

    async def _forget_gone(self) -> None:
        now = self._context.clock.monotonic()
        if self._processes and now >= self._freed + LOOKED:
            self._freed = now
            self._end_ranges(await self._store.free_ranges(self._lease), sent=True)

    async def _offer(self) -> None:
        offered = []
        for foreach in self._foreaches.values():
            cut = foreach.ranges(max(0, self.workers + 1 - foreach.free)) if self.workers else ()
            offered += [self._range(foreach, items) for items in cut]
        if offered or len(self._heard) >= HEARD or (self._heard and not self._out):
            heard, self._heard = self._heard, []
            await self._store.offer_ranges(self._lease, offered, heard=heard)
            self._known.difference_update(heard)

    def _range(self, foreach: HandedOut, items: Sequence[Item]) -> OfferedRange:
        self._number += 1
        foreach.free, foreach.out = foreach.free + 1, foreach.out + len(items)
        if not foreach.sizes.rate:
            foreach.sizes.begun(self._context.clock.monotonic())
        self._out[self._number] = _Out(foreach, {item.row.index: item for item in items})
        return OfferedRange(
            number=self._number,
            foreach=foreach.node,
            items=[RangeItem(one.row.index, one.number, one.content, one.row.value) for one in items],
            terms={**foreach.terms, "every": pause(self.workers)},
        )

    async def _take_up(self) -> None:
        """What waits for a worker is executed here, where there is room and nothing else to do."""
        for foreach in self._foreaches.values() if self.works else ():
            while foreach.owner.room > 0:
                free = [number for number in self._free if number in self._out and self._out[number].foreach is foreach]
                if not free:
                    break
                number = max(free)
                self._free -= {number}
                if await self._store.take_back_range(self._lease, number):
                    out = self._out.pop(number)
                    foreach.free, foreach.out = foreach.free - 1, foreach.out - len(out.open)
                    for item in out.open.values():
                        foreach.owner.start_here(item)

    # what workers say

    async def _take_note(self, news: RangeNews) -> None:
        self._free, self._processes = news.free, news.workers
        for foreach in self._foreaches.values():
            mine = {number: len(out.open) for number, out in self._out.items() if out.foreach is foreach}
            foreach.free, foreach.out = len(mine.keys() & news.free), sum(mine.values())
        fresh = [report for report in news.reports if report.report_id not in self._known]
        for report in fresh:
            self._known.add(report.report_id)
            self._heard.append(report.report_id)
            self._moved.set()
            if not report.number:
                self._wanted = self._context.clock.monotonic()
            if report.figures:
                self._figures(report.figures)
        await self._take_back(fresh)
        for report in fresh:
            out = self._out.get(report.number)
            if report.over or (report.given_back and out is not None and out.foreach.withdrawn):
                self._end_ranges([report.number], sent=True)  # what is given back of what is not wanted nobody takes
            if report.stopped is not None:
                self._stop(report.stopped)

    async def _take_back(self, reports: Sequence[RangeReport]) -> None:
        """The items that have ended, with their records."""
        ended: dict[NodeId, dict[int, tuple[Item, ItemEnd]]] = {}
        for report in reports:
            out = self._out.get(report.number)
            if out is None:
                continue
            found = ended.setdefault(out.foreach.node, {})
            for index, end in report.ended:
                item = out.open.pop(index, None)
                if item is not None:
                    found[index] = (item, end)
        for node, items in ended.items():
            foreach = self._foreaches[node]
            foreach.sizes.ended(len(items), self._context.clock.monotonic())
            records = await self._records(node, [index for index, (_, end) in items.items() if end in ON_RECORD])
            for index, (item, end) in items.items():
                record = records.get(index)
                if record is None:
                    foreach.owner.lost(item, sent=end is not ItemEnd.UNSENT)
                else:
                    reused = end is ItemEnd.REUSED
                    await foreach.owner.returned(item, replace(record, reused=True) if reused else record)

    async def _records(self, node: NodeId, indexes: Iterable[int]) -> dict[int, NodeRecord]:
        found: dict[int, NodeRecord] = {}
        wanted = set(indexes)
        for first, last in spans(sorted(wanted)):
            rows = await self._store.items(self._context.run.run_id, node, after=first - 1, limit=last - first + 1)
            found |= {row.place: row for row in rows if row.place is not None and row.place in wanted}
        return found

    def _end_ranges(self, numbers: Iterable[int], *, sent: bool = False) -> None:
        """Ranges are over: what is left of their items has no outcome."""
        for number in numbers:
            out = self._out.pop(number, None)
            if out is not None:
                while out.open:
                    out.foreach.owner.lost(out.open.popitem()[1], sent=sent)

    def _stop(self, stopped: Mapping[str, Json]) -> None:
        """A worker says that the run has to end."""
        error = stopped.get("error")
        if error is None:
            self._context.token.stop(RunStatus(stopped["status"]))
        else:
            self._context.end_early(RunStopped.again(error, RunStatus(stopped["status"])))

    # the end before the end

    def _give_up(self) -> None:
        """Nothing of what was handed out has an outcome."""
        self._going = False
        for foreach in self._foreaches.values():
            foreach.drop()
        self._end_ranges(list(self._out), sent=True)

    async def _cancelled(self) -> None:
        """Workers are told to break off what is in flight."""
        for foreach in self._foreaches.values():
            with suppress(StoreError):
                await self._store.withdraw_ranges(self._lease, foreach.node, cancel=True)
        self._give_up()


def spans(indexes: Sequence[int], gap: int = 16) -> list[tuple[int, int]]:
    """First and last of runs of indexes, in order, that have no larger gaps."""
    found: list[tuple[int, int]] = []
    for index in indexes:
        if found and index - found[-1][1] <= gap:
            found[-1] = (found[-1][0], index)
        else:
            found.append((index, index))
    return found
