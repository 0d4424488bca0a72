"""Which schema a database file has, found out without changing a byte of it."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from flowllm.core.errors import DatabaseCorrupt, DatabaseTooNew, StorageFailed, UsageError
from flowllm.storage.sqlite.connection import APPLICATION_ID, BUSY_TIMEOUT, RETRY, connect, decode, peeking_mode
from flowllm.storage.sqlite.faults import RESTORE, code_of, explain

HEAD: Final = "0006"
"""The revision that this program reads and writes."""
REVISIONS: Final = ("0001", "0002", "0003", "0004", "0005", HEAD)
"""All revisions that this program knows, oldest first."""
LOOKED_THROUGH: Final = 8 * 2**20
"""Bytes of a database up to which all of it is looked through whenever it is opened: a few hundredths of a second."""
MAGIC: Final = b"SQLite format 3\0"


class SchemaState(StrEnum):
    """How a database's schema relates to this program's."""

    MISSING = "missing"  # no file yet, or nothing in it
    CURRENT = "current"  # just right
    OLDER = "older"  # to be upgraded
    NEWER = "newer"  # written by a newer flowllm


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaStatus:
    """What `flowllm db status` shows."""

    path: Path
    current: str | None
    """The database's revision, None if it is missing."""
    head: str
    """This program's revision."""
    state: SchemaState


def inspect(path: Path, *, busy_timeout: float = BUSY_TIMEOUT) -> SchemaStatus:
    """The schema of the file at `path`; waits for so many seconds where another process has it locked.

    Raises DatabaseCorrupt if it is no SQLite database, UsageError if it is another program's, StorageFailed if
    it cannot be read.
    """
    deadline = time.monotonic() + busy_timeout
    looked_twice = False
    while True:
        if _is_empty(path):
            return _status(path, None)
        mode = peeking_mode(path)
        try:
            return _status(path, _peek(path, mode))
        except sqlite3.Error as error:
            waits = code_of(error) == sqlite3.SQLITE_BUSY and time.monotonic() < deadline
            # else: somebody may have opened it while it was read as a file that nobody has open
            if not waits and mode == peeking_mode(path):
                raise explain(error, path) from error
        except UnicodeDecodeError as error:  # the driver's words about a schema that is no text any more
            raise DatabaseCorrupt(f"The schema of the database {path} is damaged.", hint=RESTORE) from error
        except DatabaseCorrupt:
            if looked_twice and mode == peeking_mode(path):
                raise
            looked_twice = True  # as above: what was just being written looks like damage
        time.sleep(RETRY)


def revision_of(connection: sqlite3.Connection, path: Path) -> str | None:
    """The revision of an open database, None for an empty one. Raises UsageError, DatabaseCorrupt,
    sqlite3.Error."""
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    if not tables and application in {0, APPLICATION_ID}:
        return None
    if application != APPLICATION_ID:
        raise UsageError(
            f"{path} is another program's database; it was not touched.", hint="Name another file with --db."
        )
    found = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    if len(found) != 1:
        raise DatabaseCorrupt(f"The database {path} names {len(found)} schema revisions instead of one.", hint=RESTORE)
    return str(found[0][0])


def too_new(status: SchemaStatus) -> DatabaseTooNew:
    """The error for a database that this program must not touch."""
    return DatabaseTooNew(
        f"The database {status.path} was written by a newer flowllm (schema {status.current}; this one knows "
        f"up to {status.head}). It was not touched.",
        hint="Upgrade flowllm (pip install --upgrade flowllm), or name another database with --db.",
    )


def _status(path: Path, revision: str | None) -> SchemaStatus:
    if revision is None:
        state = SchemaState.MISSING
    elif revision == HEAD:
        state = SchemaState.CURRENT
    else:
        state = SchemaState.OLDER if revision in REVISIONS else SchemaState.NEWER
    return SchemaStatus(path=path, current=revision, head=HEAD, state=state)


def _peek(path: Path, mode: str) -> str | None:
    with closing(connect(path, mode=mode, busy_timeout=RETRY)) as connection:
        connection.text_factory = decode
        revision = revision_of(connection, path)
        if revision is not None and path.stat().st_size <= LOOKED_THROUGH:
            _look_through(connection, path)
        return revision


def _look_through(connection: sqlite3.Connection, path: Path) -> None:
    """Hashes find what a row says wrongly; a damaged index hides the row. Raises DatabaseCorrupt, sqlite3.Error."""
    told = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if told != "ok":
        raise DatabaseCorrupt(
            f"The database {path} is damaged: {told}.",
            hint=f'{RESTORE}\nWhere an index alone is damaged, this mends it: sqlite3 {path} "REINDEX"',
        )


def _is_empty(path: Path) -> bool:
    """Whether there is nothing at `path` yet. Raises UsageError, DatabaseCorrupt, StorageFailed."""
    try:
        with path.open("rb") as file:
            head = file.read(len(MAGIC))
    except FileNotFoundError:
        return True
    except IsADirectoryError as error:
        raise UsageError(f"{path} is a folder, not a database.", hint="Name a file with --db.") from error
    except OSError as error:
        raise StorageFailed(
            f"The database {path} cannot be read: {error.strerror}.",
            hint="Check the permissions of the file and its folder, or name another database with --db.",
        ) from error
    if head and head != MAGIC:
        raise DatabaseCorrupt(
            f"{path} is not an SQLite database, or its header is damaged. It was not touched.", hint=RESTORE
        )
    return not head
