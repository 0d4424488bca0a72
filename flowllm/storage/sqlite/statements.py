"""The statements of the hot path. Each takes one row of rows.py, by position, and may be repeated without changing
anything; `write_rows` executes them and keeps the totals of runs."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from itertools import chain
from operator import itemgetter
from typing import Any, Final

from flowllm.storage.sqlite.rows import (
    GAUGE_FIELDS,
    WAIT_FIELDS,
    AttemptRow,
    MemoRow,
    NodeRow,
    RateRow,
    RunningRow,
    RunRow,
)
from flowllm.storage.sqlite.totals import CHARGED, NONE, Totals, figures


def _insert(table: str, fields: tuple[str, ...], then: str = "") -> str:
    return f"INSERT INTO {table} ({', '.join(fields)}) VALUES ({', '.join('?' * len(fields))}) {then}".strip()


def _upsert(table: str, fields: tuple[str, ...], key: str, *fixed: str) -> str:
    """Insert a row; one that is there already is written over, but for its key and what never changes (`fixed`): indexes
    of columns that are written are written too."""
    rest = (name for name in fields if name not in {*key.split(", "), *fixed})
    values = ", ".join(f"{name} = excluded.{name}" for name in rest)
    return _insert(table, fields, f"ON CONFLICT ({key}) DO UPDATE SET {values}")


INSERT_RUN: Final = _insert("runs", RunRow._fields)
BEGIN_ATTEMPT: Final = _insert("attempts", AttemptRow._fields, "ON CONFLICT (attempt_id) DO NOTHING")
END_ATTEMPT: Final = _upsert("attempts", AttemptRow._fields, "attempt_id", "run_id", "node_id")
WRITE_MEMO: Final = _upsert("memo", MemoRow._fields, "key")
WRITE_NODE: Final = _upsert("nodes", (*NodeRow._fields, "change_no"), "run_id, node_id", "parent")
NOTE_RUNNING: Final = (
    f"INSERT INTO nodes ({', '.join(RunningRow._fields)}, change_no, seq, status, key, model, provider, cached, attempts, "
    "truncated, usage, queue_s, call_s, parts, output) "
    f"VALUES ({', '.join('?' * len(RunningRow._fields))}, ?, 0, 'running', '', '', '', 0, 0, 0, '{{}}', 0, 0, '{{}}', 'null') "
    "ON CONFLICT (run_id, node_id) DO UPDATE SET "
    "status = 'running', key = '', error = NULL, output = 'null', content_hash = excluded.content_hash, "
    "row_hash = NULL, started_at = excluded.started_at, finished_at = NULL, epoch = excluded.epoch, "
    "change_no = excluded.change_no"
)
WRITE_WAIT: Final = _upsert("waits", WAIT_FIELDS, "run_id, node_id")
WRITE_GAUGE: Final = f"INSERT OR REPLACE INTO gauges VALUES ({', '.join('?' * len(GAUGE_FIELDS))})"
FORGET_GAUGES: Final = "DELETE FROM gauges WHERE at < ?"
WRITE_RATE: Final = _upsert("rates", RateRow._fields, "account")
EPOCH: Final = "SELECT epoch FROM runs WHERE run_id = ?"
HAS_ENDED: Final = "SELECT status <> 'sent' FROM attempts WHERE attempt_id = ?"

_AS_THEY_ARE: Final = (WRITE_MEMO, WRITE_WAIT, WRITE_RATE, WRITE_GAUGE, FORGET_GAUGES)
_FORGET_WAIT: Final = "DELETE FROM waits WHERE run_id = ? AND node_id = ?"
_ENDED: Final = frozenset({"succeeded", "failed", "skipped", "blocked"})
_OF_ATTEMPT: Final = itemgetter(*(AttemptRow._fields.index(name) for name in CHARGED))


def write_rows(connection: sqlite3.Connection, rows: Iterable[tuple[str, tuple[Any, ...]]]) -> None:
    """Write rows, each given behind its statement, in the transaction that is open: those of one statement after the
    other, as an attempt begins before it ends. Raises sqlite3.Error, DatabaseCorrupt."""
    by_statement: dict[str, list[tuple[Any, ...]]] = {}
    for statement, row in rows:
        by_statement.setdefault(statement, []).append(row)
    totals = Totals(connection)
    _write_attempts(connection, totals, by_statement.get(BEGIN_ATTEMPT, ()), by_statement.get(END_ATTEMPT, ()))
    _write_nodes(connection, totals, by_statement.get(NOTE_RUNNING, []), by_statement.get(WRITE_NODE, []))
    for statement in _AS_THEY_ARE:
        if statement in by_statement:
            connection.executemany(statement, by_statement[statement])
    totals.write()


def charge(row: tuple[Any, ...]) -> tuple[float, ...]:
    """What an attempt's row adds to the totals of its run."""
    return figures(_OF_ATTEMPT(row))


def _write_attempts(
    connection: sqlite3.Connection, totals: Totals, begun: Iterable[tuple[Any, ...]], ended: Iterable[tuple[Any, ...]]
) -> None:
    cursor = connection.cursor()
    for row in begun:
        if cursor.execute(BEGIN_ATTEMPT, row).rowcount > 0:
            totals.attempt(row[1], NONE, charge(row))
    if ended:
        known = totals.attempts([row[0] for row in ended])
        for row in ended:
            after = charge(row)
            totals.attempt(row[1], known.get(row[0], NONE), after)
            known[row[0]] = after
        cursor.executemany(END_ATTEMPT, ended)


def _write_nodes(
    connection: sqlite3.Connection, totals: Totals, begun: list[tuple[Any, ...]], ended: list[tuple[Any, ...]]
) -> None:
    if not begun and not ended:
        return
    names: dict[str, list[str]] = {}
    for row in chain(begun, ended):
        names.setdefault(row[0], []).append(row[1])
    known = totals.nodes(names)
    notes = []
    for row in begun:
        run_id, node_id, epoch = row[0], row[1], row[_NOTED_EPOCH]
        status, of_epoch, has_no_counts = known.get((run_id, node_id), (None, -1, True))
        if status in {None, "running", "cancelled"} and of_epoch < epoch and has_no_counts:
            notes.append((*row, totals.node(run_id, status, "running", 0)))
            known[run_id, node_id] = ("running", epoch, True)
    nodes, over = [], []
    for row in ended:
        this = run_id, node_id = row[0], row[1]
        status = row[_STATUS]
        nodes.append((*row, totals.node(run_id, known[this][0] if this in known else None, status, row[2])))
        known[this] = (status, 0, True)
        if status in _ENDED and totals.run(run_id).waits:
            over.append(this)
    connection.executemany(NOTE_RUNNING, notes)
    connection.executemany(WRITE_NODE, nodes)
    connection.executemany(_FORGET_WAIT, over)


_STATUS: Final = NodeRow._fields.index("status")
_NOTED_EPOCH: Final = RunningRow._fields.index("epoch")
