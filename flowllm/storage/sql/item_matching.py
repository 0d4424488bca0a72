"""Finding the items of a resumed foreach among those of earlier epochs, in the writer's transaction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from flowllm.core.types import NodeId, NodeStatus, item_id, item_index
from flowllm.storage.base import ItemKey, RunLease
from flowllm.storage.sql.engine import Connection
from flowllm.storage.sql.records import is_whole
from flowllm.storage.sql.rows import NodeRow, from_text, node_hash, to_text
from flowllm.storage.sql.statements import Unit
from flowllm.storage.sql.texts import NODE_TEXTS, read
from flowllm.storage.sql.totals import Totals

Found = tuple[int, NodeRow | None]
"""An item's number, and its row as it now stands, if it has one."""

_COLUMNS: Final = ", ".join(NodeRow._fields)
_THIS: Final = "run_id = :run AND node_id = :node"
_AT_PLACES: Final = (
    f"SELECT {_COLUMNS} FROM nodes WHERE run_id = :run AND parent = :parent AND place BETWEEN :first AND :last "
    "AND epoch < :epoch ORDER BY place"
)
_TAKE: Final = (
    f"UPDATE nodes SET epoch = :epoch, place = :new_place, row_hash = :new_hash, change_no = :new_change WHERE {_THIS}"
)
_ROW: Final = f"SELECT {_COLUMNS} FROM nodes WHERE {_THIS}"
_HIGHEST: Final = (
    "SELECT max(CAST(rtrim(substr(node_id, length(:parent) + 2), ']') AS BIGINT)) FROM nodes "
    "WHERE run_id = :run AND parent = :parent AND place IS NOT NULL"
)

# Rows of earlier epochs by content, made of a foreach's rows when the first of its items is missed at its place:
# so runs whose data did not move, and every write of an item, are spared an index. The table is private to this
# connection; a transaction that fails undoes what was done to it too.
_CREATE: Final = """
CREATE TEMPORARY TABLE IF NOT EXISTS earlier_items (
    foreach TEXT, content TEXT, place INTEGER, node_id TEXT, PRIMARY KEY (foreach, content, place, node_id)
) WITHOUT ROWID"""
_IS_GATHERED: Final = "SELECT 1 FROM temp.earlier_items WHERE foreach = :foreach AND content = ''"
_GATHER: Final = (
    "INSERT INTO temp.earlier_items VALUES (:foreach, '', -1, '')",
    """
INSERT INTO temp.earlier_items SELECT :foreach, content, place, node_id FROM nodes
WHERE run_id = :run AND parent = :parent AND place IS NOT NULL AND content <> '' AND epoch < :epoch""",
)
_NEXT: Final = """
SELECT place, node_id FROM temp.earlier_items WHERE foreach = :foreach AND content = :content
ORDER BY place, node_id LIMIT 1"""
_WITH_CONTENT: Final = (
    f"SELECT {_COLUMNS} FROM nodes WHERE run_id = :run AND parent = :parent AND content = :content "
    "AND place IS NOT NULL AND epoch < :epoch ORDER BY place, node_id LIMIT 1"
)
"""Where an index has them: one that is taken over is of an earlier epoch no more."""
_USED: Final = """
DELETE FROM temp.earlier_items
WHERE foreach = :foreach AND content = :content AND place = :place AND node_id = :node"""


def adopt(lease: RunLease, parent: NodeId, items: Sequence[ItemKey], numbers: Numbers) -> Unit:
    """See `Store.adopt`; the result is a list of `Found`, one an item. `numbers` is kept from call to call."""

    def action(connection: Connection) -> list[Found]:
        adoption = _Adoption(connection, lease, parent, numbers)
        found = adoption.all(items)
        adoption.totals.write()
        return found

    return Unit(leases=(lease,), action=action)


