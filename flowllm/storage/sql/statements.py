"""The statements of the hot path. Each takes one row of rows.py, by position, and may be repeated without changing
anything; `write_rows` executes them and keeps the totals of runs."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, Final

from flowllm.core.records import dataclass
from flowllm.core.types import RunId, StepKind
from flowllm.storage.base import RunLease
from flowllm.storage.sql.engine import Connection
from flowllm.storage.sql.rows import (
    GAUGE_FIELDS,
    WAIT_FIELDS,
    AttemptRow,
    LearnedRow,
    MemoRow,
    NodeRow,
    RunningRow,
    RunRow,
)
from flowllm.storage.sql.texts import Texts
from flowllm.storage.sql.totals import CHARGED, NONE, Totals, figures


def _insert(table: str, fields: tuple[str, ...], then: str = "") -> str:
    return f"INSERT INTO {table} ({', '.join(fields)}) VALUES ({', '.join('?' * len(fields))}) {then}".strip()


def _upsert(table: str, fields: tuple[str, ...], key: str, *fixed: str) -> str:
    """Insert a row; one that is there already is written over, but for its key and what never changes (`fixed`): indexes
    of columns that are written are written too."""
    rest = (name for name in fields if name not in {*key.split(", "), *fixed})
    values = ", ".join(f"{name} = excluded.{name}" for name in rest)
    return _insert(table, fields, f"ON CONFLICT ({key}) DO UPDATE SET {values}")


INSERT_RUN: Final = _insert("runs", RunRow._fields)
INSERT_TAG: Final = _insert("tags", ("run_id", "tag"), "ON CONFLICT (run_id, tag) DO NOTHING")
BEGIN_ATTEMPT: Final = _insert("attempts", AttemptRow._fields, "ON CONFLICT (attempt_id) DO NOTHING")
END_ATTEMPT: Final = _upsert("attempts", AttemptRow._fields, "attempt_id", "run_id", "node_id", "process")
WRITE_MEMO: Final = _upsert("memo", (*MemoRow._fields, "text_id"), "key")
WRITE_NODE: Final = _upsert("nodes", (*NodeRow._fields, "change_no"), "run_id, node_id", "parent")
NOTE_RUNNING: Final = (
    f"INSERT INTO nodes ({', '.join(RunningRow._fields)}, change_no, seq, status, key, model, provider, cached, attempts, "
    "truncated, usage, queue_s, call_s) "
    f"VALUES ({', '.join('?' * len(RunningRow._fields))}, ?, 0, 'running', '', '', '', false, 0, false, '{{}}', 0, 0) "
    "ON CONFLICT (run_id, node_id) DO UPDATE SET "
    "status = 'running', key = '', error = NULL, output = excluded.output, content_hash = excluded.content_hash, "
    "row_hash = NULL, started_at = excluded.started_at, finished_at = NULL, epoch = excluded.epoch, waits = NULL, "
    "change_no = excluded.change_no"
)
NOTE_WAITS: Final = (
    "UPDATE nodes SET waits = ?, row_hash = NULL WHERE run_id = ? AND node_id = ? AND epoch = ? AND status = 'running'"
)
"""An item that a resume has taken over has a hash, also while it runs again."""
WRITE_WAIT: Final = _upsert("waits", WAIT_FIELDS, "run_id, node_id")
WRITE_GAUGE: Final = _upsert("gauges", GAUGE_FIELDS, "process, account, at")
FORGET_GAUGES: Final = "DELETE FROM gauges WHERE at < ?"
THIN_GAUGES: Final = (
    "DELETE FROM gauges WHERE at >= ? AND at < ? AND EXISTS (SELECT 1 FROM gauges AS earlier WHERE "
    "earlier.process = gauges.process AND earlier.account = gauges.account AND earlier.at < gauges.at "
    "AND earlier.at >= 30 * CAST(gauges.at / 30 AS INTEGER))"
)
"""Of each half minute keep the first one."""
WRITE_LEARNED: Final = _upsert("learned", LearnedRow._fields, "account, name")
EPOCH: Final = "SELECT epoch FROM runs WHERE run_id = ?"
EPOCH_OF: Final = "SELECT CASE WHEN ended_at IS NULL THEN epoch ELSE -epoch END FROM runs, processes WHERE run_id = ? AND process_id = ?"
"""The same for a process, negative if it was ended."""
HAS_ENDED: Final = "SELECT status <> 'sent' FROM attempts WHERE attempt_id = ?"

_AS_THEY_ARE: Final = (NOTE_WAITS, WRITE_WAIT, WRITE_LEARNED, WRITE_GAUGE, FORGET_GAUGES, THIN_GAUGES)
_FORGET_WAIT: Final = "DELETE FROM waits WHERE run_id = ? AND node_id = ?"
_ENDED: Final = frozenset({"succeeded", "failed", "skipped", "blocked"})
_OF_ATTEMPT: Final = itemgetter(*(AttemptRow._fields.index(name) for name in CHARGED))


def write_rows(connection: Connection, rows: Iterable[tuple[str, tuple[Any, ...]]], texts: Texts) -> None:
    """Write rows, each given behind its statement, in the transaction that is open: those of one statement after the
    other, as an attempt begins before it ends. Raises what the engine does, and DatabaseCorrupt."""
    by_statement: dict[str, list[tuple[Any, ...]]] = {}
    for statement, row in rows:
        by_statement.setdefault(statement, []).append(row)
    totals = Totals(connection)
    _write_attempts(connection, totals, by_statement.get(BEGIN_ATTEMPT, ()), by_statement.get(END_ATTEMPT, ()))
    nodes, answers = texts.write(connection, by_statement.get(WRITE_NODE, ()), by_statement.get(WRITE_MEMO, ()))
    connection.write(WRITE_MEMO, answers)
    _write_nodes(connection, totals, by_statement.get(NOTE_RUNNING, []), nodes)
    for statement in _AS_THEY_ARE:
        if statement in by_statement:
            connection.executemany(statement, by_statement[statement])
    totals.write()


def charge(row: tuple[Any, ...]) -> tuple[float, ...]:
    """What an attempt's row adds to the totals of its run."""
    return figures(_OF_ATTEMPT(row))


