"""Reading the files of a workflow: from the disk, or from the snapshot that a run keeps."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from flowllm.language.problems import Location, Problems, SourceError
from flowllm.language.source import MAX_SIZE


class Unreadable(Exception):
    """A file cannot be read; `line` and `column` are set where its content is at fault."""

    def __init__(self, message: str, *, line: int = 0, column: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.column = column


class Files(Protocol):
    """Where texts come from."""

    def read(self, path: str) -> str:
        """The text of the file of that absolute path. Raises Unreadable."""
        ...

    def missing(self, path: str) -> str:
        """Why a data file of that absolute path cannot be read when a run comes to it; empty if nothing is known."""
        ...


class DiskFiles:
    """Regular UTF-8 files of at most 1 MB."""

    def __init__(self, *, data: bool = False) -> None:
        """`data`: look for data files too."""
        self._data = data

    def missing(self, path: str) -> str:
        """Whether a data file is there, where that is looked at."""
        if not self._data:
            return ""
        try:
            return "it is a folder" if stat.S_ISDIR(Path(path).stat().st_mode) else ""
        except (OSError, ValueError) as error:
            return _reason(error)

    def read(self, path: str) -> str:
        """The text of the file, without a byte order mark."""
        try:
            if not stat.S_ISREG(Path(path).stat().st_mode):
                raise Unreadable("it is not a regular file")
            with Path(path).open("rb") as file:
                content = file.read(4 * MAX_SIZE + 1)
        except (OSError, ValueError) as error:
            raise Unreadable(_reason(error)) from None
        return _decode(content)


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "there is no such file"
    if isinstance(error, PermissionError):
        return "it may not be read by this user"
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


def _decode(content: bytes) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8", "replace").removeprefix("\ufeff")
        cut = len(content) > 4 * MAX_SIZE and error.start > len(content) - 4
        if not cut:
            line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
            raise Unreadable(f"it is not UTF-8 (line {line}, column {column})", line=line, column=column) from None
        text = before
    if len(text) > MAX_SIZE:
        raise Unreadable(f"it is too large: more than {MAX_SIZE:,} characters")
    return text


class SnapshotFiles:
    """The texts that a run kept: absolute path to text, such as `Workflow.files`."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = texts

    def read(self, path: str) -> str:
        """The text that the snapshot has for that path."""
        if path not in self._texts:
            raise Unreadable("it is not in the run's snapshot")
        return self._texts[path]

    def missing(self, path: str) -> str:  # noqa: ARG002 - data is not in a snapshot
        """Nothing is known."""
        return ""


class TextFiles:
    """Texts that a program has given: absolute path to text; all other files are those of `others`."""

    def __init__(self, texts: Mapping[str, str], others: Files) -> None:
        self._texts = texts
        self._others = others

    def read(self, path: str) -> str:
        """The text that was given for that path, else the file's."""
        return self._texts[path] if path in self._texts else self._others.read(path)

    def missing(self, path: str) -> str:
        """As the others say."""
        return self._others.missing(path)


class Sources:
    """The files that one workflow reads: each read once, remembered for the snapshot and for problems.

    A file goes by two names: its absolute path, and the one that places carry, as the user would write it.
    """

    def __init__(self, files: Files, problems: Problems) -> None:
        self._files = files
        self.problems = problems
        self.texts: dict[str, str] = {}
        """Absolute path to text."""
        self.names: dict[str, str] = {}
        """Absolute path to the shown name."""

    def read(self, name: str) -> str:
        """The text of a file by its shown name. Raises Unreadable."""
        path = absolute(name)
        if path not in self.texts:
            self.texts[path] = self._files.read(path)
            self.names[path] = name
        self.problems.learn(name, self.texts[path].replace("\r\n", "\n").replace("\r", "\n"))
        return self.texts[path]

    def missing(self, path: str, where: Location) -> tuple[str, str]:
        """The shown name of a data file that is named at a place, and why it cannot be read; empty if nothing is known."""
        name = beside(where.file, path)
        return name, self._files.missing(absolute(name))

    def read_named(self, path: str, where: Location) -> tuple[str, str]:
        """Shown name and text of a file that is named at a place, relative to that place's file.

        Raises SourceError at that place.
        """
        name = beside(where.file, path)
        try:
            return name, self.read(name)
        except Unreadable as error:
            raise SourceError(
                where, f"the file {path} cannot be read: {error.message}", f"looked for it at {name}"
            ) from None


def absolute(name: str) -> str:
    """The absolute path of a file's shown name."""
    return os.path.abspath(name)  # noqa: PTH100 - must also give an answer for paths that are not there


def folder_of(name: str) -> str:
    """The absolute path of the folder in which a file is."""
    return os.path.dirname(absolute(name))  # noqa: PTH120 - in a third of the time of a Path


def beside(file: str, path: str) -> str:
    """The shown name of a path that is written in a file, relative to that file's folder."""
    folder = "" if file.startswith("--") else os.path.dirname(file)  # noqa: PTH120 - text only, as written
    return os.path.normpath(os.path.join(folder, path))  # noqa: PTH118 - Path would drop nothing, but also not normalise
