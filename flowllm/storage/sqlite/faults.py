"""What SQLite's errors mean to a person."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from flowllm.core.errors import DatabaseCorrupt, FlowLLMError, StorageFailed

PRIMARY: Final = 0xFF
"""The low byte of an extended result code is the primary one."""

STORAGE: Final[dict[int, tuple[str, str]]] = {
    sqlite3.SQLITE_FULL: ("the disk is full", "Free some space, then resume the run."),
    sqlite3.SQLITE_IOERR: (
        "reading or writing the file failed",
        "Check the disk (space, quota, file-size limit, health), then resume the run.",
    ),
    sqlite3.SQLITE_READONLY: (
        "it is read-only",
        "Give this user write access to the file and its folder, or name another database with --db.",
    ),
    sqlite3.SQLITE_CANTOPEN: (
        "the file cannot be opened",
        "Check its folder and the limit of open files (`ulimit -n`), or name another database with --db.",
    ),
    sqlite3.SQLITE_PERM: ("access is denied", "Check the permissions of the file and its folder."),
    sqlite3.SQLITE_AUTH: ("access is denied", "Check the permissions of the file and its folder."),
    sqlite3.SQLITE_BUSY: (
        "another process has kept it locked for too long",
        "Find the process that writes to it, end it, then resume the run.",
    ),
    sqlite3.SQLITE_LOCKED: (
        "another connection has kept it locked for too long",
        "Find the process that writes to it, end it, then resume the run.",
    ),
    sqlite3.SQLITE_PROTOCOL: (
        "its locks do not work",
        "Put the database on a local disk; network file systems lock badly.",
    ),
    sqlite3.SQLITE_NOMEM: ("there is not enough memory", "Free some memory, then resume the run."),
}
DAMAGE: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_SCHEMA}
PER_UNIT: Final = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}
"""Faults of the storage that may hit a large write and spare a small one."""
RESTORE: Final = "Restore it from a backup, or move it away to start with a new one. `flowllm doctor` says more."


def code_of(error: BaseException) -> int | None:
    """SQLite's primary result code, None for an error of another origin."""
    code = getattr(error, "sqlite_errorcode", None)
    return code & PRIMARY if isinstance(code, int) else None


def concerns_data(error: BaseException) -> bool:
    """Whether the values of one write are to blame, not the database."""
    code = code_of(error)
    return isinstance(error, Exception) and (code is None or (code not in STORAGE and code not in DAMAGE))


def worth_one_by_one(error: BaseException) -> bool:
    """Whether some writes of a group that failed so may still go through alone."""
    return concerns_data(error) or code_of(error) in PER_UNIT


def explain(error: BaseException, path: Path | str) -> Exception:
    """The error to raise for one of SQLite's: StorageFailed, DatabaseCorrupt, or ValueError for a value that
    a database cannot hold. Errors of flowllm's own come back as they are."""
    if isinstance(error, FlowLLMError | ValueError):
        return error
    code = code_of(error)
    if code in STORAGE:
        what, hint = STORAGE[code]
        return StorageFailed(f"The database {path} cannot be used: {what} ({error}).", hint=hint)
    if code in DAMAGE:
        return DatabaseCorrupt(f"The database {path} is damaged: {error}.", hint=RESTORE)
    if isinstance(error, sqlite3.DatabaseError | OverflowError):
        return ValueError(f"The database cannot hold a value: {error}")
    return StorageFailed(f"The database {path} cannot be used: {error!r}", hint="Run `flowllm doctor`.")
