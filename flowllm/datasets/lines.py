"""Bytes to text, also packed or in UTF-16 or UTF-32, and to lines, each with its number; none longer than a row may be is
held in memory."""

from __future__ import annotations

import codecs
import gzip
import io
from collections.abc import Iterator
from pathlib import PurePath
from typing import TYPE_CHECKING, BinaryIO, Final

from flowllm.core.errors import DataFailed
from flowllm.core.records import dataclass
from flowllm.datasets.base import MAX_ROW

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


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


_MARKS: Final = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_LOOKED_AT: Final = 8
"""Bytes at the beginning from which an encoding without a byte order mark is known."""
_CHUNK: Final = 256 * 1024


def encoding_of(start: bytes) -> str:
    """The encoding of a text, by its first bytes: by its byte order mark, or by the zeros of UTF-16."""
    for mark, name in _MARKS:
        if start.startswith(mark):
            return name
    start = start[:_LOOKED_AT]
    even, odd = start[::2], start[1::2]
    if len(start) >= 4 and b"\0" not in even and not odd.strip(b"\0"):  # noqa: PLR2004 - two letters at least
        return "utf-16-le"
    if len(start) >= 4 and b"\0" not in odd and not even.strip(b"\0"):  # noqa: PLR2004 - the same
        return "utf-16-be"
    return "utf-8"


def text_of(data: bytes) -> str:
    """A whole file's text, without its byte order mark. Raises ValueError that says why it has none."""
    encoding = encoding_of(data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"not {encoding.upper()} text (byte {error.start + 1})") from None
    if "\0" in text:
        raise ValueError("no text: it has zero bytes")
    return text.removeprefix("\ufeff")


def decompressed(file: BinaryIO) -> BinaryIO:
    """What gzip has packed; the file itself where it has not. RowIterator raises EOFError, zlib.error and OSError where the
    file is damaged."""
    if not isinstance(file, io.BufferedReader) or not file.peek(2).startswith(b"\x1f\x8b"):
        return file
    return io.BufferedReader(gzip.GzipFile(fileobj=file), buffer_size=_CHUNK)


def as_utf8(file: BinaryIO) -> BinaryIO:
    """The same text in UTF-8; the file itself where it is in no other encoding. Waits for the first bytes."""
    encoding = encoding_of(file.peek(_LOOKED_AT)) if isinstance(file, io.BufferedReader) else "utf-8"
    return file if encoding == "utf-8" else io.BufferedReader(_Recoded(file, encoding), buffer_size=_CHUNK)


class _Recoded(io.RawIOBase):
    """A file in another encoding, as UTF-8. What is no text there is none here: halves of characters stay halves."""

    def __init__(self, file: BinaryIO, encoding: str) -> None:
        self._read = getattr(file, "read1", file.read)  # as much as is there: a slow writer's rows are not held up
        self._decoder = codecs.getincrementaldecoder(encoding)(errors="surrogatepass")
        self._data = memoryview(b"")
        self._over = False

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """The next bytes."""
        while not self._data and not self._over:
            read = self._read(_CHUNK)
            self._over = not read
            try:
                text = self._decoder.decode(read, final=self._over)
            except UnicodeDecodeError:  # a character that the file's end has cut
                text = "\udcff"
            self._data = memoryview(text.encode("utf-8", errors="surrogatepass"))
        view = memoryview(buffer)
        size = min(len(view), len(self._data))
        view[:size] = self._data[:size]
        self._data = self._data[size:]
        return size
