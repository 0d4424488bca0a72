"""An SQLite file as the rest of storage/ sees it."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from flowllm.core.errors import DatabaseCorrupt, StorageFailed, StoreError
from flowllm.core.records import dataclass
from flowllm.storage.sqlite import faults
from flowllm.storage.sqlite.connection import (
    BUSY_TIMEOUT,
    SqliteConnection,
    compact,
    connect,
    connect_writer,
    reading_mode,
)
from flowllm.storage.sqlite.watch import Loss, Watch, rescue

_ERRORS: Final = (sqlite3.Error, OverflowError)


@dataclass(frozen=True, slots=True)
class SqliteEngine:
    """The database in one file, which exists and is up to date."""

    path: Path
    busy_timeout: float = BUSY_TIMEOUT
    place: Path | None = None
    """The same, absolute, since a step may change the working directory."""

    @property
    def is_file(self) -> bool:
        """Yes."""
        return True

    @property
    def name(self) -> str:
        """The path as it was given."""
        return str(self.path)

    @property
    def home(self) -> Path:
        """The file."""
        return self.place or self.path

    @property
    def errors(self) -> tuple[type[BaseException], ...]:
        """What sqlite3 raises."""
        return _ERRORS

    def writer(self) -> SqliteConnection:
        """Raises sqlite3.Error."""
        return connect_writer(self.home, busy_timeout=self.busy_timeout)

    def reader(self) -> SqliteConnection:
        """One that cannot write. Raises sqlite3.Error."""
        connection = connect(self.home, mode=reading_mode(self.home), busy_timeout=self.busy_timeout)
        connection.execute("PRAGMA query_only=ON")
        return connection

    def watch(self) -> Watch:
        """Of its files."""
        return Watch(self.home)

    def rescued(self, connection: SqliteConnection, loss: Loss) -> SqliteEngine:
        """Raises sqlite3.Error."""
        try:
            return at(rescue(connection, self.home, loss), self.busy_timeout)
        except (OSError, DatabaseCorrupt) as error:
            raise sqlite3.OperationalError(f"{error}") from error

    def explain(self, error: BaseException) -> Exception:
        """StorageFailed, DatabaseCorrupt, or ValueError."""
        return faults.explain(error, self.path)

    def concerns_data(self, error: BaseException) -> bool:
        """Whether the values of one write are to blame."""
        return faults.concerns_data(error)

    def worth_one_by_one(self, error: BaseException) -> bool:
        """Whether some writes of a group may go through alone."""
        return faults.worth_one_by_one(error)

    def passes(self, error: BaseException) -> bool:  # noqa: ARG002 - SQLite itself has waited
        """Nothing does."""
        return False

    def afresh(self) -> None:
        """Nothing is kept of what was tried."""

    def settled(self, connection: object) -> bool:  # noqa: ARG002 - what is not heard of was not
        """Never."""
        return False

    def gone(self) -> StoreError | None:
        """Where the file is no longer there."""
        if self.home.exists():
            return None
        return StorageFailed(
            f"the database {self.path} is gone",
            hint="one in memory lasts as long as its FlowLLM is open: name a file to read results afterwards",
        )

    def damaged(self, what: str) -> StoreError:
        """A part of the file is not as it was written."""
        return DatabaseCorrupt(f"The database {self.path} is damaged: {what}.", hint=faults.RESTORE)

    def compact(self) -> int | None:
        """Write the file anew."""
        return compact(self.home)


def at(path: Path, busy_timeout: float = BUSY_TIMEOUT) -> SqliteEngine:
    """The database at a path, which may be relative to the working directory of now."""
    return SqliteEngine(path, busy_timeout, path.absolute())
