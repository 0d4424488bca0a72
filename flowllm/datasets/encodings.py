"""Text files in the encodings that programs write: UTF-8, and UTF-16 and UTF-32 as spreadsheet programs do."""

from __future__ import annotations

import codecs
import gzip
import io
from typing import TYPE_CHECKING, BinaryIO, Final

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

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