class _Adoption:
    """One call of `adopt` while it is carried out."""

    def __init__(self, connection: Connection, lease: RunLease, parent: NodeId, numbers: Numbers) -> None:
        self._connection = connection
        self._lease = lease
        self._parent = parent
        self._numbers = numbers
        self.totals = Totals(connection)
        self._these: dict[str, Any] = {
            "run": to_text(lease.run_id),
            "parent": to_text(parent),
            "epoch": lease.epoch,
            "foreach": f"{to_text(lease.run_id)}\n{lease.epoch}\n{to_text(parent)}",
        }

    def all(self, items: Sequence[ItemKey]) -> list[Found]:
        found: dict[int, Found] = {}
        for group in _runs_of_places(items):
            self._at_their_places(group, found)
        missed = [item for item in items if item.place not in found]
        if missed:
            self._elsewhere(missed, found)
            self._as_new(items, found)
        return [found[item.place] for item in items]

    def _at_their_places(self, items: Sequence[ItemKey], found: dict[int, Found]) -> None:
        """Take over the rows that hold the same content at the same place; `items` stand side by side."""
        between = {**self._these, "first": items[0].place, "last": items[-1].place}
        contents = {item.place: to_text(item.content) for item in items}
        rows = [NodeRow._make(row) for row in read(self._connection, _AT_PLACES, between, NODE_TEXTS)]
        taken: list[dict[str, Any]] = []
        for row in rows:
            place = row.place
            if place is not None and place not in found and contents[place] == row.content:
                now = self._taken(row, place)
                found[place] = (item_index(from_text(row.node_id)), now)
                taken.append(self._taking(now))
        self._connection.executemany(_TAKE, taken)

    def _elsewhere(self, items: Sequence[ItemKey], found: dict[int, Found]) -> None:
        """Take over the rows that hold the same content at another place."""
        if not self._connection.finds_contents:
            self._gather()
        for item in items:
            row = self._next_with(to_text(item.content))
            if row is not None:
                now = self._taken(row, item.place)
                self._connection.execute(_TAKE, self._taking(now))
                found[item.place] = (item_index(from_text(row.node_id)), now)

    def _gather(self) -> None:
        self._connection.execute(_CREATE)
        if not self._connection.execute(_IS_GATHERED, self._these).fetchone():
            for statement in _GATHER:
                self._connection.execute(statement, self._these)

    def _next_with(self, content: str) -> NodeRow | None:
        these = {**self._these, "content": content}
        if self._connection.finds_contents:
            rows = read(self._connection, _WITH_CONTENT, these, NODE_TEXTS) if content else ()
            return NodeRow._make(rows[0]) if rows else None
        while content and (entry := self._connection.execute(_NEXT, these).fetchone()) is not None:
            these |= {"place": entry[0], "node": entry[1]}
            self._connection.execute(_USED, these)
            row = NodeRow._make(read(self._connection, _ROW, these, NODE_TEXTS)[0])
            if row.epoch < self._lease.epoch:  # else it was found at its place since
                return row
        return None

    def _as_new(self, items: Sequence[ItemKey], found: dict[int, Found]) -> None:
        """Number the items that no row holds: those that can have their place first."""
        lease, parent, numbers = self._lease, self._parent, self._numbers
        homeless: list[int] = []
        named: list[int] = []
        for place in (item.place for item in items if item.place not in found):
            if numbers.taken(lease, parent, place) or not self._is_free(place):
                homeless.append(place)
            else:
                found[place] = (place, None)
                named.append(place)
        if homeless and not numbers.begun(lease, parent):
            highest = self._connection.execute(_HIGHEST, self._these).fetchone()[0]
            numbers.begin(lease, parent, [*named, -1 if highest is None else highest])
        for place in homeless:
            found[place] = (numbers.take(lease, parent), None)

    def _is_free(self, place: int) -> bool:
        """No row has that name; or one that has failed and that nothing has taken over, as when a row of the data was
        mended: the new item gets its name, and what may be within it is told from its own by the keys."""
        node = to_text(item_id(self._parent, place))
        held = read(self._connection, _ROW, {"run": self._these["run"], "node": node}, NODE_TEXTS)
        if not held:
            return True
        row = NodeRow._make(held[0])
        if row.status != NodeStatus.FAILED.value or row.epoch >= self._lease.epoch:
            return False
        self._connection.execute(_TAKE, self._taking(self._taken(row, place)))
        return True

    def _taking(self, row: NodeRow) -> dict[str, Any]:
        return {
            "run": self._these["run"],
            "node": row.node_id,
            "epoch": row.epoch,
            "new_place": row.place,
            "new_hash": row.row_hash,
            "new_change": self.totals.next_change(row.run_id),
        }

    def _taken(self, row: NodeRow, place: int) -> NodeRow:
        """The row in this epoch, with its hash; a damaged one gets one that matches nothing, so that it is found."""
        now = row._replace(place=place, epoch=self._lease.epoch)
        return now._replace(row_hash=node_hash(now) if is_whole(row) else "damaged")


def _runs_of_places(items: Sequence[ItemKey]) -> Iterator[list[ItemKey]]:
    """Items in groups that stand side by side; there usually is one."""
    group: list[ItemKey] = []
    for item in items:
        if group and item.place != group[-1].place + 1:
            yield group
            group = []
        group.append(item)
    if group:
        yield group


class Numbers:
    """Numbers for the new items of foreaches, each in one epoch.

    An item is named by its place. If that is the name of another, it gets a number from above all others, and from
    then on places up there are no names any more. So no number is given twice, though the rows are not written
    yet, as long as items come in the order of their places. Used by one thread.
    """

    def __init__(self) -> None:
        self._ranges: dict[tuple[str, int, str], tuple[int, int]] = {}
        """First number that was given apart from places, and the next one."""

    def taken(self, lease: RunLease, parent: NodeId, place: int) -> bool:
        """Whether that place may have been given as a number to another item."""
        first, _ = self._ranges.get(_key(lease, parent), (place + 1, 0))
        return place >= first

    def begun(self, lease: RunLease, parent: NodeId) -> bool:
        """Whether numbers were given apart from places."""
        return _key(lease, parent) in self._ranges

    def begin(self, lease: RunLease, parent: NodeId, above: Iterable[int]) -> None:
        """Give numbers from above these on: those of all rows, one of which is in the way, and the places of this
        call that became numbers. Places of earlier calls lie below the row that is in the way."""
        first = 1 + max(above)
        self._ranges[_key(lease, parent)] = (first, first)

    def take(self, lease: RunLease, parent: NodeId) -> int:
        """A number that nothing else has."""
        first, following = self._ranges[_key(lease, parent)]
        self._ranges[_key(lease, parent)] = (first, following + 1)
        return following

    def forget(self, lease: RunLease) -> None:
        """The epoch has ended."""
        self._ranges = {key: value for key, value in self._ranges.items() if key[0] != lease.run_id}


def _key(lease: RunLease, parent: NodeId) -> tuple[str, int, str]:
    return (lease.run_id, lease.epoch, parent)
