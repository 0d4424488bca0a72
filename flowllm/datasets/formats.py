"""Formats of which each line is a row. A row that cannot be read is a bad row, and the next one goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import PurePath
from typing import BinaryIO, Final

from flowllm.core.strict_json import json_of
from flowllm.core.types import Json
from flowllm.datasets.arrays import array_rows
from flowllm.datasets.base import TOO_LARGE, ParsedRow, RowIterator, bad_row, parsed_row
from flowllm.datasets.lines import CHUNK, Line, lines_of
from flowllm.datasets.tables import table_rows

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
