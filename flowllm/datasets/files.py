"""A file as a stream of rows. Read in a thread, many rows at a time, so that a slow disk holds up nobody else."""

from __future__ import annotations

import asyncio
import gzip
import os
import stat
import threading
import zlib
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePath
from typing import BinaryIO, Final, Protocol

from flowllm.core.errors import DataFailed
from flowllm.datasets.base import ParsedRow, Row, RowIterator
from flowllm.datasets.encodings import as_utf8, decompressed
from flowllm.datasets.formats import (
    BY_ENDING,
    FORMATS,
    GUESSED_TABLE,
    ending_of,
    guessed_rows,
    json_rows,
    jsonl_rows,
    plain_rows,
)
from flowllm.datasets.lines import refuse_foreign_ending
from flowllm.datasets.tables import csv_rows

STDIN: Final = "-"
MOST_BYTES: Final = 4 * 1024 * 1024
"""No row follows in the same go once so much was read for it: rows may be large."""


class Read(Protocol):
    """A reader of one format."""

    def __call__(self, file: BinaryIO, name: str, *, cut: bool = False) -> RowIterator:
        """See `jsonl_rows`."""
        ...


class FileRows:
    """The rows of one file, opened when the first are wanted."""

    total: int | None = None
    live = False

    def __init__(self, path: Path, read: Read, *, name: str, cut: bool = False) -> None:
        self._path = path
        self._read = partial(read, name=name, cut=cut)
        self._name = name
        self._file: BinaryIO | None = None
        self._found: Iterator[ParsedRow] | None = None
        self._index = 0
        self._failed: DataFailed | None = None
        self._closed = False
        self.columns: list[str] = []
        """Of a table that has no rows, once that is known."""
        self._turn = threading.Lock()
        """A reader whose caller was cancelled goes on in its thread; the file is closed when it has ended."""

    async def take(self, most: int) -> list[Row]:
        """See `Rows`."""
        return await asyncio.to_thread(self._take, most)

    async def count_rest(self) -> int:
        """See `Rows`."""
        return await asyncio.to_thread(self._count)

    async def close(self) -> None:
        """See `Rows`."""
        await asyncio.to_thread(self._close)

    def _take(self, most: int) -> list[Row]:
        rows: list[Row] = []
        with self._turn:
            size = 0
            while len(rows) < most and size <= MOST_BYTES and (found := self._next()) is not None:
                line, read, value, error = found
                rows.append(Row(index=self._index, value=value, line=line, error=error))
                self._index += 1
                size += read
            if not rows and self._failed is not None:
                raise self._failed
        return rows

    def _next(self) -> ParsedRow | None:
        """None at the end, and where nothing more can be read."""
        if self._failed is not None or self._closed:
            return None
        try:
            if self._found is None:
                self._file = _opened(self._path, self._name)
                self._found = keeping_columns(self._read(as_utf8(decompressed(self._file))), self.columns)
            return next(self._found, None)
        except DataFailed as error:
            self._failed = error
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            self._failed = DataFailed(f"{self._name} cannot be unpacked: {error}", hint="is it whole?")
        except OSError as error:
            self._failed = _unreadable(self._name, self._path, error)
        return None

    def _count(self) -> int:
        with self._turn:
            count = 0
            while self._next() is not None:
                count += 1
            return count

    def _close(self) -> None:
        with self._turn:
            self._closed = True
            if self._file is not None:
                self._file.close()


def keeping_columns(found: RowIterator, columns: list[str]) -> Iterator[ParsedRow]:
    """What a reader finds; what it returns at its end goes into `columns`."""
    columns += yield from found


def _opened(path: Path, name: str) -> BinaryIO:
    """Raises DataFailed for what is no file, OSError."""
    # Without O_NONBLOCK, opening a named pipe would wait for somebody to write to it.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        _check_kind(os.fstat(descriptor).st_mode, name)
    except DataFailed:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def _check_kind(mode: int, name: str) -> None:
    if stat.S_ISDIR(mode):
        raise DataFailed(f"{name} is a folder", hint="name one file")
    if not stat.S_ISREG(mode):
        raise DataFailed(
            f"{name} is no file, and can be read only once",
            hint=f"name `{STDIN}` and lead it to standard input, of which a copy is kept",
        )


def _unreadable(name: str, path: Path, error: OSError) -> DataFailed:
    if isinstance(error, FileNotFoundError):
        hint = "paths in a workflow are relative to its file"
        here = Path(name).absolute()
        if not PurePath(name).is_absolute() and here != path and here.exists():
            there = os.path.relpath(here, path.parents[len(PurePath(name).parts) - 1])
            hint = f"{hint}: for the file in the working directory write {there} or {here}"
        return DataFailed(f"there is no file {name}: looked for {path}", hint=hint)
    return DataFailed(f"{name} cannot be read: {error.strerror or error}")


def reader_of(name: str, *, kind: str | None, delimiter: str | None) -> Read:
    """How a file of that name is read. `kind` is one of FORMATS, GUESSED or GUESSED_TABLE; None: by its ending.

    Raises DataFailed for a format that nobody knows.
    """
    ending = ending_of(name)
    match kind or BY_ENDING.get(ending):
        case "jsonl":
            return jsonl_rows
        case "json":
            return json_rows
        case "lines":
            return plain_rows
        case "csv":
            return partial(csv_rows, delimiter=delimiter or ("\t" if ending == ".tsv" else None))
        case "guessed" | "guessed table" as guess:
            return partial(guessed_rows, table=guess == GUESSED_TABLE)
    refuse_foreign_ending(name)
    raise DataFailed(
        f"{name}: its ending does not say what it is",
        hint=f"let it end with {', '.join(BY_ENDING)} (also packed, .gz); a foreach can also say `format:`, one of {', '.join(FORMATS)}",
    )


def open_file(
    path: Path, *, kind: str | None = None, delimiter: str | None = None, name: str | None = None
) -> FileRows:
    """The rows of a file; nothing is read yet. `kind` is one of FORMATS, None: by its ending; `name` is how errors
    name it. Raises DataFailed."""
    shown = name or str(path)
    try:
        with suppress(OSError):  # told when it is read, should it be so then
            _check_kind(path.stat().st_mode, shown)
    except ValueError as error:  # a NUL or half a character in it
        raise DataFailed(f"{shown!r} cannot be the name of a file: {error}") from None
    return FileRows(path, reader_of(shown, kind=kind, delimiter=delimiter), name=shown)
