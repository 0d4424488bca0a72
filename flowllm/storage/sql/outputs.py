"""The outputs of a foreach, and its items, as sequences that are read when they are looked at."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Final, overload

from flowllm.core.errors import StoreError
from flowllm.core.types import Json, NodeId, NodeStatus, RunId, item_id
from flowllm.storage.base import NodeRecord
from flowllm.storage.sql.engine import Connection, Engine
from flowllm.storage.sql.patience import BRIEFLY, Patience
from flowllm.storage.sql.reader import ITEMS_OF
from flowllm.storage.sql.records import has_its_output, is_whole, node_of
from flowllm.storage.sql.rows import NodeRow, from_json, to_text
from flowllm.storage.sql.texts import NODE_TEXTS, read

PAGE: Final = 500
"""Outputs that are read, and held, at a time."""

_ROW: Final = ", ".join(f"nodes.{name}" for name in NodeRow._fields)
_PLACES: Final = f"SELECT nodes.place FROM nodes WHERE {ITEMS_OF} ORDER BY nodes.place"
_AT_PLACES: Final = (
    f"SELECT {_ROW} FROM nodes WHERE {ITEMS_OF} AND nodes.place BETWEEN :first AND :last ORDER BY nodes.place"
)
_NAMED: Final = f"SELECT {_ROW} FROM nodes WHERE run_id = :run AND node_id = :node"
_WITHIN: Final = (
    f"SELECT {_ROW} FROM nodes WHERE run_id = :run AND parent = :parent AND place IS NULL ORDER BY seq, node_id"
)
_ALL_NAMED: Final = f"SELECT {_ROW} FROM nodes WHERE run_id = :run AND node_id IN (SELECT value FROM json_each(:names))"
_STEP_OF_ITEM: Final = (
    "JOIN nodes AS part ON part.run_id = nodes.run_id AND part.node_id = nodes.node_id || '.' || :step "
)


class Pages(Sequence[Json]):
    """A sequence in pages, of which it holds the one that was looked at last. May be used from any thread.

    How many there are is found out at the first look.
    """

    what = "outputs"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: tuple[int, list[Json]] = (-1, [])

    def __len__(self) -> int:
        raise NotImplementedError

    def _read(self, number: int) -> list[Json]:
        """The outputs of that page. Raises StoreError."""
        raise NotImplementedError

    @overload
    def __getitem__(self, index: int) -> Json: ...

    @overload
    def __getitem__(self, index: slice) -> list[Json]: ...

    def __getitem__(self, index: int | slice) -> Json:
        if isinstance(index, slice):
            return [self._at(at) for at in range(*index.indices(len(self)))]
        length = len(self)
        at = index + length if index < 0 else index
        if not 0 <= at < length:
            raise IndexError(f"there is no output {index} of {length}")
        return self._at(at)

    def __iter__(self) -> Iterator[Json]:
        for number in range(-(-len(self) // PAGE)):
            yield from self._page(number)

    def __eq__(self, other: object) -> bool:
        """As lists are equal."""
        if not isinstance(other, Sequence) or isinstance(other, str | bytes):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment] # as lists have none

    def __add__(self, other: Sequence[Json]) -> list[Json]:
        return [*self, *other]

    def __radd__(self, other: Sequence[Json]) -> list[Json]:
        return [*other, *self]

    def __repr__(self) -> str:
        return f"<{len(self)} {self.what}, read as they are looked at; list(…) holds them all>"

    def _at(self, at: int) -> Json:
        return self._page(at // PAGE)[at % PAGE]

    def _page(self, number: int) -> list[Json]:
        with self._lock:
            if self._held[0] != number:
                self._held = (number, self._read(number))
            return self._held[1]


class _Database:
    """One run in a database, each read through a connection of its own, which cannot write."""

    def __init__(self, engine: Engine, run_id: RunId, *, lost: Callable[[], StoreError | None]) -> None:
        """`lost` tells, perhaps after a while, what became of the database if it is no longer the one that was opened."""
        super().__init__()
        self._lost = lost
        self._engine = engine
        self._these: dict[str, Any] = {"run": to_text(run_id)}

    def _records(self, connection: Connection, query: str, **values: Any) -> list[NodeRecord]:
        rows = read(connection, query, {**self._these, **values}, NODE_TEXTS)
        return [node_of(NodeRow._make(row)) for row in rows]

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        """Raises StoreError in place of what the engine raises."""
        try:
            with closing(Patience(self._engine).reads(self._engine.reader, BRIEFLY)) as opened:
                yield opened
        except self._engine.errors as error:
            raise self._lost() or self._engine.gone() or self._engine.explain(error) from error

    def _damaged(self, what: str) -> StoreError:
        return self._lost() or self._engine.damaged(what)


class _OnDisk(_Database, Pages):
    """Pages of what is within one node."""

    def __init__(self, engine: Engine, run_id: RunId, parent: NodeId, **how: Any) -> None:
        super().__init__(engine, run_id, **how)
        self._parent = parent
        self._these["parent"] = to_text(parent)

    def _output(self, row: NodeRow) -> Json:
        if not has_its_output(row) or not is_whole(row):
            raise self._damaged(f"the output of {row.node_id} does not match its hash")
        return from_json(row.output) if row.status == NodeStatus.SUCCEEDED.value else None


class StoredOutputs(_OnDisk):
    """The outputs of all items that stand, in the order of their places."""

    places = _PLACES

    def __init__(self, engine: Engine, run_id: RunId, parent: NodeId, **how: Any) -> None:
        super().__init__(engine, run_id, parent, **how)
        self._edges: list[tuple[int, int]] | None = None
        """First and last place of each page."""
        self._length = 0

    def __len__(self) -> int:
        with self._lock:
            self._survey()
        return self._length

    def _survey(self) -> list[tuple[int, int]]:
        if self._edges is None:
            with self._connected() as connection:
                edges, length = [], 0
                for rows in connection.pages(self.places, self._these, PAGE):
                    edges.append((rows[0][0], rows[-1][0]))
                    length += len(rows)
            self._edges, self._length = edges, length
        return self._edges

    def _read(self, number: int) -> list[Json]:
        first, last = self._survey()[number]
        with self._connected() as connection:
            rows = read(connection, _AT_PLACES, {**self._these, "first": first, "last": last}, NODE_TEXTS)
        if len(rows) != min(PAGE, self._length - number * PAGE):
            raise self._damaged(f"of {self._parent}, items between {first} and {last} have changed")
        return [self._output(NodeRow._make(row)) for row in rows]


class StoredItems(StoredOutputs):
    """The records of the items that stand, or of one step within each, in the order of their places. Those that are written
    after the first look are not seen; of the others, what there is when their page is read."""

    what = "items"

    def __init__(
        self, engine: Engine, run_id: RunId, parent: NodeId, *, step: str, statuses: Collection[NodeStatus], **how: Any
    ) -> None:
        super().__init__(engine, run_id, parent, **how)
        join, table = (_STEP_OF_ITEM, "part") if step else ("", "nodes")
        only = f"AND {table}.status IN (SELECT value FROM json_each(:statuses)) " if statuses else ""
        of_items = f"FROM nodes {join}WHERE {ITEMS_OF} {only}"
        self._step = step
        self._these |= {"step": to_text(step), "statuses": json.dumps([status.value for status in statuses])}
        self.places = f"SELECT nodes.place {of_items}ORDER BY nodes.place"
        self._at_places = f"SELECT {_ROW} {of_items}AND nodes.place BETWEEN :first AND :last ORDER BY nodes.place"

    def _read(self, number: int) -> list[Json]:
        first, last = self._survey()[number]
        with self._connected() as connection:
            items = self._records(connection, self._at_places, first=first, last=last)
            if not self._step:
                return list(items)
            names = [f"{item.node_id}.{self._step}" for item in items]
            texts = json.dumps([to_text(name) for name in names])
            found = {node.node_id: node for node in self._records(connection, _ALL_NAMED, names=texts)}
        within = ((item, found.get(NodeId(name))) for item, name in zip(items, names, strict=True))
        return [replace(node, place=item.place, item=item.item) for item, node in within if node is not None]


class ChosenOutputs(_OnDisk):
    """The outputs of the items of given numbers, in their order."""

    def __init__(self, engine: Engine, run_id: RunId, parent: NodeId, numbers: Sequence[int], **how: Any) -> None:
        super().__init__(engine, run_id, parent, **how)
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def _read(self, number: int) -> list[Json]:
        numbers = self._numbers[number * PAGE : (number + 1) * PAGE]
        with self._connected() as connection:
            return [self._one(connection, one) for one in numbers]

    def _one(self, connection: Connection, number: int) -> Json:
        name = item_id(self._parent, number)
        rows = read(connection, _NAMED, {**self._these, "node": to_text(name)}, NODE_TEXTS)
        if not rows:
            raise self._damaged(f"{name} is missing")
        return self._output(NodeRow._make(rows[0]))


def _nothing_lost() -> None:
    """Whoever has not opened the database cannot tell."""


class StoredResults(_Database):
    """`Results`, of a database."""

    def __init__(self, engine: Engine, run_id: RunId, **how: Any) -> None:
        super().__init__(engine, run_id, **how)
        self._how = {"engine": engine, "run_id": run_id, **how}

    def __reduce__(self) -> tuple[object, ...]:
        """Results go to other processes, the connection of this one stays."""
        return partial(StoredResults, **{**self._how, "lost": _nothing_lost}), ()

    def node(self, node_id: NodeId) -> NodeRecord | None:
        with self._connected() as connection:
            return next(iter(self._records(connection, _NAMED, node=to_text(node_id))), None)

    def nodes(self, parent: str = "") -> list[NodeRecord]:
        with self._connected() as connection:
            return self._records(connection, _WITHIN, parent=to_text(parent))

    def items(self, parent: NodeId, *, step: str = "", statuses: Collection[NodeStatus] = ()) -> Sequence[NodeRecord]:
        return StoredItems(parent=parent, step=step, statuses=statuses, **self._how)
