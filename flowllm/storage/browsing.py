"""Looking through the items of a foreach: all statuses at once, and pages of what is sorted, filtered and searched for."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

from flowllm.core.encoding import encoder
from flowllm.core.records import dataclass
from flowllm.core.types import NodeId, NodeStatus, RunId
from flowllm.storage.records import NodeRecord

as_searched: Final = encoder(ascii_only=False)
"""A value as the text in which others are looked for: JSON without blanks."""


class ItemOrder(StrEnum):
    """How items are sorted; equals by their indexes."""

    INDEX = "index"
    FAILED = "failed"  # failed ones first, then those that go on, then the others
    SLOWEST = "slowest"
    DEAREST = "dearest"


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemQuery:
    """Which items, in which order, from where."""

    statuses: Collection[NodeStatus] = ()
    """Those alone; empty: all."""
    search: str = ""
    """What stands in the item, in its output or in its error, in whatever case."""
    order: ItemOrder = ItemOrder.INDEX
    after: int = 0
    """How many of that order were looked at already: the `cursor` of the page before."""
    limit: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemPage:
    """Some of them."""

    items: list[NodeRecord]
    cursor: int | None
    """Where the next page begins; None after the last one. A page of a search may be short, or empty, before that."""


class Beside(NamedTuple):
    """The items around one."""

    previous: NodeId | None
    next: NodeId | None
    previous_failed: NodeId | None
    next_failed: NodeId | None


class Browsing(Protocol):
    """The verbs of `Store` that look through items: those that `Store.items` gives."""

    async def item_statuses(self, run_id: RunId, parent: NodeId) -> list[tuple[int, NodeStatus]]:
        """Index and status of every item, in the order of the indexes."""
        ...

    async def browse(self, run_id: RunId, parent: NodeId, query: ItemQuery) -> ItemPage:
        """A page of items. A search looks through SEARCHED items at most, so that it answers soon."""
        ...

    async def beside(self, run_id: RunId, parent: NodeId, place: int) -> Beside:
        """The items before and behind an index."""
        ...
