"""Which files a run reads and writes, known by what they are and not by how they are called: none is written over."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path


class FileConflict(Exception):
    """A file would be written that the run reads, or writes elsewhere."""


def no_step(_step: str) -> bool:
    """No step may write it."""
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Use:
    what: str
    written: bool = False
    after: Callable[[str], bool]
    """Whether a step, named in full, may write it: who reads it waits for that step."""


class FileRegistry:
    """One for each run attempt. Links lead to one file; devices and pipes are not registered."""

    def __init__(self) -> None:
        self._uses: dict[object, _Use] = {}

    def reads(self, path: str | Path, what: str, *, after: Callable[[str], bool] = no_step) -> None:
        """Register a file that is read. Raises FileConflict if it is written."""
        use = self._find(path)
        if use is None:
            self._keep(path, _Use(what=what, after=after))
        elif use.written:
            raise _conflict(use.what, what, path)

    def writes(self, path: str | Path, what: str) -> None:
        """Register a file that is written. Raises FileConflict if it is read or written."""
        self.check(path, what)
        self._keep(path, _Use(what=what, written=True, after=no_step))

    def check(self, path: str | Path, what: str, *, by: str = "") -> None:
        """Raises FileConflict if the file that a step (`by`) is to write is read or written elsewhere."""
        use = self._find(path)
        if use is not None and not use.after(by):
            raise _conflict(what, use.what, path)

    def _find(self, path: str | Path) -> _Use | None:
        return next((self._uses[key] for key in file_identities(path) if key in self._uses), None)

    def _keep(self, path: str | Path, use: _Use) -> None:
        for key in file_identities(path):
            self._uses[key] = use


def file_identities(path: str | Path) -> Iterator[object]:
    """Where all links lead, and the file itself if it is there: it may have other names, also in other letters."""
    try:
        real = os.path.realpath(path)
    except ValueError:  # with a NUL or half a character in it, it is no file's name: whoever opens it tells that
        return
    try:
        found = Path(real).stat()
    except OSError:
        yield real
        return
    if stat.S_ISREG(found.st_mode):
        yield real
        yield found.st_dev, found.st_ino


def _conflict(writer: str, reader: str, path: str | Path) -> FileConflict:
    return FileConflict(f"{writer} would write over {reader}: {path}")
