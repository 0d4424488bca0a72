"""Making a database, and bringing an old one up to date.

All in one transaction under SQLite's write lock: of two processes that upgrade at once the second finds
nothing left to do, and one that is killed half-way leaves the database as it was.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import flowllm
from flowllm.core.errors import StorageFailed
from flowllm.storage.location import PRIVATE, database_path, make_folder
from flowllm.storage.sqlite.connection import APPLICATION_ID, BUSY_TIMEOUT, connect, connect_writer, rollback
from flowllm.storage.sqlite.faults import explain
from flowllm.storage.sqlite.schema import HEAD, SchemaState, SchemaStatus, inspect, revision_of, too_new

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
    # Late: SQLAlchemy takes a third of a second to import, and most commands find their database made.
    from sqlalchemy import insert  # noqa: PLC0415

    from flowllm.storage.sqlite import tables  # noqa: PLC0415

    _touch(path)
    with _transaction(path, busy_timeout) as connection:
        raw = _raw(connection)
        if revision_of(raw, path) is not None:
            return
        tables.metadata.create_all(connection)
        tables.versions.create(connection)
        connection.execute(insert(tables.versions), {"version_num": HEAD})
        raw.execute(f"PRAGMA application_id={APPLICATION_ID}")


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
    from sqlalchemy import create_engine, event  # noqa: PLC0415 - as above
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
                rollback(raw)
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
    """The file with its permissions, before SQLite puts anything in; it gives the same to those beside it."""
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