def _write_attempts(
    connection: Connection, totals: Totals, begun: Sequence[tuple[Any, ...]], ended: Sequence[tuple[Any, ...]]
) -> None:
    if not begun and not ended:
        return
    known = totals.attempts([row[0] for row in chain(begun, ended)])
    for row in begun:
        if row[0] not in known:
            known[row[0]] = charge(row)
            totals.attempt(row[1], NONE, known[row[0]])
    for row in ended:
        after = charge(row)
        totals.attempt(row[1], known.get(row[0], NONE), after)
        known[row[0]] = after
    connection.write(BEGIN_ATTEMPT, begun)
    connection.write(END_ATTEMPT, ended)


def _write_nodes(
    connection: Connection, totals: Totals, begun: list[tuple[Any, ...]], ended: list[tuple[Any, ...]]
) -> None:
    if not begun and not ended:
        return
    names: dict[str, list[str]] = {}
    for row in chain(begun, ended):
        names.setdefault(row[0], []).append(row[1])
    for run_id in sorted(names):  # in one order, as two processes may lock several
        totals.run(run_id)
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
        this = run_id, _ = row[:2]
        status = row[_STATUS]
        before = known.get(this)
        nodes.append((*row, totals.node(run_id, before and before[0], status, row[2])))
        known[this] = (status, 0, True)
        if status in _ENDED and totals.run(run_id).waits:
            over.append(this)
    connection.write(NOTE_RUNNING, notes)
    connection.write(WRITE_NODE, nodes)
    connection.executemany(_FORGET_WAIT, over)


_STATUS: Final = NodeRow._fields.index("status")
_NOTED_EPOCH: Final = RunningRow._fields.index("epoch")


