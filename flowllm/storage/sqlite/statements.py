"""The statements of the hot path, written in SQLAlchemy Core and compiled once.

Each takes one row of rows.py, by position. All of them may be repeated without changing anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import bindparam, literal_column, select
from sqlalchemy.dialects import sqlite

from flowllm.storage.sqlite import tables
from flowllm.storage.sqlite.rows import AttemptRow, MemoRow, NodeRow, RateRow, RunRow

if TYPE_CHECKING:
    from sqlalchemy import ClauseElement, Table
    from sqlalchemy.dialects.sqlite import Insert

DIALECT: Final = sqlite.dialect(paramstyle="qmark")
_NAMED: Final = sqlite.dialect(paramstyle="named")


def named(statement: ClauseElement) -> str:
    """The SQL text of a statement whose parameters are given by name."""
    return str(statement.compile(dialect=_NAMED))


def compiled(statement: ClauseElement, columns: tuple[str, ...] | None = None) -> str:
    """The SQL text of a statement, its parameters as question marks in the order of `columns`."""
    result = statement.compile(dialect=DIALECT, column_keys=list(columns) if columns else None)
    order = tuple(getattr(result, "positiontup", None) or ())
    if columns is not None and order != columns:
        raise AssertionError(f"parameters stand in another order: {order}, not {columns}")
    return str(result)


def _insert(
    table: Table, fields: tuple[str, ...], fixed: tuple[str, ...] = ()
) -> tuple[Insert, dict[str, Any], list[Any]]:
    statement = sqlite.insert(table)
    unique = [column for column in table.columns if column.unique] or list(table.primary_key.columns)
    names = {column.name for column in unique} | set(fixed)
    values = {name: statement.excluded[name] for name in fields if name not in names}
    return statement, values, unique


def insert(table: Table, fields: tuple[str, ...]) -> str:
    """Insert a row; one that is there already is an error."""
    return compiled(sqlite.insert(table), fields)


def insert_once(table: Table, fields: tuple[str, ...]) -> str:
    """Insert a row; one that is there already stays as it is."""
    statement, _, unique = _insert(table, fields)
    return compiled(statement.on_conflict_do_nothing(index_elements=unique), fields)


def upsert(table: Table, fields: tuple[str, ...], *, fixed: tuple[str, ...] = ()) -> str:
    """Insert a row; one that is there already is written over, but for what never changes (`fixed`): indexes of
    columns that are written are written too."""
    statement, values, unique = _insert(table, fields, fixed)
    return compiled(statement.on_conflict_do_update(index_elements=unique, set_=values), fields)


INSERT_RUN: Final = insert(tables.runs, RunRow._fields)
BEGIN_ATTEMPT: Final = insert_once(tables.attempts, AttemptRow._fields)
END_ATTEMPT: Final = upsert(tables.attempts, AttemptRow._fields, fixed=("run_id", "node_id"))
WRITE_MEMO: Final = upsert(tables.memo, MemoRow._fields)
CHANGE: Final = "(SELECT coalesce(max(changes), 0) + 1 FROM totals WHERE run_id = {run})"
"""The number of a change of a node of that run; a trigger counts it."""
WRITE_NODE: Final = (
    f"INSERT INTO nodes ({', '.join(NodeRow._fields)}, change_no) "  # noqa: S608
    f"SELECT *, {CHANGE.format(run='new.run_id')} FROM (SELECT {', '.join(f'? AS {name}' for name in NodeRow._fields)}) AS new WHERE true "
    "ON CONFLICT (run_id, node_id) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in (*NodeRow._fields[2:], "change_no") if name != "parent")
)
_BEGUN: Final = ("run_id", "node_id", "kind", "started_at", "parent", "place", "epoch", "content", "content_hash")
NOTE_RUNNING: Final = (
    f"INSERT INTO nodes ({', '.join(_BEGUN)}, seq, status, key, model, provider, cached, attempts, truncated, usage, "  # noqa: S608
    "queue_s, call_s, parts, output, change_no) "
    f"SELECT *, 0, 'running', '', '', '', 0, 0, 0, '{{}}', 0, 0, '{{}}', 'null', {CHANGE.format(run='new.run_id')} "
    f"FROM (SELECT {', '.join(f'? AS {name}' for name in _BEGUN)}) AS new WHERE true "
    "ON CONFLICT (run_id, node_id) DO UPDATE SET "
    "status = 'running', key = '', error = NULL, output = 'null', content_hash = excluded.content_hash, "
    "row_hash = NULL, started_at = excluded.started_at, finished_at = NULL, epoch = excluded.epoch, "
    "change_no = excluded.change_no "
    "WHERE nodes.status IN ('running', 'cancelled') AND nodes.epoch < excluded.epoch AND nodes.counts IS NULL"
)
WRITE_WAIT: Final = (
    "INSERT INTO waits (run_id, node_id, kind, token, due_at, payload, value) VALUES (?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (run_id, node_id) DO UPDATE SET kind = excluded.kind, token = excluded.token, "
    "due_at = excluded.due_at, payload = excluded.payload, value = excluded.value"
)
WRITE_GAUGE: Final = "INSERT OR REPLACE INTO gauges VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
FORGET_GAUGES: Final = "DELETE FROM gauges WHERE at < ?"
WRITE_RATE: Final = upsert(tables.rates, RateRow._fields)
EPOCH: Final = compiled(select(tables.runs.c.epoch).where(tables.runs.c.run_id == bindparam("run_id")), ("run_id",))
HAS_ENDED: Final = compiled(
    select(tables.attempts.c.status != literal_column("'sent'")).where(
        tables.attempts.c.attempt_id == bindparam("attempt_id")
    ),
    ("attempt_id",),
)

ORDER: Final = (
    NOTE_RUNNING,
    BEGIN_ATTEMPT,
    END_ATTEMPT,
    WRITE_MEMO,
    WRITE_NODE,
    WRITE_WAIT,
    WRITE_RATE,
    WRITE_GAUGE,
    FORGET_GAUGES,
)
"""In a group, all rows of one statement go before those of the next; an attempt begins before it ends."""
