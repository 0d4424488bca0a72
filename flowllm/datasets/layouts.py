"""What stands in a file by its ending: JSON Lines, one array of JSON, or a table with a header."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePath
from typing import BinaryIO, Final, Protocol

from flowllm.core.types import Json

DELIMITERS: Final = {".csv": ",", ".tsv": "\t"}
_INDEX: Final = re.compile(rb'\{"index": (\d{1,9}), ')
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_FORMULA: Final = re.compile("[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
"""What a cell begins with that spreadsheet programs take for a formula."""
_NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_QUOTED: Final = {mark: re.compile(rf'["\n\r{mark}]|\A\s|\s\Z') for mark in DELIMITERS.values()}
"""What a cell holds that is put into quotes."""
_ITEM: Final = "item"
_PREFIX: Final = f"{_ITEM}."
_VALUE: Final = "value"
"""The column of a list whose items are no mappings."""


class Layout(Protocol):
    """How rows stand in a file of `--output`."""

    @property
    def head(self) -> bytes:
        """Before the first row."""
        ...

    tail: bytes
    """Behind the last one, once no more will come."""

    def line(self, index: int, row: Json, outputs: Json, *, first: bool) -> bytes:
        """One row; `first`: no other stands before it."""
        ...

    def indices(self, file: BinaryIO, size: int) -> Iterator[int]:
        """The rows that the first `size` bytes hold. Raises ValueError if this layout has not left them so."""
        ...


def layout_of(name: str, outputs: Sequence[str], columns: Sequence[str] = ()) -> Layout:
    """How a file of that name is written, for a workflow with these outputs and a data set with these columns."""
    ending = PurePath(name).suffix.lower()
    if ending == ".json":
        return JsonArray()
    return JsonLines() if ending not in DELIMITERS else Table(outputs, DELIMITERS[ending], columns)


def line_of(index: int, row: Json, outputs: Json) -> bytes:
    """One line of JSON Lines."""
    text = f'{{"index": {index}, "row": {_ENCODER.encode(row)}, "outputs": {_ENCODER.encode(outputs)}}}\n'
    return _bytes_of_json(text)


def json_text(value: Json) -> str:
    """A value as JSON on one line."""
    return _ENCODER.encode(value)


def json_line(value: Json) -> bytes:
    """A value as a line of JSON Lines."""
    return _bytes_of_json(f"{json_text(value)}\n")


def _bytes_of_json(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:  # half a character can stand in JSON only as its escape
        return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text).encode()


class JsonLines:
    """`{index, row, outputs}` a line."""

    head = tail = b""

    def line(self, index: int, row: Json, outputs: Json, *, first: bool) -> bytes:  # noqa: ARG002 - see Layout
        return line_of(index, row, outputs)

    def indices(self, file: BinaryIO, size: int) -> Iterator[int]:
        for line in _lines(file, size):
            yield _index_in(line, b"\n")


class JsonArray:
    """An array of `{index, row, outputs}`, each on a line of its own."""

    head, tail = b"[", b"\n]\n"

    def line(self, index: int, row: Json, outputs: Json, *, first: bool) -> bytes:
        return (b"\n" if first else b",\n") + line_of(index, row, outputs).removesuffix(b"\n")

    def indices(self, file: BinaryIO, size: int) -> Iterator[int]:
        """See `Layout`. The last line ends without a comma."""
        lines = _lines(file, size)
        before = next(lines, b"")
        if before not in {b"", b"[", b"[\n"}:
            raise ValueError(before)
        whole = before != b"[\n"
        for line in lines:
            whole = not line.endswith(b",\n")
            yield _index_in(line, b"}" if whole else b"},\n")
        if not whole:
            raise ValueError("a comma, and nothing behind it")


def _lines(file: BinaryIO, size: int) -> Iterator[bytes]:
    """The lines of the first `size` bytes; the last one may be cut. Raises ValueError if there are not so many."""
    while size:
        line = file.readline(size)
        if not line:
            raise ValueError("it is shorter")
        size -= len(line)
        yield line


def _index_in(line: bytes, end: bytes) -> int:
    found = _INDEX.match(line)
    if found is None or not line.endswith(end):
        raise ValueError(line[:40])
    return int(found[1])


class Table:
    """CSV: the row's index, its columns and the workflow's outputs under a header. A column of a name that an output has is
    `item.NAME`; a row that is no mapping is `item`."""

    tail = b""

    def __init__(self, outputs: Sequence[str], delimiter: str, columns: Sequence[str] = ()) -> None:
        """`columns` are those of a new file: one that is gone on with has them in its header."""
        self._outputs = list(outputs)
        self._delimiter = delimiter
        self._index = "_index" if "index" in self._outputs else "index"
        self._columns = list(columns)

    @property
    def head(self) -> bytes:
        header = [self._index, *map(self._header_of, self._columns), *self._outputs]
        return record([cell(name) for name in header], self._delimiter)

    def line(self, index: int, row: Json, outputs: Json, *, first: bool) -> bytes:  # noqa: ARG002 - see Layout
        values = row if isinstance(row, dict) else {_ITEM: row}
        cells = [
            cell(one.get(name)) for one, names in ((values, self._columns), (outputs, self._outputs)) for name in names
        ]
        return record([str(index), *cells], self._delimiter)

    def _header_of(self, column: str) -> str:
        return f"{_PREFIX}{column}" if self._is_taken(column) else column

    def _is_taken(self, name: str) -> bool:
        while name.startswith(_PREFIX):
            name = name.removeprefix(_PREFIX)
        return name == self._index or name in self._outputs

    def _adopt(self, header: Sequence[str]) -> None:
        """Go on under that header. Raises ValueError if it is none of this workflow's."""
        names = [_as_written(name) for name in header[1 : len(header) - len(self._outputs)]]
        self._columns = [name.removeprefix(_PREFIX) if self._is_taken(name) else name for name in names]
        if record(header, self._delimiter) != self.head:
            raise ValueError(header)

    def indices(self, file: BinaryIO, size: int) -> Iterator[int]:
        csv.field_size_limit(max(256 * 1024 * 1024, csv.field_size_limit()))
        last = b"\n"

        def texts() -> Iterator[str]:
            nonlocal last
            for last in _lines(file, size):
                yield last.decode()

        try:
            records = csv.reader(texts(), delimiter=self._delimiter, strict=True)
            header = next(records, [])
            if header:
                self._adopt(header)
            for cells in records:
                if len(cells) != len(header):
                    raise ValueError(cells)
                yield int(cells[0])
        except csv.Error as error:
            raise ValueError(error) from None
        if not last.endswith(b"\n"):
            raise ValueError(last[:40])


