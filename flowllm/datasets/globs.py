"""Files as rows: those below a folder that a pattern matches, each with its text."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Final

from flowllm.core.errors import BadRow, DataFailed
from flowllm.datasets.base import MAX_ROW, TOO_LARGE, Row
from flowllm.datasets.files import MOST_BYTES
from flowllm.datasets.lines import text_of

ANY_DEPTH: Final = "**"


class GlobRows:
    """A row `{path, text}` for each file, in the order of their paths. Listed when the first is wanted."""

    total: int | None = None
    live = False

    def __init__(self, folder: Path, pattern: str) -> None:
        """`pattern` is relative to `folder`: `*`, `?` and `[abc]` within a name, `**` for any folders. What begins
        with a dot is matched only by what does too."""
        self._folder = folder
        self._pattern = pattern
        self._paths: list[str] | None = None
        self._next = 0

    async def take(self, most: int) -> list[Row]:
        """See `Rows`. A file that cannot be read is a bad row. Raises DataFailed if no file matches."""
        return await asyncio.to_thread(self._take, most)

    async def count_rest(self) -> int:
        return len(self._paths or ()) - self._next

    async def count(self, wanted: Callable[[], bool]) -> int | None:  # noqa: ARG002 - see `Countable`
        with suppress(DataFailed):
            return len(await asyncio.to_thread(_matching, self._folder, self._pattern))
        return None

    async def close(self) -> None:
        """See `Rows`."""

    def _take(self, most: int) -> list[Row]:
        if self._paths is None:
            self._paths = _matching(self._folder, self._pattern)
            self.total = len(self._paths)
        rows: list[Row] = []
        size = 0
        while len(rows) < most and size <= MOST_BYTES and self._next < len(self._paths):
            rows.append(_row(self._next, self._folder, self._paths[self._next]))
            size += len(rows[-1].value["text"] or "")
            self._next += 1
        return rows


def _row(index: int, folder: Path, path: str) -> Row:
    try:
        text, problem = _text(folder / path), ""
    except OSError as error:
        text, problem = None, f"cannot be read: {error.strerror or error}"
    except ValueError as error:
        text, problem = None, str(error)
    value = {"path": path, "text": text}
    return Row(index=index, value=value, error=BadRow(f"{path}: {problem}") if problem else None)


def _text(path: Path) -> str:
    """Raises OSError, and ValueError that says what is problem."""
    with path.open("rb") as file:
        data = file.read(MAX_ROW + 1)
    if len(data) > MAX_ROW:
        raise ValueError(TOO_LARGE.replace("row", "file"))
    return text_of(data)


def _matching(folder: Path, pattern: str) -> list[str]:
    """Raises DataFailed."""
    posix = PurePosixPath(pattern.replace(os.sep, "/"))
    start, parts = ("", posix.parts) if not posix.is_absolute() else ("/", posix.parts[1:])
    if parts and parts[-1] == ANY_DEPTH:
        parts = (*parts, "*")
    try:
        found = {path for path in _below(folder, start, parts) if (folder / path).is_file()}
    except OSError as error:
        raise DataFailed(f"the folder {error.filename} cannot be read: {error.strerror}") from None
    except ValueError as error:  # a NUL in the pattern
        raise DataFailed(f"{pattern!r} is no pattern of paths: {error}") from None
    if not found:
        hint = "patterns are relative to the workflow's file; `**` stands for any folders"
        if "{" in pattern:
            hint = "braces stand for themselves: write a pattern without them, such as `docs/*.md`"
        raise DataFailed(f"no file matches {pattern} in {folder}", hint=hint)
    return sorted(found)


def _below(folder: Path, path: str, parts: Sequence[str]) -> Iterator[str]:
    """Paths below `path`, which is relative to the folder, that match; also of what is no file. Raises OSError."""
    if not parts:
        yield path
        return
    first, rest = parts[0], parts[1:]
    if first == ANY_DEPTH:
        yield from _below(folder, path, rest)
        for entry in _entries(folder / path):
            if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                yield from _below(folder, _joined(path, entry.name), parts)
    elif not any(mark in first for mark in "*?["):
        if os.path.lexists(folder / path / first):
            yield from _below(folder, _joined(path, first), rest)
    else:
        for entry in _entries(folder / path):
            hidden = entry.name.startswith(".") and not first.startswith(".")
            if fnmatchcase(entry.name, first) and not hidden and (not rest or entry.is_dir()):
                yield from _below(folder, _joined(path, entry.name), rest)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return list(entries)


def _joined(path: str, name: str) -> str:
    return f"{path}{name}" if path.endswith("/") or not path else f"{path}/{name}"
