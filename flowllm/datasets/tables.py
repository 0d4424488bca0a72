"""CSV, by the header's names."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from itertools import chain
from typing import BinaryIO, Final

from flowllm.core.errors import DataFailed
from flowllm.datasets.base import MAX_ROW, SHOWN, TOO_LARGE, RowIterator, bad_row
from flowllm.datasets.lines import Line, lines_of

_DELIMITERS: Final = (b",", b";", b"\t", b"|")
_QUOTED: Final = re.compile(rb'"[^"]*"')
_NAMES_DELIMITER: Final = re.compile(rb"sep=([^\r\n])\r?\n", re.IGNORECASE)
"""What spreadsheet programs write before the header."""
_AROUND: Final = " \t\r\n\v\f\xa0\ufeff"
"""What names of columns are freed of: spaces, also those that do not break a line, and byte order marks."""
_NOT_CLOSED: Final = "a quote is not closed"


class _TooLarge(Exception):
    """One record has grown over what a row may be."""


def csv_rows(file: BinaryIO, name: str, *, delimiter: str | None = None, cut: bool = False) -> RowIterator:
    """A mapping of texts a record, an empty cell is ""; empty lines are left out. Raises DataFailed.

    Spaces around the names of columns are left out. Without `delimiter` it is what the first lines show.

    After a record that cannot be read the line behind its first one is next: a quote that is not closed takes only its
    own row along.
    """
    return table_rows(lines_of(file, name, cut=cut), name, delimiter=delimiter, cut=cut)


def table_rows(lines: Iterator[Line], name: str, *, delimiter: str | None = None, cut: bool = False) -> RowIterator:
    """As `csv_rows`, of lines that were begun already."""
    if delimiter is None:
        lines, delimiter = _sniffed(lines)
    records = _Records(lines, delimiter, cut=cut)
    header: list[str] | None = None
    rows = False
    while (cells := records.next()) is not None:
        if header is None:
            header = _header(cells, records, name)
            continue
        rows = True
        if records.problem:
            yield bad_row(records.head, records.line, name, records.problem, records.size)
        elif len(cells) == len(header):
            yield records.line, records.size, dict(zip(header, cells, strict=True)), None
        elif len(cells) > 1 or cells[0].strip():
            problem = f"{_cells(len(cells))}, and the header has {len(header)}"
            yield bad_row(records.head, records.line, name, problem, records.size)
    return () if rows else header or ()


def _sniffed(lines: Iterator[Line]) -> tuple[Iterator[Line], str]:
    """The lines, and the delimiter that the first ones show."""
    first: list[Line] = []
    while len(first) < 2 and (line := next(lines, None)) is not None:  # noqa: PLR2004 - header and first record
        named = _NAMES_DELIMITER.match(line.data) if not first else None
        if named is not None:
            return lines, named[1].decode()
        if line.data.strip():
            first.append(line)
    return chain(first, lines), _delimiter(*(line.data for line in first))


def _delimiter(header: bytes = b"", record: bytes = b"") -> str:
    """That which the header has most often; where the first record is whole and lacks it, it is part of a name."""
    outside, rest = _QUOTED.sub(b"", header), _QUOTED.sub(b"", record)
    best = max(_DELIMITERS, key=outside.count)  # of equals the first
    if best == b"," or best not in outside or (record and best not in rest and b'"' not in rest):
        return ","
    return best.decode()


def _cells(count: int) -> str:
    return "1 cell" if count == 1 else f"{count} cells"


def _header(cells: list[str], records: _Records, name: str) -> list[str]:
    where = f"{name}:{records.line}"
    if records.problem:
        raise DataFailed(f"{where}: the header cannot be read: {records.problem}")
    if any("\0" in cell for cell in cells):
        raise DataFailed(f"{where}: the header has zero bytes: this is no text", hint="is it CSV?")
    cells = [cell.strip(_AROUND) for cell in cells]
    for at, cell in enumerate(cells):
        if not cell:
            raise DataFailed(
                f"{where}: column {at + 1} of the header has no name", hint="every column needs a name of its own"
            )
        if cell in cells[:at]:
            raise DataFailed(
                f"{where}: the header names {cell:.{SHOWN}} twice", hint="every column needs a name of its own"
            )
    return cells


class _Records:
    """Records one by one, and what is known of the last one. None is held beyond what a row may be."""

    def __init__(self, lines: Iterator[Line], delimiter: str, *, cut: bool) -> None:
        # Cells as large as a row may be. The limit is the process's own, and only ever raised: other readers of CSV,
        # in other threads, are not to find it lowered under their hands.
        csv.field_size_limit(max(MAX_ROW, csv.field_size_limit()))
        self._lines = [lines]
        """The last one is read first: lines that are read once more come before all others."""
        self._delimiter = delimiter
        self._cut = cut
        self._reader = self._new_reader()
        self._behind = bytearray()
        """The lines of the record behind its first one."""
        self._refused: Line | None = None
        self.line = 0
        self.head = b""
        self.size = 0
        self.problem = ""
        """Why the record cannot be read; "" if it can."""

    def next(self) -> list[str] | None:
        """The cells of the next record that is not an empty line, [] for one that cannot be read; None at the end."""
        while True:
            self.head, self.size, self.problem, self._refused = b"", 0, "", None
            if self._behind:
                self._behind = bytearray()
            try:
                cells: list[str] = next(self._reader)
            except StopIteration:
                return None
            except _TooLarge:
                return self._again(TOO_LARGE if self._refused is None else f"{_NOT_CLOSED}: {TOO_LARGE}")
            except csv.Error as error:
                if "end of data" not in str(error):
                    return self._again(_reason(error))
                if self._cut:
                    return None
                return self._again(_NOT_CLOSED)
            if cells:
                return cells

    def _again(self, problem: str) -> list[str]:
        """Give up the record, and go back to the line behind its first one."""
        self.problem = problem
        if self._refused is not None:
            self._lines.append(iter([self._refused]))
        if self._behind:
            self._lines.append(lines_of(io.BytesIO(bytes(self._behind)), "", number=self.line + 1))
        self._reader = self._new_reader()
        return []

    def _new_reader(self) -> Iterator[list[str]]:
        return csv.reader(self._texts(), delimiter=self._delimiter, strict=True)

    def _next_line(self) -> Line | None:
        while self._lines:
            line = next(self._lines[-1], None)
            if line is not None:
                return line
            self._lines.pop()
        return None

    def _texts(self) -> Iterator[str]:
        """Lines as csv wants them."""
        while (line := self._next_line()) is not None:
            if not self.head:
                self.line, self.head = line.number, line.data[:SHOWN]
                self.size = len(line.data)
                if line.too_long:
                    raise _TooLarge
            else:
                self.size += len(line.data)
                if line.too_long or self.size > MAX_ROW:
                    self._refused = line
                    raise _TooLarge
                self._behind += line.data
            try:
                yield line.data.decode()
            except UnicodeDecodeError as error:
                self.problem = self.problem or f"not UTF-8 (byte {error.start + 1} of line {line.number})"
                yield line.data.decode(errors="replace")


def _reason(error: csv.Error) -> str:
    problem = str(error)
    if "new-line character" in problem:
        return "a carriage return in the middle of a line"
    if "expected after" in problem:
        return "a quote is not closed, or one within a quoted cell is not doubled"
    return TOO_LARGE if "field larger" in problem else f"not CSV: {problem}"
