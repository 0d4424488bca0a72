"""Whether a database still is the files that were opened: SQLite itself goes on writing into one that was removed."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

BESIDE: Final = ("-wal", "-shm")
DESCRIPTORS: Final = Path("/proc/self/fd")


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

    def opened(self) -> None:
        """A connection has read from it: these are its files now. The database itself stays the one that was first."""
        if self._beside is None:
            self._file = self._file or identity(self._path)
            self._beside = {path: identity(path) for path in beside(self._path)}

    def closed(self) -> None:
        """The connection is given back: the next one may find other files beside it."""
        self._beside = None

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
