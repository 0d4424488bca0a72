"""Ranges of items that workers carry out: the verbs by which the coordinator of a run and its workers speak."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import IntEnum
from typing import NamedTuple, Protocol

from flowllm.core.records import dataclass, field
from flowllm.core.types import Json, NodeId, RunId
from flowllm.storage.records import RunLease


class RangeItem(NamedTuple):
    """One item of a foreach, with all that a worker needs of it."""

    place: int
    """The index in its data."""
    number: int
    """The number in its name."""
    content: str
    """Hash of the value."""
    value: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedRange:
    """Items that one worker is to carry out."""

    number: int
    """Unique in the run."""
    foreach: NodeId
    items: Sequence[RangeItem]
    terms: Mapping[str, Json] = field(default_factory=dict)
    """How, where the run's record does not say that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasedRange(OfferedRange):
    """A range that a process works at."""

    lease: RunLease
    leases: int
    """How often it was leased, this time included."""


class ItemEnd(IntEnum):
    """What a worker says of an item: what it came to is on record."""

    ENDED = 0
    REUSED = 1
    """What an earlier attempt left still holds."""
    WAITING = 2
    """It waits for the world."""
    UNSENT = 3
    """It was not wanted any more, and nothing was sent for it."""
    LEFT = 4
    """The same, after something was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeReport:
    """What a worker says of a range."""

    number: int
    """0: of none, the worker wants one."""
    ended: Sequence[tuple[int, ItemEnd]] = ()
    """Places of items that have ended since it last said so."""
    over: bool = False
    """It has nothing more to do with it."""
    given_back: bool = False
    """What has not ended is for another worker."""
    figures: Mapping[str, Json] = field(default_factory=dict)
    """What was counted since the last report of the worker's."""
    stopped: Mapping[str, Json] | None = None
    """The run has to end, and why."""
    report_id: int = field(default=0, compare=False)
    """Given by the store."""
    process: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeNews:
    """How the ranges of a run stand."""

    reports: Sequence[RangeReport]
    """Those that were not taken note of yet, in no order."""
    free: frozenset[int]
    """Ranges that wait for a worker."""
    workers: frozenset[int]
    """The processes that have ranges."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeOrders:
    """What a worker is told of a run at which it works."""

    going: bool
    """Its process goes on with it, in the same attempt."""
    withdrawn: frozenset[NodeId] = frozenset()
    """Foreaches of which nothing more is to be sent."""
    cancelled: bool = False
    """What is in flight is not wanted either."""


class Ranges(Protocol):
    """The verbs of `Store` for ranges."""

    async def offer_ranges(
        self, lease: RunLease, ranges: Sequence[OfferedRange], *, heard: Collection[int] = ()
    ) -> None:
        """Put ranges up for workers, and forget the reports of these ids."""
        ...

    async def work(self, *, limit: int = 50) -> list[RunId]:
        """Runs of which ranges wait for workers, the oldest first."""
        ...

    async def lease_range(self, run_id: RunId, *, busy: Collection[NodeId] = ()) -> LeasedRange | None:
        """Take the first range of a run that is free, of any foreach but `busy`; None if there is none. This process has it until
        it says that it is over, or the lease of the process is."""
        ...

    async def report_range(self, lease: RunLease, report: RangeReport) -> bool:
        """Say what came of a range, in one commit with what it is from now on. False, and nothing is written, if this
        process does not have it any more."""
        ...

    async def want_range(self, run_id: RunId) -> bool:
        """Say that this process would work at a run of which no range is free; false if nobody goes on with that."""
        ...

    async def workers_wait(self, run_id: RunId) -> bool:
        """Whether a worker has said so, or anything else, that was not heard yet."""
        ...

    async def take_back_range(self, lease: RunLease, number: int) -> bool:
        """A range is for no worker any more; false if one has it by now."""
        ...

    async def range_orders(self, lease: RunLease) -> RangeOrders:
        """What a worker has to know."""
        ...

    async def range_news(self, run_id: RunId) -> RangeNews:
        """What the coordinator has to know."""
        ...

    async def withdraw_ranges(self, lease: RunLease, foreach: NodeId, *, cancel: bool = False) -> list[int]:
        """Nothing more is to be sent for a foreach's items; the numbers of ranges that no worker had, which are gone."""
        ...

    async def free_ranges(self, lease: RunLease) -> list[int]:
        """The ranges of processes that are not alive are free again; the numbers of those that were withdrawn, which are gone."""
        ...

    async def clear_ranges(self, lease: RunLease) -> None:
        """Remove all ranges of the run, and what was said of them."""
        ...
