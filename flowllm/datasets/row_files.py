"""Files of flat rows, by their format: a writer takes the rows in turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Final, Protocol

from flowllm.core.errors import UsageError
from flowllm.core.types import Json
from flowllm.datasets.layouts import DELIMITERS, cell, json_line, record

FORMATS: Final = ("csv", "tsv", "jsonl", "json", "parquet")
TABLES: Final = frozenset({"csv", "tsv", "parquet"})
"""Formats whose columns must be known before the first row is written."""
_BY_ENDING: Final = {"ndjson": "jsonl", **{name: name for name in FORMATS}}


def format_of(name: str) -> str:
    """The format that a file's ending says. Raises UsageError if it says none."""
    ending = PurePath(name).suffix.lower().removeprefix(".")
    if ending not in _BY_ENDING:
        raise UsageError(
            f"{name} has no ending that says what to write",
            hint=f"end it with {', '.join(f'.{one}' for one in FORMATS)}, or say --format",
        )
    return _BY_ENDING[ending]


class ByteSink(Protocol):
    """Where bytes go: a file, or what stands for one."""

    def write(self, block: bytes, /) -> object:
        """All of them."""
        ...


class RowWriter(Protocol):
    """Writes rows to a file that somebody else opens and closes."""

    def write(self, row: Mapping[str, Json]) -> None:
        """Append one."""
        ...

    def end(self) -> None:
        """No more will come: write what belongs behind the last one."""
        ...


class JsonLinesWriter:
    """An object a line."""

    def __init__(self, file: ByteSink) -> None:
        self._file = file

    def write(self, row: Mapping[str, Json]) -> None:
        self._file.write(json_line(dict(row)))

    def end(self) -> None:
        """See `RowWriter`."""


class JsonArrayWriter:
    """An array of objects, each on a line of its own."""

    def __init__(self, file: ByteSink) -> None:
        self._file = file
        self._before = b"[\n"

    def write(self, row: Mapping[str, Json]) -> None:
        self._file.write(self._before + json_line(dict(row)).removesuffix(b"\n"))
        self._before = b",\n"

    def end(self) -> None:
        self._file.write(b"[]\n" if self._before == b"[\n" else b"\n]\n")


class TableWriter:
    """CSV under a header, with cells as `--output` writes them."""

    def __init__(self, file: ByteSink, columns: Sequence[str], form: str) -> None:
        self._file = file
        self._columns = columns
        self._delimiter = DELIMITERS[f".{form}"]
        file.write(record([cell(name) for name in columns], self._delimiter))

    def write(self, row: Mapping[str, Json]) -> None:
        self._file.write(record([cell(row.get(name)) for name in self._columns], self._delimiter))

    def end(self) -> None:
        """See `RowWriter`."""
