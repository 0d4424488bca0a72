"""What both stores say of the items of a foreach, apart from how they keep them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from flowllm.core.types import NodeId, NodeStatus
from flowllm.storage.base import RunLease

ENDED: Final = (NodeStatus.SUCCEEDED, NodeStatus.FAILED, NodeStatus.SKIPPED, NodeStatus.BLOCKED)
"""How a foreach ends that came to the end of its data; a cancelled one did not."""


class Slots:
    """Numbers for the new items of foreaches, each in one sitting.

    An item is named by its place. If that is the name of another, it gets a number from above all others, and from
    then on places up there are no names any more. So no number is given twice, though the rows are not written
    yet, as long as items come in the order of their places. Used by one thread.
    """

    def __init__(self) -> None:
        self._ranges: dict[tuple[str, int, str], tuple[int, int]] = {}
        """First number that was given apart from places, and the next one."""

    def taken(self, fence: RunLease, parent: NodeId, place: int) -> bool:
        """Whether that place may have been given as a number to another item."""
        first, _ = self._ranges.get(_key(fence, parent), (place + 1, 0))
        return place >= first

    def begun(self, fence: RunLease, parent: NodeId) -> bool:
        """Whether numbers were given apart from places."""
        return _key(fence, parent) in self._ranges

    def begin(self, fence: RunLease, parent: NodeId, above: Iterable[int]) -> None:
        """Give numbers from above these on: those of all rows, one of which is in the way, and the places of this
        call that became numbers. Places of earlier calls lie below the row that is in the way."""
        first = 1 + max(above)
        self._ranges[_key(fence, parent)] = (first, first)

    def take(self, fence: RunLease, parent: NodeId) -> int:
        """A number that nothing else has."""
        first, following = self._ranges[_key(fence, parent)]
        self._ranges[_key(fence, parent)] = (first, following + 1)
        return following

    def forget(self, fence: RunLease) -> None:
        """The sitting has ended."""
        self._ranges = {key: value for key, value in self._ranges.items() if key[0] != fence.run_id}


def _key(fence: RunLease, parent: NodeId) -> tuple[str, int, str]:
    return (fence.run_id, fence.epoch, parent)
