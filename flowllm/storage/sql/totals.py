"""Sums over the rows of a run, and the numbers of its changes: who writes rows adds up what they change, and each
transaction writes that once.

They stand in a table of their own, one row a run: a row of `runs` holds texts of any length, which SQLite would
write anew with every result.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from operator import add, sub
from typing import Any, Final

from flowllm.core.errors import DatabaseCorrupt
from flowllm.core.types import USAGE_FIELDS
from flowllm.storage.sql.engine import Connection

STATUSES: Final = ("running", "waiting", "succeeded", "failed", "skipped", "blocked", "cancelled")
"""Columns that count nodes, items too."""
FIGURES: Final = (
    "requests",
    *USAGE_FIELDS,
    *(f"no_{name}" for name in USAGE_FIELDS),
    "known_usd",
    "unpriced",
    "unknown",
    "reserved_tokens",
    "reserved_usd",
    "unreserved",
)
"""Columns that sum up what requests took."""
NONE: Final = (0.0,) * len(FIGURES)
CHARGED: Final = ("model", "status", "usage", "cost_usd", "reserved_tokens", "reserved_usd")
"""What of an attempt says what it adds to those."""

_ADDED: Final = ", ".join(f"{name} = {name} + ?" for name in (*STATUSES, *FIGURES))
_UPDATE: Final = f"UPDATE totals SET changes = ?, last_seq = ?, {_ADDED} WHERE run_id = ?"
_NODES: Final = "SELECT node_id, status, epoch, counts IS NULL FROM nodes WHERE run_id = ? AND node_id IN (SELECT value FROM json_each(?))"
_ADD: Final = f"UPDATE totals SET {', '.join(f'{name} = {name} + ?' for name in FIGURES)} WHERE run_id = ?"
_LAST: Final = "SELECT changes, last_seq, EXISTS (SELECT 1 FROM waits WHERE waits.run_id = totals.run_id) FROM totals WHERE run_id = ?"
"""Locked: who gives a run's changes their numbers does so alone until they are committed, so that they are seen in their order."""
_ATTEMPTS: Final = (
    f"SELECT attempt_id, {', '.join(CHARGED)} FROM attempts WHERE attempt_id IN (SELECT value FROM json_each(?))"
)


@lru_cache(maxsize=1024)
def figures(attempt: tuple[Any, ...]) -> tuple[float, ...]:
    """What an attempt, given as a row of CHARGED, adds to each of FIGURES. Raises DatabaseCorrupt for a usage that
    cannot be read."""
    model, status, usage, cost_usd, reserved_tokens, reserved_usd = attempt
    if not model or status == "not_sent":  # work of a step's own is no request
        return NONE
    try:
        reported = json.loads(usage)
        if isinstance(reported, list):  # else it is a row of before revision 0009
            reported = dict(zip(USAGE_FIELDS, reported, strict=True))
        counts = [reported.get(name) for name in USAGE_FIELDS]
        counted = None if counts[0] is None or counts[1] is None else counts[0] + counts[1]
        unseen = counted == 0 and status not in {"succeeded", "failed"}
        in_doubt = counted is None or unseen
        cost = None if unseen else 0.0 if status == "failed" and counted == 0 and cost_usd is None else cost_usd
        open_ended = in_doubt and cost is None
        return (
            1,
            *(count or 0 for count in counts),
            *(unseen or count is None for count in counts),
            cost or 0.0,
            not in_doubt and cost is None,
            in_doubt,
            max(0, reserved_tokens - ((counts[0] or 0) + (counts[1] or 0))) if in_doubt else 0,
            (reserved_usd or 0.0) if open_ended else 0.0,
            open_ended and reserved_usd is None,
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise DatabaseCorrupt(
            f"The usage of a request cannot be read from the database, malformed JSON: {error}"
        ) from error


def summed(rows: Iterable[tuple[Any, ...]]) -> dict[str, float]:
    """The figures of attempts, given as rows of CHARGED, added up."""
    found: Iterable[float] = NONE
    for row in rows:
        found = tuple(map(add, found, figures(tuple(row))))
    return dict(zip(FIGURES, found, strict=True))


class _Run:
    """What changes of one run."""

    __slots__ = ("changes", "figures", "last_seq", "numbered", "statuses", "waits")

    def __init__(self) -> None:
        self.figures = NONE
        self.numbered = False
        """Its changes are numbered: it is locked."""
        self.changes = self.last_seq = 0
        self.waits: bool | int = False

    def number(self, connection: Connection, run_id: str) -> None:
        """Before its first change of a node."""
        found = connection.execute(_LAST + connection.for_update, (run_id,)).fetchone()
        self.changes, self.last_seq, self.waits = found or (0, 0, False)
        self.statuses = dict.fromkeys(STATUSES, 0)
        self.numbered = True


class Totals:
    """What one transaction changes in the totals of runs; texts are as they stand in rows."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._runs: dict[str, _Run] = {}

    def run(self, run_id: str) -> _Run:
        """What changes of that run, by changes of nodes too."""
        found = self._runs.get(run_id) or self._runs.setdefault(run_id, _Run())
        if not found.numbered:
            found.number(self._connection, run_id)
        return found

    def next_change(self, run_id: str) -> int:
        """The number of one more change of a node."""
        run = self.run(run_id)
        run.changes += 1
        return run.changes

    def node(self, run_id: str, before: str | None, after: str, seq: int) -> int:
        """A node's status; the number of this change."""
        run = self.run(run_id)
        if before != after:
            if before in run.statuses:  # else there was none, or it was damaged
                run.statuses[before] -= 1
            run.statuses[after] += 1
        run.last_seq = max(run.last_seq, seq)
        run.changes += 1
        return run.changes

    def attempt(self, run_id: str, before: tuple[float, ...], after: tuple[float, ...]) -> None:
        """What an attempt adds now in place of what it added."""
        if before is not after:
            run = self._runs.get(run_id) or self._runs.setdefault(run_id, _Run())
            now = map(add, run.figures, after)
            run.figures = tuple(now if before is NONE else map(sub, now, before))

    def nodes(self, node_ids: Mapping[str, list[str]]) -> dict[tuple[str, str], tuple[str, int, int]]:
        """Status, epoch and "has no counts" of nodes that are on record, by run and node; given by run."""
        return {
            (run_id, node_id): state
            for run_id, names in node_ids.items()
            for node_id, *state in self._connection.execute(_NODES, (run_id, json.dumps(names)))
        }

    def attempts(self, attempt_ids: list[str]) -> dict[str, tuple[float, ...]]:
        """What attempts that are on record add."""
        return {row[0]: figures(row[1:]) for row in self._connection.execute(_ATTEMPTS, (json.dumps(attempt_ids),))}

    def write(self) -> None:
        """Put it into the database; the rows themselves must be there."""
        self._connection.executemany(
            _UPDATE,
            [
                (run.changes, run.last_seq, *run.statuses.values(), *run.figures, run_id)
                for run_id, run in self._runs.items()
                if run.numbered
            ],
        )
        self._connection.executemany(
            _ADD, [(*run.figures, run_id) for run_id, run in self._runs.items() if not run.numbered]
        )
        self._runs = {}
