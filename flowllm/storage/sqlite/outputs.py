"""The outputs of a foreach as a sequence that is read when it is looked at."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, overload

from flowllm.core.errors import DatabaseCorrupt, StoreError
from flowllm.core.types import Json, NodeId, NodeStatus, RunId, item_id
from flowllm.storage.sqlite.connection import connect, reading_mode
from flowllm.storage.sqlite.faults import RESTORE, explain
from flowllm.storage.sqlite.reader import ITEMS_OF
from flowllm.storage.sqlite.records import has_its_output, is_whole
from flowllm.storage.sqlite.rows import NodeRow, from_json, to_text
from flowllm.storage.sqlite.texts import NODE_TEXTS, read

PAGE: Final = 500
"""Outputs that are read, and held, at a time."""

_ROW: Final = ", ".join(f"nodes.{name}" for name in NodeRow._fields)
_PLACES: Final = f"SELECT nodes.place FROM nodes WHERE {ITEMS_OF} ORDER BY nodes.place"
_AT_PLACES: Final = (
    f"SELECT {_ROW} FROM nodes WHERE {ITEMS_OF} AND nodes.place BETWEEN :first AND :last ORDER BY nodes.place"
)
_NAMED: Final = f"SELECT {_ROW} FROM nodes WHERE run_id = :run AND node_id = :node"


class Pages(Sequence[Json]):
    """A sequence in pages, of which it holds the one that was looked at last. May be used from any thread.

    How many there are is found out at the first look.
    """

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
        return f"<{len(self)} outputs, read as they are looked at; list(…) holds them all>"

    def _at(self, at: int) -> Json:
        return self._page(at // PAGE)[at % PAGE]

    def _page(self, number: int) -> list[Json]:
        with self._lock:
            if self._held[0] != number:
                self._held = (number, self._read(number))
            return self._held[1]


class _OnDisk(Pages):
    """Pages of a database, each read through a connection of its own, which cannot write."""

    def __init__(
        self, path: Path, run_id: RunId, parent: NodeId, *, busy_timeout: float, lost: Callable[[], StoreError | None]
    ) -> None:
        """`lost` tells, perhaps after a while, what became of the database if it is no longer the one that was opened."""
        super().__init__()
        self._lost = lost
        self._path = path
        self._busy_timeout = busy_timeout
        self._parent = parent
        self._these: dict[str, Any] = {"run": to_text(run_id), "parent": to_text(parent)}

    def _all(self, connection: sqlite3.Connection, query: str, **values: Any) -> sqlite3.Cursor:
        return connection.execute(query, {**self._these, **values})

    def _connect(self) -> closing[sqlite3.Connection]:
        mode = reading_mode(self._path)
        connection = connect(self._path, mode=mode, busy_timeout=self._busy_timeout)
        connection.execute("PRAGMA query_only=ON")
        return closing(connection)

    def _failed(self, error: sqlite3.Error) -> Exception:
        return self._lost() or explain(error, self._path)

    def _damaged(self, what: str) -> StoreError:
        return self._lost() or DatabaseCorrupt(f"The database {self._path} is damaged: {what}.", hint=RESTORE)

    def _output(self, row: NodeRow) -> Json:
        if not has_its_output(row) or not is_whole(row):
            raise self._damaged(f"the output of {row.node_id} does not match its hash")
        return from_json(row.output) if row.status == NodeStatus.SUCCEEDED.value else None


class StoredOutputs(_OnDisk):
    """The outputs of all items that stand, in the order of their places."""

    def __init__(self, path: Path, run_id: RunId, parent: NodeId, **how: Any) -> None:
        super().__init__(path, run_id, parent, **how)
        self._edges: list[tuple[int, int]] | None = None
        """First and last place of each page."""
        self._length = 0

    def __len__(self) -> int:
        with self._lock:
            self._survey()
        return self._length

    def _survey(self) -> list[tuple[int, int]]:
        if self._edges is None:
            try:
                with self._connect() as connection:
                    places = self._all(connection, _PLACES)
                    edges, length = [], 0
                    while rows := places.fetchmany(PAGE):
                        edges.append((rows[0][0], rows[-1][0]))
                        length += len(rows)
            except sqlite3.Error as error:
                raise self._failed(error) from error
            self._edges, self._length = edges, length
        return self._edges

    def _read(self, number: int) -> list[Json]:
        first, last = self._survey()[number]
        try:
            with self._connect() as connection:
                rows = read(connection, _AT_PLACES, {**self._these, "first": first, "last": last}, NODE_TEXTS)
        except sqlite3.Error as error:
            raise self._failed(error) from error
        if len(rows) != min(PAGE, self._length - number * PAGE):
            raise self._damaged(f"of {self._parent}, items between {first} and {last} have changed")
        return [self._output(NodeRow._make(row)) for row in rows]


class ChosenOutputs(_OnDisk):
    """The outputs of the items of given slots, in their order."""

    def __init__(self, path: Path, run_id: RunId, parent: NodeId, slots: Sequence[int], **how: Any) -> None:
        super().__init__(path, run_id, parent, **how)
        self._slots = slots

    def __len__(self) -> int:
        return len(self._slots)

    def _read(self, number: int) -> list[Json]:
        slots = self._slots[number * PAGE : (number + 1) * PAGE]
        try:
            with self._connect() as connection:
                return [self._one(connection, slot) for slot in slots]
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def _one(self, connection: sqlite3.Connection, slot: int) -> Json:
        name = item_id(self._parent, slot)
        rows = read(connection, _NAMED, {**self._these, "node": to_text(name)}, NODE_TEXTS)
        if not rows:
            raise self._damaged(f"{name} is missing")
        return self._output(NodeRow._make(rows[0]))
