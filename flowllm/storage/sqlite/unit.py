"""What the writer takes at once, and its form where it is kept beside the database."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from flowllm.core.types import RunId, StepKind
from flowllm.storage.base import RunLease
from flowllm.storage.sqlite import statements
from flowllm.storage.sqlite.rows import WAIT_FIELDS, AttemptRow, MemoRow, NodeRow, RateRow

_SAVED: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "begin_attempt": (statements.BEGIN_ATTEMPT, AttemptRow._fields),
    "end_attempt": (statements.END_ATTEMPT, AttemptRow._fields),
    "memo": (statements.WRITE_MEMO, MemoRow._fields),
    "node": (statements.WRITE_NODE, NodeRow._fields),
    "rate": (statements.WRITE_RATE, RateRow._fields),
    "wait": (statements.WRITE_WAIT, WAIT_FIELDS),
}
_NAMES: Final = {statement: (name, fields) for name, (statement, fields) in _SAVED.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """What is written wholly or not at all: rows by statement, under fences; or an action of its own.

    An action runs inside the transaction. It checks before it writes: a FlowLLMError that it raises is its
    caller's alone and must leave nothing written.
    """

    fences: tuple[RunLease, ...] = ()
    rows: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    action: Callable[[sqlite3.Connection], Any] | None = None
    opens: str = ""
    """The attempt that is sent once this is durable: refused where there would be no room for its result."""
    closes: str = ""
    """The attempt whose result this is."""
    always: bool = False
    """This action may go before results that the database could not take yet."""

    rides: bool = False
    """Nobody waits for it, and it may be lost: it is written with whatever is committed next."""
    removes: bool = False
    """It may remove what was written before."""

    @property
    def is_result(self) -> bool:
        """It is kept elsewhere where the database cannot take it."""
        return self.action is None and not self.opens and not self.rides

    @property
    def sums_up(self) -> bool:
        """It tells of all that a foreach or a graph within has carried out."""
        nodes = (NodeRow(*row) for statement, row in self.rows if statement == statements.WRITE_NODE)
        return any(node.counts is not None or node.kind == StepKind.WORKFLOW for node in nodes)

    @property
    def size(self) -> int:
        """Characters of its texts."""
        return sum(len(value) for _, row in self.rows for value in row if isinstance(value, str))


def packed(unit: Unit) -> bytes:
    """The fences and rows of a unit. Raises ValueError for a value that no database holds."""
    rows = []
    for statement, row in unit.rows:
        name, fields = _NAMES[statement]
        rows.append([name, dict(zip(fields, row, strict=True))])
    content = {"fences": [[fence.run_id, fence.epoch] for fence in unit.fences], "rows": rows}
    try:
        return zlib.compress(json.dumps(content, separators=(",", ":")).encode(), 1)
    except TypeError as error:
        raise ValueError(f"The database cannot hold a value: {error}") from error


def unpacked(payload: bytes) -> Unit:
    """The reverse of `packed`: also for columns of an older version, which had fewer."""
    content = json.loads(zlib.decompress(payload))
    fences = tuple(RunLease(run_id=RunId(run_id), epoch=epoch) for run_id, epoch in content["fences"])
    return Unit(fences=fences, rows=tuple(_rows(content["rows"])))


def without_fences(unit: Unit) -> Unit:
    """What of a result outlives its run: the answers for equal requests."""
    return Unit(rows=tuple(row for row in unit.rows if row[0] == statements.WRITE_MEMO))


def _rows(saved: list[tuple[str, dict[str, Any]]]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    for name, values in saved:
        statement, fields = _SAVED[name]
        yield statement, tuple(values.get(field) for field in fields)
