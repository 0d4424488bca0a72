"""What the store tells of the same foreach in two runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from flowllm.core.types import Json, NodeId, NodeStatus, RunId

ItemPair = tuple[int | None, int | None]
"""The places of an item in the earlier run and in the later one; None: it is not there."""


Contents = Mapping[str, str]
"""Of items, by their places."""


class ItemOutcome(NamedTuple):
    """What became of the item at a place."""

    place: int
    status: NodeStatus
    output: Json


class Comparing(Protocol):
    """Part of `Store`."""

    async def unequal_items(
        self, base: RunId, run: RunId, parent: NodeId, mended: tuple[Contents, Contents] = ({}, {})
    ) -> Sequence[ItemPair]:
        """The current items of a foreach (see `Store.items`) in both runs that do not have the same key, status and output.

        They are joined in the database by content and occurrence, the second of equal rows with the second one, and come
        in the order of the later run, what only the earlier one has at the end. Nothing is read of them but their hashes.
        `mended`: contents of items of either run, by place, under which those that the other run does not have are looked for.
        """
        ...

    async def item_outcomes(self, run_id: RunId, parent: NodeId, places: Sequence[int]) -> list[ItemOutcome]:
        """Of the current items at these places, in the order of their places; one that was damaged on disk has failed."""
        ...