_SAVED: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "begin_attempt": (BEGIN_ATTEMPT, AttemptRow._fields),
    "end_attempt": (END_ATTEMPT, AttemptRow._fields),
    "learned": (WRITE_LEARNED, LearnedRow._fields),
    "memo": (WRITE_MEMO, MemoRow._fields),
    "node": (WRITE_NODE, NodeRow._fields),
    "wait": (WRITE_WAIT, WAIT_FIELDS),
}
_NAMES: Final = {statement: (name, fields) for name, (statement, fields) in _SAVED.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """What is written wholly or not at all: rows by statement, under leases; or an action of its own.

    An action runs inside the transaction. It checks before it writes: a FlowLLMError that it raises is its
    caller's alone and must leave nothing written.
    """

    leases: tuple[RunLease, ...] = ()
    rows: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    action: Callable[[Connection], Any] | None = None
    opens: str = ""
    """The attempt that is sent once this is durable: refused where there would be no room for its result."""
    closes: str = ""
    """The attempt whose result this is."""
    always: bool = False
    """This action may go before results that the database could not take yet."""

    rides: bool = False
    """Nobody waits for it, and it may be lost: it is written with whatever is committed next."""
    apart: bool = False
    """In a transaction of its own: what it locks others wait for, and it waits for nothing else."""
    equal: str = ""
    """Its key: it is not written where another process has begun the same,"""
    looked: float = math.inf
    """or has stored an answer since then (monotonic seconds)."""
    removes: bool = False
    """It may remove what was written before."""

    @property
    def is_result(self) -> bool:
        """It is kept elsewhere where the database cannot take it."""
        return self.action is None and not self.opens and not self.rides

    @property
    def sums_up(self) -> bool:
        """It tells of all that a foreach or a graph within has carried out."""
        nodes = (NodeRow(*row) for statement, row in self.rows if statement == WRITE_NODE)
        return any(node.counts is not None or node.kind == StepKind.WORKFLOW for node in nodes)

    @property
    def size(self) -> int:
        """Characters of its texts, if it is what a request gave; else 0."""
        if not self.rows or self.rows[0][0] not in {END_ATTEMPT, WRITE_MEMO}:
            return 0
        return sum([len(value) for _, row in self.rows for value in row if value.__class__ is str])


def packed(unit: Unit, works_as: Callable[[RunId], int | None] = lambda _: None) -> bytes:
    """The leases and rows of a unit, and as which process it worked on runs that others have. Raises ValueError for a value that no
    database holds."""
    rows = []
    for statement, row in unit.rows:
        name, fields = _NAMES[statement]
        rows.append([name, dict(zip(fields, row, strict=True))])
    fences = [[lease.run_id, lease.epoch, works_as(lease.run_id)] for lease in unit.leases]
    content = {"fences": fences, "rows": rows}
    try:
        return zlib.compress(json.dumps(content, separators=(",", ":")).encode(), 1)
    except TypeError as error:
        raise ValueError(f"The database cannot hold a value: {error}") from error


def unpacked(payload: bytes) -> tuple[Unit, dict[RunId, int]]:
    """The reverse of `packed`: also for what an older version wrote, which had fewer columns and no workers."""
    content = json.loads(zlib.decompress(payload))
    fences = [(RunId(run_id), *rest) for run_id, *rest in content["fences"]]
    leases = tuple(RunLease(run_id=run_id, epoch=epoch) for run_id, epoch, *_ in fences)
    worked = {run_id: rest[0] for run_id, _, *rest in fences if rest and rest[0] is not None}
    return Unit(leases=leases, rows=tuple(_rows(content["rows"]))), worked


def without_leases(unit: Unit) -> Unit:
    """What of a result outlives its run: the answers for equal requests."""
    return Unit(rows=tuple(row for row in unit.rows if row[0] == WRITE_MEMO))


def _rows(saved: list[tuple[str, dict[str, Any]]]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    for name, values in saved:
        if name == "rate":  # of a version that kept rates alone: it is learned again
            continue
        statement, fields = _SAVED[name]
        yield statement, tuple(values.get(field) for field in fields)
