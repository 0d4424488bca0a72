"""A file as a stream of rows, in any of the formats that are read: a row that cannot be read is a bad row, and the next one
goes on. Read in a thread, many rows at a time, so that a slow disk holds up nobody else."""

from __future__ import annotations

import asyncio
import gzip
import os
import stat
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path, PurePath
from typing import BinaryIO, Final, Protocol

from flowllm.core.errors import DataFailed
from flowllm.core.strict_json import json_of
from flowllm.core.types import Json
from flowllm.datasets.arrays import array_rows
from flowllm.datasets.base import TOO_LARGE, ParsedRow, Row, RowIterator, bad_row, parsed_row
from flowllm.datasets.lines import CHUNK, Line, as_utf8, decompressed, lines_of, refuse_foreign_ending
from flowllm.datasets.tables import csv_rows, table_rows

FORMATS: Final = ("jsonl", "json", "csv", "lines")
BY_ENDING: Final = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "lines",
}
GUESSED: Final = "guessed"
"""Not a format of its own: the first line decides."""
GUESSED_TABLE: Final = "guessed table"
"""The same, where rows are wanted that are mappings."""
_JSON_BEGINS: Final = (b"{", b"[", b'"')


def ending_of(name: str) -> str:
    """What the name of a file, packed or not, says of what is in it."""
    return PurePath(name.lower().removesuffix(".gz")).suffix


def jsonl_rows(file: BinaryIO, name: str, *, cut: bool = False) -> RowIterator:
    """A JSON value a line; empty lines are left out. Raises DataFailed for what is no text, as all readers do.

    Readers return the columns of a table without rows, and nothing for all else.

    `cut`: the file may break off anywhere; what is not whole at its end is none. So for all readers.
    """
    for line in _filled(lines_of(file, name, cut=cut)):
        yield _row(line, name, json_of)
    return ()


def plain_rows(file: BinaryIO, name: str, *, cut: bool = False) -> RowIterator:
    """A text a line; empty lines are left out."""
    for line in _filled(lines_of(file, name, cut=cut)):
        yield _row(line, name, _text_of)
    return ()


def json_rows(file: BinaryIO, name: str, *, cut: bool = False) -> RowIterator:
    """The elements of one array. Raises DataFailed where the array breaks off, or is none."""
    yield from array_rows(_chunks(file), name, cut=cut)
    return ()


def guessed_rows(file: BinaryIO, name: str, *, table: bool = False, cut: bool = False) -> RowIterator:
    """As the first line says: `{`, `[` or `"` begin JSON Lines, an array that goes on in the next line is read as one,
    anything else begins plain lines; or CSV, where a `table` is wanted. (A cell of CSV that begins so is rare.)"""
    lines = lines_of(file, name, cut=cut)
    line = next(_filled(lines), None)
    if line is None:
        return ()
    begin = line.data.lstrip()[:1]
    if table and begin not in _JSON_BEGINS:
        return (yield from table_rows(chain((line,), lines), name, cut=cut))
    read = json_of if begin in _JSON_BEGINS else _text_of
    row = _row(line, name, read)
    if begin == b"[" and row[3] is not None and not line.too_long:
        yield from array_rows(chain((line.data,), _chunks(file)), name, line=line.number, cut=cut)
        return ()
    yield row
    for following in _filled(lines):
        yield _row(following, name, read)
    return ()


def _filled(lines: Iterator[Line]) -> Iterator[Line]:
    return (line for line in lines if line.data.strip())


def _row(line: Line, name: str, read: Callable[[bytes], Json]) -> ParsedRow:
    if line.too_long:
        return bad_row(line.data, line.number, name, TOO_LARGE)
    return parsed_row(line.data, line.number, name, read)


def _text_of(data: bytes) -> Json:
    return data.decode().removesuffix("\n").removesuffix("\r")


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    """As much as is there, so that a slow writer's rows are not kept waiting."""
    read = getattr(file, "read1", file.read)
    while data := read(CHUNK):
        yield data


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
        self._reader = read
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
        return await asyncio.to_thread(self._take, most)

    async def count_rest(self) -> int:
        return await asyncio.to_thread(self._count)

    async def close(self) -> None:
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

    async def count(self, wanted: Callable[[], bool]) -> int | None:
        lines = self._reader is jsonl_rows  # what stands in them does not matter
        return await asyncio.to_thread(_counted, self._path, plain_rows if lines else self._reader, self._name, wanted)

    def _close(self) -> None:
        with self._turn:
            self._closed = True
            if self._file is not None:
                self._file.close()


_AT_ONCE: Final = 256
_REST: Final = 4
"""Rows that are counted at a time, and how many times as long as that took nothing is done before the next: the run has the
interpreter."""


def _counted(path: Path, read: Read, name: str, wanted: Callable[[], bool]) -> int | None:
    count, since = 0, time.perf_counter()
    try:
        with _opened(path, name) as file:
            for _ in read(as_utf8(decompressed(file)), name):
                count += 1
                if count % _AT_ONCE == 0:
                    if not wanted():
                        return None
                    time.sleep(_REST * (time.perf_counter() - since))
                    since = time.perf_counter()
    except (DataFailed, EOFError, zlib.error, OSError):  # whoever reads it tells of that
        return None
    return count


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
