"""Making a database, and bringing an old one up to date.

All in one transaction under SQLite's write lock: of two processes that upgrade at once the second finds
nothing left to do, and one that is killed half-way leaves the database as it was.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Final

import flowllm
from flowllm.core.errors import DatabaseCorrupt, DatabaseTooNew, StorageFailed, UsageError
from flowllm.core.records import dataclass
from flowllm.storage.folders import PRIVATE, make_folder
from flowllm.storage.sqlite.connection import (
    APPLICATION_ID,
    BUSY_TIMEOUT,
    RETRY,
    connect,
    connect_writer,
    database_path,
    decode,
    peeking_mode,
)
from flowllm.storage.sqlite.faults import RESTORE, code_of, explain
from flowllm.storage.sqlite.mounts import refuse_shared

HEAD: Final = "0011"
"""The revision that this program reads and writes."""
REVISIONS: Final = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008", "0009", "0010", HEAD)
"""All revisions that this program knows, oldest first."""
LOOKED_THROUGH: Final = 8 * 2**20
"""Bytes of a database up to which all of it is looked through whenever it is opened: a few hundredths of a second."""


class SchemaState(StrEnum):
    """How a database's schema relates to this program's."""

    MISSING = "missing"  # no file yet, or nothing in it
    CURRENT = "current"  # just right
    OLDER = "older"  # to be upgraded
    NEWER = "newer"  # written by a newer flowllm


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaStatus:
    """What `flowllm db status` shows."""

    name: str
    """Of the database, without a password."""
    path: Path | None
    """Its file, if it is one."""
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
        f"The database {status.name} was made by a newer flowllm, and was not touched.",
        hint="Upgrade flowllm (pip install --upgrade flowllm), or name another database with --db.",
    )


def _status(path: Path, revision: str | None) -> SchemaStatus:
    return status_of(str(path), path, revision)


def status_of(name: str, path: Path | None, revision: str | None) -> SchemaStatus:
    """How a revision stands to those that this program knows; None if there is none yet."""
    if revision is None:
        state = SchemaState.MISSING
    elif revision == HEAD:
        state = SchemaState.CURRENT
    else:
        state = SchemaState.OLDER if revision in REVISIONS else SchemaState.NEWER
    return SchemaStatus(name=name, path=path, current=revision, head=HEAD, state=state)


def _peek(path: Path, mode: str) -> str | None:
    with closing(connect(path, mode=mode, busy_timeout=RETRY)) as connection:
        connection.text_factory = decode
        try:
            revision = revision_of(connection, path)
        except sqlite3.DatabaseError as error:
            if code_of(error) != sqlite3.SQLITE_NOTADB:
                raise
            raise DatabaseCorrupt(
                f"{path} is not an SQLite database, or its header is damaged. It was not touched.", hint=RESTORE
            ) from error
        if revision is not None and path.stat().st_size <= LOOKED_THROUGH:
            _look_through(connection, path)
        return revision


def _look_through(connection: sqlite3.Connection, path: Path) -> None:
    """Hashes find what a row says wrongly; a damaged index hides the row. Raises DatabaseCorrupt, sqlite3.Error."""
    found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if found != "ok":
        raise DatabaseCorrupt(
            f"The database {path} is damaged: {found}.",
            hint=f'{RESTORE}\nWhere an index alone is damaged, this mends it: sqlite3 {quote(str(path))} "REINDEX"',
        )


def _is_empty(path: Path) -> bool:
    """Whether there is nothing at `path` yet. Raises UsageError, StorageFailed.

    The file is not opened: to close it again would give back the locks that SQLite has on it in this process (POSIX's rule), and
    another process would take its log away (sqlite.org/howtocorrupt.html, 2.2)."""
    try:
        if path.is_dir():
            raise UsageError(f"{path} is a folder, not a database.", hint="Name a file with --db.")
        size = path.stat().st_size
        if not os.access(path, os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except FileNotFoundError:
        return True
    except OSError as error:
        raise StorageFailed(
            f"The database {path} cannot be read: {error.strerror}.",
            hint="Check the permissions of the file and its folder, or name another database with --db.",
        ) from error
    return size == 0


if TYPE_CHECKING:
    from sqlalchemy import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Upgrade:
    """What an upgrade did."""

    before: SchemaStatus
    after: SchemaStatus
    backup: Path | None
    """The copy of the database as it was before; None if nothing had to be done."""


def status(url: str) -> SchemaStatus:
    """The schema of the database at `url`; changes nothing. Raises UsageError, DatabaseCorrupt,
    StorageFailed."""
    return inspect(database_path(url))


def upgrade(url: str, *, busy_timeout: float = BUSY_TIMEOUT) -> Upgrade:
    """Make the database at `url`, or bring it up to date after copying it beside itself.

    Raises DatabaseTooNew, UsageError, DatabaseCorrupt, StorageFailed; nothing was changed then.
    """
    return upgrade_file(database_path(url), busy_timeout=busy_timeout)


def upgrade_file(path: Path, *, busy_timeout: float = BUSY_TIMEOUT) -> Upgrade:
    """`upgrade` of the database in that file."""
    before = after = inspect(path, busy_timeout=busy_timeout)
    if before.state is SchemaState.MISSING:
        create(path, busy_timeout=busy_timeout)
        after = inspect(path, busy_timeout=busy_timeout)  # another process may have made it, also an older flowllm
    if after.state is SchemaState.NEWER:
        raise too_new(after)
    backup = None
    if after.state is SchemaState.OLDER:
        backup = _migrate(path, busy_timeout=busy_timeout)
        after = inspect(path, busy_timeout=busy_timeout)
    return Upgrade(before=before, after=after, backup=backup)


def create(path: Path, *, busy_timeout: float = BUSY_TIMEOUT) -> None:
    """Make the newest schema in a new file that only its owner can read, unless another process just did.
    Raises StorageFailed."""
    _touch(path)
    try:
        with closing(connect_writer(path, busy_timeout=busy_timeout)) as connection:
            connection.begin()
            try:
                if revision_of(connection, path) is None:
                    _fill(connection)
            finally:
                connection.rollback()
    except sqlite3.Error as error:
        raise explain(error, path) from error


def _fill(connection: sqlite3.Connection) -> None:
    """All tables as `tables.py` declares them, of which `schema.sql` is made: SQLAlchemy takes a third of a second to import."""
    for statement in Path(__file__).with_name("schema.sql").read_text(encoding="utf-8").split(";\n"):
        connection.execute(statement)
    connection.execute("INSERT INTO alembic_version (version_num) VALUES (?)", (HEAD,))
    connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
    connection.execute("COMMIT")


def migrations_folder() -> Path:
    """Where the revisions are: inside the installed package, or beside it in a checkout."""
    package = Path(flowllm.__file__).parent
    shipped = package / "_migrations"
    return shipped if shipped.is_dir() else package.parent / "migrations"


def _migrate(path: Path, *, busy_timeout: float) -> Path | None:
    """Upgrade under the write lock; the backup, None if another process was faster."""
    # Late: Alembic takes a second to import, and only a database that is behind needs it.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    with _transaction(path, busy_timeout) as connection:
        revision = revision_of(_raw(connection), path)
        if revision == HEAD:
            return None
        backup = _back_up(path, f"{revision}")
        config = Config()
        config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
        config.attributes["connection"] = connection
        command.upgrade(config, HEAD)
    return backup


@contextmanager
def _transaction(path: Path, busy_timeout: float) -> Iterator[Connection]:
    """SQLAlchemy's view of one connection inside BEGIN IMMEDIATE. Raises what `explain` gives."""
    from sqlalchemy import create_engine, event  # noqa: PLC0415 - as above, a third of a second
    from sqlalchemy.exc import DBAPIError  # noqa: PLC0415
    from sqlalchemy.pool import StaticPool  # noqa: PLC0415

    try:
        with closing(connect_writer(path, busy_timeout=busy_timeout)) as raw:
            engine = create_engine("sqlite://", creator=lambda: raw, poolclass=StaticPool)
            event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
            try:
                with engine.begin() as connection:
                    yield connection
            finally:
                raw.rollback()
    except DBAPIError as error:
        raise explain(error.orig or error, path) from error
    except sqlite3.Error as error:
        raise explain(error, path) from error


def _raw(connection: Connection) -> sqlite3.Connection:
    raw = connection.connection.driver_connection
    if not isinstance(raw, sqlite3.Connection):
        raise TypeError(f"not an SQLite connection: {raw!r}")
    return raw


def _touch(path: Path) -> None:
    """The file with its permissions, before SQLite puts anything in; it gives the same to those beside it. Raises UsageError, StorageFailed."""
    refuse_shared(path)
    try:
        path.parent.parent.mkdir(parents=True, exist_ok=True)
        make_folder(path.parent)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE))
    except OSError as error:
        raise StorageFailed(
            f"The database {path} cannot be made: {error.strerror}.",
            hint="Give this user write access to that folder, or name another database with --db.",
        ) from error


def _back_up(path: Path, revision: str) -> Path:
    """A copy of the database as it is on disk. The caller has the write lock, so nothing changes meanwhile."""
    partial = path.with_name(f"{path.name}.backup-{revision}.partial")
    number = 1
    while (final := path.with_name(f"{path.name}.backup-{revision}-{number}")).exists():
        number += 1
    try:
        partial.unlink(missing_ok=True)  # of an upgrade that was killed
        os.close(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE))
        with closing(connect(path, mode="ro")) as source, closing(connect(partial, mode="rw")) as copy:
            source.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")  # one file, nothing beside it
        partial.replace(final)
    except (OSError, sqlite3.Error) as error:
        with suppress(OSError):
            partial.unlink()
        raise StorageFailed(
            f"The database {path} must be upgraded, but its backup {final} could not be written: {error}.",
            hint="Nothing was changed. Free some space or allow writing there, then try again.",
        ) from error
    return final
