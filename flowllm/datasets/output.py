"""The file that `--output` names: one line or record a row, each once, also across crashes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import BinaryIO, Final

from flowllm.core.errors import StorageFailed, UsageError
from flowllm.core.types import Json
from flowllm.datasets.atomic_write import open_temporary, remove_leftovers, replace_file
from flowllm.datasets.layouts import JsonLines, Layout
from flowllm.datasets.output_lock import OutputLock

_PUT_BACK: Final = "put it back as it was; or start a new run with --overwrite: what was answered comes from the cache"
_JSON_LINES: Final = JsonLines()
FULL: Final = 1024 * 1024
"""Bytes that are gathered before they must be written."""


class BitSet:
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
    """Appended to, a block at a time. Not for several tasks at once, but for `add`.

    A new one is written beside what stands there, if anything does, and takes its place with the first block: until then
    nothing is changed.
    """

    def __init__(
        self,
        path: Path,
        layout: Layout,
        held: OutputLock | None,
        *,
        file: BinaryIO | None = None,
        offset: int = 0,
        written: BitSet | None = None,
    ) -> None:
        self._path = path
        self._target = Path(os.path.realpath(path))
        self._stood = _identity(self._target)
        self._layout = layout
        self._held = held
        self._file = file
        self._beside: Path | None = None
        self._offset = offset
        self._written = written or BitSet()
        self._empty = False
        """It is wanted also if no line comes."""
        self._waiting: list[bytes] = []
        self._size = 0
        self._taken: list[bytes] = []
        """Lines that a flush has begun to write: they stay until they are on disk, should it fail or be cancelled."""
        self._turn = threading.Lock()
        """A block whose writer was cancelled is still written by its thread; the next one waits for it."""

    @classmethod
    def begin(
        cls, path: Path, *, overwrite: bool, layout: Layout = _JSON_LINES, held: OutputLock | None = None
    ) -> OutputFile:
        """A new one. Raises UsageError if there is one and it may not be overwritten, or it cannot be made."""
        check_output(path, overwrite=overwrite)
        remove_leftovers(Path(os.path.realpath(path)).parent)
        return cls(path, layout, held)

    @classmethod
    def resume(
        cls, path: Path, offset: int, *, layout: Layout = _JSON_LINES, held: OutputLock | None = None
    ) -> OutputFile:
        """The first `offset` bytes of one that is there; what stands behind them is cut off. At 0 it is begun anew.

        Raises UsageError, and then has changed nothing.
        """
        if not offset:
            return cls.begin(path, overwrite=True, layout=layout, held=held)
        _check_kind(path)
        try:
            with path.open("rb") as lines:
                if lines.read(1) == b"{":  # earlier versions wrote JSON Lines whatever the ending
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
        remove_leftovers(Path(os.path.realpath(path)).parent)
        return cls(path, layout, held, file=file, offset=offset, written=written)

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

    def complete(self) -> None:
        """All rows have ended: also without a line there is a file, with the next `flush`."""
        self._empty = True

    async def flush(self, before: Callable[[], Awaitable[None]] | None = None) -> int | None:
        """Write what waits; the number of bytes that are on disk afterwards, None while nothing was written. `before` is
        awaited before a new file takes its place. Raises StorageFailed, and can be called again then."""
        self._taken += self._waiting
        self._waiting, self._size = [], 0
        if self._taken or (self._empty and self._file is None):
            await asyncio.to_thread(self._write)
        if self._beside is not None:
            self._check_unchanged()
            if before is not None:
                await before()
            await asyncio.to_thread(self._take_place)
        return None if self._file is None else self._offset

    def _write(self) -> None:
        with self._turn:
            if self._file is not None and not os.fstat(self._file.fileno()).st_nlink:
                raise StorageFailed(
                    f"{self._path} was removed while this run writes to it",
                    hint="the answers are in the database: `flowllm resume` writes all lines anew",
                )
            lines = self._taken.copy()
            head = b"" if self._offset else self._layout.head
            block = head + b"".join(lines)
            try:
                file = self._file or self._begun()
                file.truncate(self._offset)  # the beginning of a block that could not be written wholly
                file.seek(self._offset)
                view = memoryview(block)
                while view:
                    view = view[file.write(view) or 0 :]
                os.fsync(file.fileno())
            except OSError as error:
                raise self._failed(error) from error
            del self._taken[: len(lines)]
            self._offset += len(block)

    def _begun(self) -> BinaryIO:
        """A file beside the one that is there; that one itself, where nothing can be made in its folder."""
        try:
            self._beside, descriptor = open_temporary(self._target)
        except OSError as error:
            if self._stood is None or error.errno not in {errno.EACCES, errno.EPERM, errno.EROFS}:
                raise
            self._file = self._target.open("r+b", buffering=0)
        else:
            self._file = os.fdopen(descriptor, "r+b", buffering=0)
        return self._file

    def _take_place(self) -> None:
        with self._turn:
            if self._beside is None:
                return
            self._check_unchanged()
            try:
                replace_file(self._beside, self._target)
            except OSError as error:
                raise self._failed(error) from error
            self._beside = None
            if self._held is not None:
                self._held.follow(self._target)

    def _check_unchanged(self) -> None:
        """Raises StorageFailed if what stands there is not what was to be replaced."""
        if _identity(self._target) != self._stood:
            raise StorageFailed(
                f"{self._path} was made or changed by another program since this run began",
                hint="move it away, then go on with `flowllm resume`: the answers are in the database",
            )

    def _failed(self, error: OSError) -> StorageFailed:
        return StorageFailed(
            f"{self._path} cannot be written: {error.strerror}",
            hint="make room, then go on with `flowllm resume`: the answers are in the database",
        )

    def close(self) -> None:
        """What was not flushed is left out; a resume writes it, behind all but the layout's end."""
        with self._turn:
            if self._file is not None:
                with contextlib.suppress(OSError):
                    self._end(self._file)
                self._file.close()
        if self._held is not None:
            self._held.release()

    def _end(self, file: BinaryIO) -> None:
        if self._beside is not None:  # it could not take its place
            self._beside.unlink(missing_ok=True)
        elif self._layout.tail and self._offset:
            file.truncate(self._offset)
            file.seek(self._offset)
            file.write(self._layout.tail)
            os.fsync(file.fileno())


