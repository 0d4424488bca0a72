"""Saving what an open connection still sees of a database whose files were removed, replaced or moved."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path

from flowllm.core.errors import DatabaseCorrupt
from flowllm.storage.location import PRIVATE, make_folder, temporary_folders
from flowllm.storage.sqlite.connection import APPLICATION_ID, connect, sidecars
from flowllm.storage.sqlite.watch import Loss


def rescue(connection: sqlite3.Connection, path: Path, loss: Loss) -> Path:
    """`path` is absolute. The database in which all is that was committed: the one that was opened, if it still has a name; else a copy,
    under its own name if nothing else has that. Raises sqlite3.Error, OSError, DatabaseCorrupt."""
    whole = loss.moved or (path if loss.in_place else None)
    if whole is not None and _checkpointed(connection):
        return whole
    return _copied(connection, path, loss.left)


def _checkpointed(connection: sqlite3.Connection) -> bool:
    """Whether all of the log is in the database now."""
    try:
        busy, log, done = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.Error:
        return False
    return not busy and log == done


def _copied(connection: sqlite3.Connection, path: Path, left: Iterable[Path]) -> Path:
    failure: OSError | sqlite3.Error | None = None
    for folder in (path.parent, *temporary_folders()):
        partial = folder / f".{path.name}.{os.getpid()}.partial"
        try:
            make_folder(folder)
            os.close(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE))
            try:
                _copy(connection, partial)
                for name in left:  # no other database may find the log of this one
                    name.unlink(missing_ok=True)
                return _named(partial, _names(folder, path))
            finally:
                partial.unlink()
        except (OSError, sqlite3.Error) as error:
            failure = failure or error
    raise failure or OSError(f"no folder for a copy of {path}")


def _copy(connection: sqlite3.Connection, to: Path) -> None:
    with closing(connect(to, mode="rw")) as copy:
        connection.backup(copy)
        copy.execute("PRAGMA journal_mode=DELETE")  # one file, nothing beside it
        whole = copy.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
        if not whole or copy.execute("PRAGMA application_id").fetchone() != (APPLICATION_ID,):
            raise DatabaseCorrupt("too little of it is left")


def _names(folder: Path, path: Path) -> Iterator[Path]:
    if path.parent == folder and not sidecars(path):
        yield path
    number = 1
    while True:
        yield folder / f"{path.name}.rescued-{number}"
        number += 1


def _named(partial: Path, names: Iterator[Path]) -> Path:
    """Give it the first name that is free: nothing is written over."""
    for name in names:
        with suppress(FileExistsError):
            name.hardlink_to(partial)
            return name
    raise FileExistsError(str(partial))
