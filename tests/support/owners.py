"""What other processes do, or do no more, to those that have runs."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from flowllm.storage.sql.engine import Engine
from flowllm.storage.sqlite.engine import at


def orphan(database: Path | Engine, run_id: str) -> None:
    """Nobody has that run any more, as if its process were dead."""
    _execute(database, "UPDATE runs SET process = NULL WHERE run_id = ?", run_id)


def silence(database: Path | Engine) -> None:
    """Nothing was heard of any process for an hour."""
    _execute(database, "UPDATE processes SET lease_until = lease_until - 3600")


def end(database: Path | Engine) -> None:
    """Others have taken something from all processes that there are: they are to do nothing more."""
    _execute(database, "UPDATE processes SET ended_at = lease_until WHERE ended_at IS NULL")


def _execute(database: Path | Engine, statement: str, *values: object) -> None:
    with closing((at(database) if isinstance(database, Path) else database).writer()) as connection:
        connection.begin()
        connection.execute(statement, values)
        connection.commit()