def check_output(path: Path, *, overwrite: bool) -> None:
    """Raises UsageError if there is a file and it may not be overwritten, or none can be made there."""
    _check_kind(path)
    target = Path(os.path.realpath(path))
    there = target.exists()
    if there and not overwrite:
        raise UsageError(f"{path} exists already", hint="name another file, or write over it with --overwrite")
    why, hint = 0, ""
    if not target.parent.is_dir():
        why, hint = errno.ENOENT, "make its folder first"
    elif not os.access(target if there else target.parent, os.W_OK):
        why = errno.EROFS if os.statvfs(target.parent).f_flag & os.ST_RDONLY else errno.EACCES
    if why:
        raise UsageError(f"{path} cannot be written: {os.strerror(why)}", hint=hint)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _check_kind(path: Path) -> None:
    """Raises UsageError for a folder, a pipe, a device, a file that standard output or standard error leads to."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None
    mode = found.st_mode
    if stat.S_ISDIR(mode):
        raise UsageError(f"{path} is a folder", hint="name a file in it")
    if not stat.S_ISREG(mode):
        raise UsageError(
            f"{path} is no file: a run that is resumed could not tell what it has written there",
            hint="name a file, or - for standard output",
        )
    for stream in (1, 2):
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(stream), found):
                raise UsageError(
                    f"{path} is where this program prints to", hint="name another file, or - for standard output"
                )


def _indices(lines: BinaryIO, path: Path, size: int, layout: Layout) -> BitSet:
    """The rows whose lines are the first `size` bytes. Raises UsageError if a run has not left them so."""
    if os.fstat(lines.fileno()).st_size < size:
        raise UsageError(f"{path} is shorter than this run has left it", hint=_PUT_BACK)
    found, right = BitSet(), True
    try:
        for index in layout.indices(lines, size):
            right = right and index not in found
            found.add(index)
    except ValueError:
        right = False
    if not right:
        raise UsageError(f"{path} is not as this run has left it", hint=_PUT_BACK)
    return found
