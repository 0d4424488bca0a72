"""What SQLite's errors mean to a person, and what the store refuses, in which words."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from flowllm.core.errors import (
    DatabaseCorrupt,
    FlowLLMError,
    OwnershipLost,
    RunNotFound,
    RunOwned,
    StorageFailed,
    UsageError,
)
from flowllm.core.records import dataclass
from flowllm.storage.base import Owner, RunLease

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """The database is no longer the file that was opened; nothing more is begun."""

    path: Path
    what: str
    """What became of it, after its path."""
    place: Path | None
    """The database that all of it is in now; None if it could not be saved."""
    why_not: str = ""
    again: bool = False
    """It is where it was."""

    def error(self) -> StorageFailed:
        """It, for one of those who wait."""
        begun = f"The database {self.path} {self.what} while it was in use, so nothing more is sent."
        if self.place is None:
            return StorageFailed(
                f"{begun} What it held could not be saved: {self.why_not}.",
                hint="Put it back, or restore it from a backup, then resume the run.",
            )
        if self.again:
            return StorageFailed(f"{begun} All that it held is in it again.", hint="Resume the run.")
        return StorageFailed(
            f"{begun} All that it held is in {self.place}.",
            hint="Go on with that one (--db), or first put it back where it was.",
            database=str(self.place),
        )


def no_room(error: OSError, path: Path) -> StorageFailed:
    """A request that is not sent, as its result might be lost."""
    return StorageFailed(
        f"There is no room for results beside the database {path}, nor in the temporary folder: {error.strerror}.",
        hint="Free some space, then resume the run.",
    )


def lost_results(count: int, path: Path) -> str:
    """What is told of requests that were on record and are not any more."""
    return (
        f"the database {path} has lost what was last written to it before a process that used it ended ({count} or more "
        "requests, or their results): its log was damaged, cut or removed, or an older copy was put in its place; "
        "what is missing is sent again, and paid again"
    )


def kept_in(paths: Iterable[Path]) -> str:
    """A line on the results that the database could not take."""
    names = ", ".join(str(path) for path in paths)
    return f"The results that it could not take are kept in {names}, until they are put into it as a run is started or resumed."


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


def ownership_lost(lease: RunLease, epoch: int | None) -> OwnershipLost:
    """A write under a lease that no longer holds; `epoch` is the run's, None if it is gone."""
    if epoch is None:
        return OwnershipLost(f"Run {lease.run_id} was deleted while this process worked on it.")
    return OwnershipLost(
        f"Run {lease.run_id} was taken over by another process; nothing more of it is written here.",
        hint=f"See how it goes on with: flowllm show {lease.run_id}",
    )


def run_owned(run_id: str, owner: Owner | None) -> RunOwned:
    """A run that another process has; the owner is told as far as it is known."""
    if owner is None:
        return RunOwned(f"Run {run_id} is owned by another process.", hint="Wait until it has ended.")
    since = datetime.fromtimestamp(owner.since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return RunOwned(
        f"Run {run_id} is owned by process {owner.pid} on {owner.host} since {since}.",
        hint=f"Wait until it has ended, or stop it on {owner.host} with: kill -INT {owner.pid}",
    )


def run_exists(run_id: str) -> UsageError:
    """An id that is taken."""
    return UsageError(f"There already is a run {run_id}.")


def run_not_found(run_id: str) -> RunNotFound:
    """An id that no run has."""
    return RunNotFound(f"There is no run {run_id}.", hint="`flowllm runs` lists the runs of this database.")


def ambiguous(run_id: str, found: Iterable[str]) -> RunNotFound:
    """The beginning of several ids."""
    return RunNotFound(f"Several runs begin with {run_id}: {', '.join(found)}.", hint="Give more of the id.")
