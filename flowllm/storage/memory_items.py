"""Items of a foreach in the store in memory: by the same rules as on disk, told in Python."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Final

from flowllm.core.types import NodeId, NodeStatus, item_id, slot_of
from flowllm.storage.base import ItemKey, MatchedItem, NodeRecord, RunLease
from flowllm.storage.slots import ENDED, Slots

_BY_PLACE: Final = attrgetter("place")


class NodeTable:
    """The nodes of one run, by id and by parent."""

    def __init__(self) -> None:
        self._nodes: dict[NodeId, NodeRecord] = {}
        self._below: dict[str, dict[NodeId, None]] = {}

    def get(self, node_id: NodeId) -> NodeRecord | None:
        """That node."""
        return self._nodes.get(node_id)

    def put(self, node: NodeRecord) -> None:
        """Write a node, over what it was before."""
        self._nodes[node.node_id] = node
        self._below.setdefault(node.parent, {})[node.node_id] = None

    def within(self, parent: str) -> list[NodeRecord]:
        """Nodes within a node that are not its items, in order of completion."""
        found = [node for node in self._under(parent) if node.place is None]
        return sorted(found, key=lambda node: (node.seq, node.node_id))

    def items(self, parent: str) -> list[NodeRecord]:
        """Items that stand, in the order of their places: see `standing`."""
        foreach = self._nodes.get(NodeId(parent))
        floor = foreach.epoch if foreach is not None and foreach.status in ENDED else 0
        newest: dict[int, NodeRecord] = {}
        for node in self._under(parent):
            if node.place is None or node.epoch < floor:
                continue
            other = newest.get(node.place)
            if other is None or other.epoch < node.epoch:
                newest[node.place] = node
        return sorted(newest.values(), key=_BY_PLACE)

    def failed(self) -> list[NodeRecord]:
        """Failed items that stand, by parent and place."""
        parents = sorted(self._below)
        return [node for name in parents for node in self.items(name) if node.status is NodeStatus.FAILED]

    def counts(self, parent: str) -> Mapping[NodeStatus, int]:
        """Items that stand by status."""
        return dict(Counter(node.status for node in self.items(parent)))

    def adopt(self, fence: RunLease, parent: NodeId, items: Sequence[ItemKey], slots: Slots) -> list[MatchedItem]:
        """See `Store.adopt`."""
        earlier = [node for node in self._under(parent) if node.place is not None and node.epoch < fence.epoch]
        earlier.sort(key=lambda node: (node.place, -node.epoch))
        found: dict[int, MatchedItem] = {}
        for at_its_place in (True, False):
            for item in items:
                node = None if item.place in found else _first(earlier, item, at_its_place=at_its_place)
                if node is not None:
                    earlier.remove(node)
                    taken = replace(node, place=item.place, epoch=fence.epoch)
                    self.put(taken)
                    found[item.place] = MatchedItem(slot=slot_of(taken.node_id), node=taken)
        self._number(fence, parent, items, slots, found)
        return [found[item.place] for item in items]

    def _number(
        self, fence: RunLease, parent: NodeId, items: Sequence[ItemKey], slots: Slots, found: dict[int, MatchedItem]
    ) -> None:
        homeless: list[int] = []
        for place in (item.place for item in items if item.place not in found):
            if slots.taken(fence, parent, place) or not self._is_free(fence, parent, place):
                homeless.append(place)
            else:
                found[place] = MatchedItem(slot=place)
        if homeless and not slots.begun(fence, parent):
            written = [slot_of(node.node_id) for node in self._under(parent) if node.place is not None]
            named = [place for place, one in found.items() if one.slot == place]
            slots.begin(fence, parent, [*written, *named])
        for place in homeless:
            found[place] = MatchedItem(slot=slots.take(fence, parent))

    def _is_free(self, fence: RunLease, parent: NodeId, place: int) -> bool:
        """No node has that name; or one that has failed and that nothing has taken over."""
        held = self._nodes.get(item_id(parent, place))
        if held is None:
            return True
        if held.status is not NodeStatus.FAILED or held.epoch >= fence.epoch:
            return False
        self.put(replace(held, place=place, epoch=fence.epoch))
        return True

    def _under(self, parent: str) -> list[NodeRecord]:
        return [self._nodes[node_id] for node_id in self._below.get(parent, ())]


def _first(earlier: Sequence[NodeRecord], item: ItemKey, *, at_its_place: bool) -> NodeRecord | None:
    for node in earlier:
        if node.content == item.content and (node.place == item.place or (item.content and not at_its_place)):
            return node
    return None