def record(cells: Sequence[str], delimiter: str) -> bytes:
    """One record of CSV, with its end. Half a character stands there as an escape."""
    quoted = [_quoted(one, delimiter) for one in cells]
    text = delimiter.join(quoted) if quoted != [""] else '""'
    return f"{text}\n".encode(errors="backslashreplace")


def _quoted(text: str, delimiter: str) -> str:
    if _QUOTED[delimiter].search(text):
        return '"' + text.replace('"', '""') + '"'
    return text


def cell(value: Json) -> str:
    """A value in a cell: null is empty, lists, mappings and numbers are JSON. A text that a spreadsheet program would take
    for a formula gets a `'` before it."""
    if value is None:
        return ""
    if not isinstance(value, str):
        return str(value) if type(value) is int else json_text(value)
    return f"'{value}" if _FORMULA.match(value) and not _NUMBER.fullmatch(value) else value


def _as_written(text: str) -> str:
    """The text of a cell without what `cell` has put before it."""
    return text[1:] if text.startswith("'") and cell(text[1:]) == text else text


def content_of_file(name: str, value: Json) -> bytes:
    """What a file of that name holds of a value. Raises ValueError for half a character in a text.

    A text is written as it is, where it is what the ending says; else as JSON. Other values are JSON Lines, CSV or, by any
    other ending, JSON.
    """
    ending = PurePath(name).suffix.lower()
    if isinstance(value, str):
        return _text(ending, value)
    if ending in {".jsonl", ".ndjson"}:
        values = value if isinstance(value, list) else [value]
        return b"".join(json_line(one) for one in values)
    if ending in DELIMITERS:
        return b"".join(record(cells, DELIMITERS[ending]) for cells in _table(value))
    return _bytes_of_json(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def _text(ending: str, text: str) -> bytes:
    parts: Iterable[str] = ()
    if ending == ".json":
        parts = (text,)
    elif ending in {".jsonl", ".ndjson"}:
        parts = (line for line in text.split("\n") if line.strip())
    if not all(_is_json(part) for part in parts):
        return json_line(text)
    return text.encode()


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _table(value: Json) -> Iterator[list[str]]:
    """The records of a value: the keys of its mappings are the header; items that are lists are records themselves."""
    values = value if isinstance(value, list) else [value]
    filled = [one for one in values if one is not None]
    if filled and all(isinstance(one, list) for one in filled):
        yield from ([cell(part) for part in one or ()] for one in values)
    elif filled and all(isinstance(one, dict) for one in filled):
        names = list(dict.fromkeys(name for one in filled for name in one))
        yield names
        yield from ([cell((one or {}).get(name)) for name in names] for one in values)
    elif filled or values:
        yield [_VALUE]
        yield from ([cell(one)] for one in values)
