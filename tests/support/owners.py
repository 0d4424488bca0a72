"""What other processes do, or do no more, to those that have runs."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path


def orphan(database: Path, run_id: str) -> None:
    """Nobody has that run any more, as if its process were dead."""
    _execute(database, "UPDATE runs SET process = NULL WHERE run_id = ?", run_id)


def silence(database: Path) -> None:
    """Nothing was heard of any process for an hour."""
    _execute(database, "UPDATE processes SET lease_until = lease_until - 3600")


def end(database: Path) -> None:
    """Others have taken something from all processes that there are: they are to do nothing more."""
    _execute(database, "UPDATE processes SET ended_at = lease_until WHERE ended_at IS NULL")


def _execute(database: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(database, timeout=60)) as connection:
        connection.execute(statement, values)
        connection.commit()
