"""The file that `--output` names: one line or record a row, each once, also across crashes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import threading
from typing import TYPE_CHECKING, BinaryIO, Final

from flowllm.data.layouts import JsonLines
from flowllm.errors import StorageFailed, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from flowllm.data.layouts import Layout
    from flowllm.types import Json

_PUT_BACK: Final = (
    "put it back as it was; or start a new run with --overwrite: what was answered comes from the cache"
)
_JSON_LINES: Final = JsonLines()
FULL: Final = 1024 * 1024
"""Bytes that are gathered before they must be written."""


class Bits:
    """A set of small whole numbers, a bit each."""

    def __init__(self) -> None:
        self._bits = bytearray()

    def add(self, number: int) -> None:
        """Put one in."""
        at, bit = divmod(number, 8)
        if at >= len(self._bits):
            self._bits.extend(bytes(at + 1 - len(self._bits) + len(self._bits) // 4))
        self._bits[at] |= 1 << bit

    def __bool__(self) -> bool:
        return bool(self._bits)

    def __contains__(self, number: int) -> bool:
        at, bit = divmod(number, 8)
        return at < len(self._bits) and bool(self._bits[at] >> bit & 1)


class OutputFile:
    """Appended to, a block at a time. Not for several tasks at once, but for `add`."""

    def __init__(self, path: Path, file: BinaryIO, offset: int, written: Bits, layout: Layout) -> None:
        self._path = path
        self._file = file
        self._offset = offset
        self._written = written
        self._layout = layout
        self._waiting: list[bytes] = [layout.head] if layout.head and not offset else []
        self._size = len(layout.head) if self._waiting else 0
        self._taken: list[bytes] = []
        """Lines that a flush has begun to write: they stay until they are on disk, should it fail or be cancelled."""
        self._turn = threading.Lock()
        """A block whose writer was cancelled is still written by its thread; the next one waits for it."""

    @classmethod
    def begin(cls, path: Path, *, overwrite: bool, layout: Layout = _JSON_LINES) -> OutputFile:
        """A new one. Raises UsageError if there is one and it may not be overwritten, or it cannot be made."""
        _check_kind(path)
        try:
            file = path.open("wb" if overwrite else "xb", buffering=0)
        except FileExistsError:
            raise UsageError(
                f"{path} exists already", hint="name another file, or write over it with --overwrite"
            ) from None
        except OSError as error:
            hint = "make its folder first" if isinstance(error, FileNotFoundError) else ""
            raise UsageError(f"{path} cannot be written: {error.strerror}", hint=hint) from None
        return cls(path, file, 0, Bits(), layout)

    @classmethod
    def resume(cls, path: Path, offset: int, *, layout: Layout = _JSON_LINES) -> OutputFile:
        """The first `offset` bytes of one that is there; what stands behind them is cut off.

        Raises UsageError, and then has changed nothing.
        """
        _check_kind(path)
        try:
            with path.open("rb") as lines:
                if offset and lines.read(1) == b"{":  # earlier versions wrote JSON Lines whatever the ending
                    layout = _JSON_LINES
                lines.seek(0)
                written = _indices(lines, path, offset, layout)
            file = path.open("r+b", buffering=0)
            file.truncate(offset)
            file.seek(offset)
        except OSError as error:
            raise UsageError(
                f"{path}, to which this run writes, cannot be opened: {error.strerror}", hint=_PUT_BACK
            ) from None
        return cls(path, file, offset, written, layout)

    def has(self, index: int) -> bool:
        """Whether that row's line is in the file, or waits to be written."""
        return index in self._written

    def add(self, index: int, row: Json, outputs: Json) -> None:
        """Append a line with the next `flush`."""
        if index in self._written:
            return
        line = self._layout.line(index, row, outputs, first=not self._written)
        self._written.add(index)
        self._waiting.append(line)
        self._size += len(line)

    @property
    def waiting(self) -> int:
        """Bytes that are still to be written."""
        return self._size

    async def flush(self) -> int:
        """Write what waits; the number of bytes that are on disk afterwards. Raises StorageFailed, and can be called
        again then."""
        self._taken += self._waiting
        self._waiting, self._size = [], 0
        if self._taken:
            await asyncio.to_thread(self._write)
        return self._offset

    def _write(self) -> None:
        with self._turn:
            lines = self._taken.copy()
            block = b"".join(lines)
            try:
                self._file.truncate(self._offset)  # the beginning of a block that could not be written wholly
                self._file.seek(self._offset)
                view = memoryview(block)
                while view:
                    view = view[self._file.write(view) or 0 :]
                os.fsync(self._file.fileno())
            except OSError as error:
                raise StorageFailed(
                    f"{self._path} cannot be written: {error.strerror}",
                    hint="make room, then go on with `flowllm resume`: the answers are in the database",
                ) from error
            del self._taken[: len(lines)]
            self._offset += len(block)

    def close(self) -> None:
        """What was not flushed is left out; a resume writes it, behind all but the layout's end."""
        with self._turn, contextlib.suppress(OSError):
            if self._layout.tail and self._offset:
                self._file.truncate(self._offset)
                self._file.seek(self._offset)
                self._file.write(self._layout.tail)
                os.fsync(self._file.fileno())
        self._file.close()


def _check_kind(path: Path) -> None:
    """Raises UsageError for a folder, a pipe, a device."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    if stat.S_ISDIR(mode):
        raise UsageError(f"{path} is a folder", hint="name a file in it")
    if not stat.S_ISREG(mode):
        raise UsageError(
            f"{path} is no file: a run that is resumed could not tell what it has written there",
            hint="name a file, or - for standard output",
        )


def _indices(lines: BinaryIO, path: Path, size: int, layout: Layout) -> Bits:
    """The rows whose lines are the first `size` bytes. Raises UsageError if a run has not left them so."""
    if os.fstat(lines.fileno()).st_size < size:
        raise UsageError(f"{path} is shorter than this run has left it", hint=_PUT_BACK)
    found, right = Bits(), True
    try:
        for index in layout.indices(lines, size):
            right = right and index not in found
            found.add(index)
    except ValueError:
        right = False
    if not right:
        raise UsageError(f"{path} is not as this run has left it", hint=_PUT_BACK)
    return found
