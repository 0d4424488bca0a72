"""Whether a database still is the files that were opened: SQLite itself goes on writing into one that was removed. And
whether others write to it."""

from __future__ import annotations

import math
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from flowllm.core.errors import DatabaseCorrupt
from flowllm.core.records import dataclass
from flowllm.storage.folders import PRIVATE, make_folder, temporary_folders
from flowllm.storage.sqlite.connection import APPLICATION_ID, connect, sidecars

BESIDE: Final = ("-wal", "-shm")
DESCRIPTORS: Final = Path("/proc/self/fd")
OTHERS_KNOWN: Final = 0.25
"""Seconds for which it is believed who else is at work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What became of the files of an open database."""

    what: str
    """After "The database PATH"."""
    moved: Path | None = None
    """Where the database itself is now, if it has another name."""
    in_place: bool = False
    """It is where it was, and nobody made new files beside it."""
    left: tuple[Path, ...] = ()
    """Files that belong to it and are still beside its old name."""


class Watch:
    """The files of one open database."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: tuple[int, int] | None = None
        self._sizes: dict[Path, int] = {}
        self._beside: dict[Path, tuple[int, int] | None] | None = None
        self._version: int | None = None
        """SQLite's count of what other connections have written, as the connection sees it."""
        self._connections = 0
        self._looked = self._others_wrote = -math.inf
        """When that was read, and last found changed (monotonic seconds)."""

    def opened(self, connection: sqlite3.Connection) -> None:
        """A connection is writing to it: these are its files now. The database itself stays the one that was first."""
        if self._beside is None:
            self._file = self._file or identity(self._path)
            self._beside = {path: identity(path) for path in beside(self._path)}
        version = connection.execute("PRAGMA data_version").fetchone()[0]
        self._looked = time.monotonic()
        if self._version not in (None, version):
            self._others_wrote = self._looked
        self._version = version

    def closed(self) -> None:
        """The connection is given back: the next one may find other files beside it."""
        self._beside = self._version = None
        self._connections += 1
        self._others_wrote = time.monotonic()  # for all that is known

    def others_wrote(self, within: float) -> bool:
        """Whether others may have written to it in so many last seconds. From any thread."""
        now = time.monotonic()
        return now > self._looked + OTHERS_KNOWN or now <= self._others_wrote + within

    @property
    def version(self) -> object:
        """Another value than before once others have written to it; as it was when a transaction last began."""
        return self._connections, self._version

    def loss(self, connection: sqlite3.Connection) -> Loss | None:
        """What is no longer as it was opened, if anything; `connection` is the one that has it open."""
        if self._file is None:
            return None
        now = identity(self._path)
        if now != self._file:
            return self._lost(replaced=now is not None)
        return self._lost_beside() or self._shrunk(connection)

    def _lost_beside(self) -> Loss | None:
        opened = self._beside or {}
        found = {path: identity(path) for path in opened}
        for path, before in opened.items():
            if before is not None and found[path] is None:
                alone = all(now in {None, opened[other]} for other, now in found.items())
                return Loss(what=f"lost the file {path.name} beside it", in_place=alone)
            if found[path] != before:
                return Loss(what=f"got another file {path.name} beside it")
        return None

    def _shrunk(self, connection: sqlite3.Connection) -> Loss | None:
        """Whether one of its files was cut: both only grow, unless somebody tidies up."""
        for path in (self._path, next(beside(self._path))):
            size, before = _size(path), self._sizes.get(path, 0)
            if size < before and ((path == self._path and not size) or not _whole(connection)):
                whose = "was" if path == self._path else f"had its file {path.name}"
                return Loss(what=f"{whose} {'cut short' if size else 'emptied'}")
            self._sizes[path] = size
        return None

    def _lost(self, *, replaced: bool) -> Loss:
        moved = None if self._file is None else name_of(self._file)
        if moved is not None and moved != self._path.absolute():
            return Loss(what=f"was moved to {moved}", moved=moved)
        if replaced:
            return Loss(what="was replaced by another file")
        left = (name for name, file in (self._beside or {}).items() if file and identity(name) == file)
        return Loss(what="was removed", left=tuple(left))


def beside(path: Path) -> Iterator[Path]:
    """The files that SQLite keeps beside an open database."""
    return (path.with_name(path.name + tail) for tail in BESIDE)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _whole(connection: sqlite3.Connection) -> bool:
    """Whether what is on disk contradicts itself nowhere."""
    try:
        connection.execute("PRAGMA shrink_memory")
        return bool(connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",))
    except sqlite3.Error:
        return False


def identity(path: Path) -> tuple[int, int] | None:
    """Device and number of the file of that name; None if there is none that can be reached."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def name_of(file: tuple[int, int]) -> Path | None:
    """The name that an open file of this process has now, where the system tells it."""
    try:
        for link in os.listdir(DESCRIPTORS):  # noqa: PTH208 - no more than names
            name = DESCRIPTORS / link
            if identity(name) == file:
                found = name.readlink()
                if identity(found) == file:
                    return found
    except OSError:
        return None
    return None


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
