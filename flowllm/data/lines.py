"""Bytes to lines, each with its number; none longer than a row may be is held in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final

from flowllm.data.base import MAX_ROW
from flowllm.errors import DataFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK: Final = 1024 * 1024
BOM: Final = b"\xef\xbb\xbf"
_SHOWN: Final = 200
"""Bytes of a line that is too long, of which the beginning alone is kept."""
_FOREIGN: Final = (
    (b"\x1f\x8b", "is compressed", "unpack it first, as `gunzip` does"),
    (b"\x28\xb5\x2f\xfd", "is compressed", "unpack it first, as `unzstd` does"),
    (b"BZh", "is compressed", "unpack it first, as `bunzip2` does"),
    (b"\xfd7zXZ", "is compressed", "unpack it first, as `unxz` does"),
    (b"PK\x03\x04", "is a spreadsheet or another zip file", "save it as CSV or JSON Lines"),
    (b"\xd0\xcf\x11\xe0", "is a spreadsheet or another Office file", "save it as CSV or JSON Lines"),
    (b"PAR1", "is Parquet", "save it as CSV or JSON Lines, as pandas and DuckDB do"),
    (b"ARROW1", "is Arrow", "save it as CSV or JSON Lines, as pandas and DuckDB do"),
    (b"SQLite format 3\0", "is an SQLite database", "save the table as CSV or JSON Lines"),
)
"""What files begin with that are no text in UTF-8."""


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
    for mark, what, hint in _FOREIGN:
        if data.startswith(mark):
            raise DataFailed(f"{name} {what}", hint=hint)
    return data.removeprefix(BOM)


def _skip(file: BinaryIO) -> bool:
    """To the end of the line; false if the file ends before."""
    while data := file.readline(CHUNK):
        if data.endswith(b"\n"):
            return True
    return False
