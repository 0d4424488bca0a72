"""What other processes do, or do no more, to those that have runs."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

from flowllm.storage.sql.engine import Engine
from flowllm.storage.sqlite.engine import at


def orphan(database: Path | Engine, run_id: str) -> None:
    """Nobody has that run any more, as if its process were dead."""
    execute(database, "UPDATE runs SET process = NULL WHERE run_id = ?", run_id)


def silence(database: Path | Engine) -> None:
    """Nothing was heard of any process for an hour."""
    execute(database, "UPDATE processes SET lease_until = lease_until - 3600")


def end(database: Path | Engine) -> None:
    """Others have taken something from all processes that there are: they are to do nothing more."""
    execute(database, "UPDATE processes SET ended_at = lease_until WHERE ended_at IS NULL")


def execute(database: Path | Engine, statement: str, *values: object) -> list[Any]:
    with closing((at(database) if isinstance(database, Path) else database).writer()) as connection:
        connection.begin()
        found = connection.execute(statement, values).fetchall()
        connection.commit()
        return found


class Stranger:
    """Another process at a database, on a machine of which nothing is known."""

    def __init__(self, database: Path | Engine, token: str = "stranger") -> None:
        self._database = database
        execute(
            database,
            "INSERT INTO processes (token, pid, host, machine, started, since, lease_until) "
            "VALUES (?, 1, 'there', 'of another', '', 0, database_now() + 60)",
            token,
        )
        self.number = execute(database, "SELECT process_id FROM processes WHERE token = ?", token)[0][0]

    def sends(self, key: str, attempt: str = "theirs") -> None:
        """It has a request of that key on its way."""
        names = "attempt_id, run_id, node_id, key, number, provider, model, status, started_at, usage, process"
        values = "?, 'r9', 'n', ?, 1, 'p', 'm', 'sent', 0, '{}', ?"
        execute(self._database, f"INSERT INTO attempts ({names}) VALUES ({values})", attempt, key, self.number)

    def ends(self, attempt: str = "theirs") -> None:
        """That is over."""
        execute(self._database, "UPDATE attempts SET status = 'failed' WHERE attempt_id = ?", attempt)

    def dies(self) -> None:
        """Nothing is heard of it any more."""
        execute(self._database, "UPDATE processes SET lease_until = 0 WHERE process_id = ?", self.number)
