"""What is on record of one run's nodes, for whoever goes through all of it: read when it is looked at, from any thread."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from flowllm.core.types import NodeId, NodeStatus, RunId
from flowllm.storage.records import NodeRecord


class Results(Protocol):
    """The nodes of one run, also after the store was closed, for as long as its database is there. Every method raises
    StoreError, as do the sequences that it gives."""

    def node(self, node_id: NodeId) -> NodeRecord | None:
        """As `Store.node`."""
        ...

    def nodes(self, parent: str = "") -> list[NodeRecord]:
        """As `Store.nodes`."""
        ...

    def items(self, parent: NodeId, *, step: str = "", statuses: Collection[NodeStatus] = ()) -> Sequence[NodeRecord]:
        """The items that `Store.items` gives, as a lazy sequence; with `step`, named within the item, that step's nodes, each
        with the place and the value of its item; of these `statuses` alone, if any are given.

        Which items there are is found out at the first look: what a run that goes on adds afterwards is not seen."""
        ...


class ResultReads(Protocol):
    """Part of `Store`."""

    def results(self, run_id: RunId) -> Results:
        """What is on record of that run's nodes; reads nothing yet."""
        ...
