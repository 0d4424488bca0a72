"""`save`: writes a step's output to a file, atomically, once it is durable."""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from flowllm.core.errors import SaveFailed
from flowllm.core.file_endings import refused_ending
from flowllm.core.types import ROW, Json, step_path
from flowllm.datasets.file_writes import FileConflict, FileRegistry, open_temporary, remove_leftovers
from flowllm.datasets.layouts import content_of_file
from flowllm.language.workflow import Step

LONGEST_NAME = 255
"""Bytes of a file's or folder's name, on all usual file systems."""
LONGEST_PATH = 4000
"""Bytes, with room for the name of the file that is written first."""
_SWEPT: Final = 10_000
"""Folders that are remembered: a run may save to millions."""
_NOT_IN_NAMES: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_NOT_OURS: Final = frozenset({".flowllm", ".git"})
"""Folders of programs' own, where a file that a model names would do harm."""


class Saver:
    """All files of one attempt of a run, below one folder."""

    def __init__(self, folder: Path | None = None, *, claims: FileRegistry | None = None) -> None:
        """`folder` is the working directory where none is given; `claims` are files that are not written over."""
        self.claims = claims or FileRegistry()
        self._folder = (folder or Path.cwd()).resolve()
        self._taken: _Taken | None = None
        self._swept: set[Path] = set()
        """Folders that are free of what runs which were killed have left in them."""

    def path_of(self, step: Step, values: Mapping[str, Json], node: str) -> Path:
        """Where the node's output goes. Raises SaveFailed for a path that leads out of the folder, cannot be a file,
        or that another node of this attempt has; TemplateFailed."""
        if step.save is None:
            raise AssertionError("the step saves nothing")
        name = step.save.text(values)
        path = self._within(name)
        try:
            self.claims.check(path, f"`save` of {node}", by=step_path(node).removeprefix(f"{ROW}."))
        except FileConflict as error:
            raise SaveFailed(str(error), hint="save it under another name") from None
        self._taken = self._taken or _Taken()
        other = self._taken.by(path, node)
        if other != node:
            raise SaveFailed(
                f"`save` gives {name!r} for {node} and for {other} too",
                hint="put something into the path that is different for each, such as `{{ index }}`",
            )
        return path

    def _within(self, name: str) -> Path:
        if not name.strip() or name.endswith("/") or _NOT_IN_NAMES.search(name):
            raise SaveFailed(f"`save` gives {name!r:.200}, which is no file's name", hint=_SLUG)
        try:
            path = (self._folder / name).resolve()
            inside = path.is_relative_to(self._folder) and path != self._folder
            problem = _problem(path)
        except (OSError, RuntimeError, ValueError) as error:
            said = error.strerror if isinstance(error, OSError) else error
            raise SaveFailed(f"`save` gives {name!r:.200}, which cannot be a file: {said}") from None
        if not inside:
            raise SaveFailed(
                f"`save` gives {name!r:.200}, which is outside of the working directory",
                hint=f"a path that begins with `/` or leads out by `..` is not written to; {_SLUG}",
            )
        if not _NOT_OURS.isdisjoint(part.lower() for part in path.relative_to(self._folder).parts):
            raise SaveFailed(f"`save` gives {name!r:.200}, in a folder that nothing is saved to")
        if refused := refused_ending(name):
            raise SaveFailed(f"`save` gives {name!r:.200}: {refused[0]}", hint=refused[1])
        if problem:
            raise SaveFailed(f"`save` gives {name!r:.200}, which cannot be a file: {problem}", hint=_SLUG)
        return path

    async def write(self, path: Path, value: Json) -> None:
        """Put the output there, as the file's ending says. Raises SaveFailed."""
        await asyncio.to_thread(self._write, path, _bytes(path, value))

    def _write(self, path: Path, data: bytes) -> None:
        if path.parent not in self._swept:
            if len(self._swept) >= _SWEPT:
                self._swept.clear()
            self._swept.add(path.parent)
            remove_leftovers(path.parent)
        _write(path, data)


_SLUG: Final = "`| slug` makes a file's name of any text"


class _Taken:
    """Which node has which path, in a file of its own that is gone with it: a run may save millions."""

    def __init__(self) -> None:
        connection = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        weakref.finalize(self, connection.close)
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("CREATE TABLE taken (path TEXT PRIMARY KEY, node TEXT) WITHOUT ROWID")
        self._connection = connection

    def by(self, path: Path, node: str) -> str:
        """The node that has the path: the first that asked for it. Raises SaveFailed."""
        try:
            cursor = self._connection.execute(
                "INSERT INTO taken VALUES (?, ?) ON CONFLICT DO NOTHING", (str(path), node)
            )
            if cursor.rowcount == 1:
                return node
            rows = self._connection.execute("SELECT node FROM taken WHERE path = ?", (str(path),))
            return str(rows.fetchone()[0])
        except sqlite3.Error as error:
            raise SaveFailed(
                f"the paths that were saved cannot be remembered: {error}",
                hint="is the temporary folder (TMPDIR) full?",
            ) from None


def _problem(path: Path) -> str:
    """Why a path cannot be that of a file, as far as can be told before it is written; empty if it can."""
    if len(os.fsencode(path)) > LONGEST_PATH or any(len(os.fsencode(part)) > LONGEST_NAME for part in path.parts):
        return "it is too long"
    if any(part.is_symlink() for part in (path, *path.parents)):  # resolved, only a circle is left
        return "a symbolic link in it leads back to itself"
    if path.is_dir():
        return "it is a folder"
    existing = next(parent for parent in path.parents if parent.exists())
    return "" if existing.is_dir() else f"{existing.name} is no folder"


def _bytes(path: Path, value: Json) -> bytes:
    try:
        return content_of_file(path.name, value)
    except UnicodeEncodeError as error:
        raise SaveFailed(
            f"the output cannot be saved as {path.name}: half a character at {error.start + 1}",
            hint="UTF-8 has no way to write it; `{{ output | tojson }}` has",
        ) from None


def _write(path: Path, data: bytes) -> None:
    try:
        if path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, data)
    except OSError as error:
        raise SaveFailed(
            f"{path} could not be written: {error.strerror}",
            hint="the output is in the database: mend this, then `flowllm resume`",
        ) from None


def _replace(path: Path, data: bytes) -> None:
    """Write beside it, with the mode that the file had or that any new one would have, and rename."""
    beside, descriptor = open_temporary(path)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            beside.replace(path)  # while it is locked: nobody sweeps it away
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
