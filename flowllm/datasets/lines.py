"""Bytes to lines, each with its number; none longer than a row may be is held in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import BinaryIO, Final

from flowllm.core.errors import DataFailed
from flowllm.datasets.base import MAX_ROW

CHUNK: Final = 1024 * 1024
BOM: Final = b"\xef\xbb\xbf"
_SHOWN: Final = 200
"""Bytes of a line that is too long, of which the beginning alone is kept."""
_AS_TABLE: Final = "save it as CSV or JSON Lines"
_BY_PANDAS: Final = (
    "make JSON Lines of it, for example with pandas: "
    "pandas.{read}({name!r}).to_json('rows.jsonl', orient='records', lines=True)"
)
_UNPACK: Final = "unpack it first, as `{tool}` does"
_FOREIGN: Final = (
    (b"\x1f\x8b", "is compressed", _UNPACK.format(tool="gunzip")),
    (b"\x28\xb5\x2f\xfd", "is compressed", _UNPACK.format(tool="unzstd")),
    (b"BZh", "is compressed", _UNPACK.format(tool="bunzip2")),
    (b"\xfd7zXZ", "is compressed", _UNPACK.format(tool="unxz")),
    (b"7z\xbc\xaf\x27\x1c", "is compressed", _UNPACK.format(tool="7z x")),
    (b"PK\x03\x04", "is a spreadsheet or another zip file", _AS_TABLE),
    (b"PK\x05\x06", "is an empty zip file", _AS_TABLE),
    (b"\xd0\xcf\x11\xe0", "is a spreadsheet or another Office file", _AS_TABLE),
    (b"PAR1", "is Parquet", _BY_PANDAS.replace("{read}", "read_parquet")),
    (b"PARE", "is Parquet, and encrypted", _AS_TABLE),
    (b"ARROW1", "is Arrow", _BY_PANDAS.replace("{read}", "read_feather")),
    (b"FEA1", "is Feather", _BY_PANDAS.replace("{read}", "read_feather")),
    (b"ORC", "is ORC", _BY_PANDAS.replace("{read}", "read_orc")),
    (b"Obj\x01", "is Avro", "make JSON Lines of it, as `fastavro` does"),
    (b"SQLite format 3\0", "is an SQLite database", "save the table as CSV, as `sqlite3 -csv -header` does"),
    (b"\x89HDF", "is HDF5", _BY_PANDAS.replace("{read}", "read_hdf")),
    (b"\x93NUMPY", "is an array of NumPy", _AS_TABLE),
    (b"%PDF-", "is a PDF", "save its text, as `pdftotext` does"),
    (b"\x89PNG", "is an image", "name a file that lists images"),
    (b"\xff\xd8\xff", "is an image", "name a file that lists images"),
)
"""What files begin with that are no text in UTF-8."""
_BY_ENDING: Final = {
    ".parquet": b"PAR1",
    ".pq": b"PAR1",
    ".arrow": b"ARROW1",
    ".ipc": b"ARROW1",
    ".feather": b"ARROW1",
    ".orc": b"ORC",
    ".avro": b"Obj\x01",
    **dict.fromkeys((".xlsx", ".xlsm", ".ods", ".docx", ".zip", ".npz"), b"PK\x03\x04"),
    ".xls": b"\xd0\xcf\x11\xe0",
    **dict.fromkeys((".sqlite", ".sqlite3", ".db"), b"SQLite format 3\0"),
    **dict.fromkeys((".h5", ".hdf5"), b"\x89HDF"),
    ".npy": b"\x93NUMPY",
    ".pdf": b"%PDF-",
    ".zst": b"\x28\xb5\x2f\xfd",
    ".bz2": b"BZh",
    ".xz": b"\xfd7zXZ",
    ".7z": b"7z\xbc\xaf\x27\x1c",
}
"""How files with these endings begin, should what they hold not show it."""


def refuse_foreign_ending(name: str) -> None:
    """Raises DataFailed for a name that is that of no text."""
    mark = _BY_ENDING.get(PurePath(name.lower().removesuffix(".gz")).suffix)
    if mark is not None:
        refuse_foreign(mark, name)


def refuse_foreign(data: bytes, name: str) -> None:
    """Raises DataFailed if a file that begins so is no text."""
    for mark, what, hint in _FOREIGN:
        if data.startswith(mark):
            raise DataFailed(f"{name} {what}", hint=hint.replace("{name!r}", repr(name)))


@dataclass(frozen=True, slots=True)
class Line:
    """One line with its end, if it has one; `data` is its beginning where it is too long."""

    number: int
    data: bytes
    too_long: bool = False


def lines_of(file: BinaryIO, name: str, *, number: int = 1, cut: bool = False) -> Iterator[Line]:
    r"""The lines of a file, a byte order mark left out. Raises DataFailed for what is no text.

    A line ends with `\n`; the last one may lack it. `number` is the first one's. `cut`: the file may break off
    anywhere, so that a last line without an end is none.
    """
    first = number == 1
    while data := file.readline(MAX_ROW + 2):
        if first:
            data, first = text_start(data, name), False
        too_long = len(data) > MAX_ROW and not data.endswith(b"\n")
        ended = _skip(file) if too_long else data.endswith(b"\n")
        if cut and not ended:
            return
        if data:
            yield Line(number, data[:_SHOWN] if too_long else data, too_long)
        number += 1


def text_start(data: bytes, name: str) -> bytes:
    """The first bytes of a file behind its byte order mark. Raises DataFailed for what is no text."""
    refuse_foreign(data, name)
    return data.removeprefix(BOM)


def _skip(file: BinaryIO) -> bool:
    """To the end of the line; false if the file ends before."""
    while data := file.readline(CHUNK):
        if data.endswith(b"\n"):
            return True
    return False
