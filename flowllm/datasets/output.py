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
from flowllm.datasets.file_writes import OutputLock, open_temporary, remove_leftovers, replace_file
from flowllm.datasets.layouts import JsonLines, Layout

_PUT_BACK: Final = "put it back as it was; or start a new run with --overwrite: what was answered comes from the cache"
_JSON_LINES: Final = JsonLines()
_OPEN: Final = 0
_LEFT_OUT: Final = 1
_WANTED: Final = 2
_LONG: Final = 65_536
"""Given indices after which their marks are dropped."""
FULL: Final = 1024 * 1024
"""Bytes that are gathered before they must be written."""


class ReorderBuffer:
    """Which of the indices that end in any order come next. Pure; keeps a byte for each index behind an open one."""

    def __init__(self) -> None:
        self._marks = bytearray()
        self._at = 0
        """In `_marks`, of the first index that has not been given."""
        self._first = 0
        """The index of the first mark."""

    def ended(self, index: int, *, wanted: bool) -> None:
        """An index ended; `wanted` False: there is nothing of it to give."""
        at = index - self._first
        if at >= len(self._marks):
            self._marks.extend(bytes(at + 1 - len(self._marks)))
        self._marks[at] = _WANTED if wanted else _LEFT_OUT

    @property
    def ready(self) -> bool:
        """Whether the first index that has not been given has ended."""
        return self._at < len(self._marks) and self._marks[self._at] != _OPEN

    def take(self, most: int) -> list[int]:
        """The wanted ones among the next indices that have ended, at most so many of those."""
        start, marks = self._at, self._marks
        end = min(start + most, len(marks))
        while self._at < end and marks[self._at] != _OPEN:
            self._at += 1
        taken = [self._first + at for at in range(start, self._at) if marks[at] == _WANTED]
        if self._at >= _LONG:
            del marks[: self._at]
            self._first += self._at
            self._at = 0
        return taken


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
        lock: OutputLock | None,
        *,
        file: BinaryIO | None = None,
        offset: int = 0,
        written: BitSet | None = None,
    ) -> None:
        self._path = path
        self._target = Path(os.path.realpath(path))
        self._replaced = _identity(self._target)
        self._layout = layout
        self._lock = lock
        self._file = file
        self._temporary: Path | None = None
        self._offset = offset
        self._written = written or BitSet()
        self._disowned = self._complete = False
        """A file is made also if no line comes."""
        self._waiting: list[bytes] = []
        self._size = 0
        self._taken: list[bytes] = []
        """Lines that a flush has begun to write: they stay until they are on disk, should it fail or be cancelled."""
        self._writing = threading.Lock()
        """A block whose writer was cancelled is still written by its thread; the next one waits for it."""

    @classmethod
    def begin(
        cls, path: Path, *, overwrite: bool, layout: Layout = _JSON_LINES, lock: OutputLock | None = None
    ) -> OutputFile:
        """A new one. Raises UsageError if there is one and it may not be overwritten, or it cannot be made."""
        check_output(path, overwrite=overwrite)
        remove_leftovers(Path(os.path.realpath(path)).parent)
        return cls(path, layout, lock)

    @classmethod
    def resume(
        cls, path: Path, offset: int, *, layout: Layout = _JSON_LINES, lock: OutputLock | None = None
    ) -> OutputFile:
        """The first `offset` bytes of one that is there; what stands behind them is cut off. At 0 it is begun anew.

        Raises UsageError, and then has changed nothing.
        """
        if not offset:
            return cls.begin(path, overwrite=True, layout=layout, lock=lock)
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
        return cls(path, layout, lock, file=file, offset=offset, written=written)

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
        self._complete = True

    async def flush(self, before: Callable[[], Awaitable[None]] | None = None) -> int | None:
        """Write what waits; the number of bytes that are on disk afterwards, None while nothing was written. `before` is
        awaited before a new file takes its place. Raises StorageFailed, and can be called again then."""
        self._taken += self._waiting
        self._waiting, self._size = [], 0
        if self._taken or (self._complete and self._file is None):
            await asyncio.to_thread(self._write)
        if self._temporary is not None:
            self._check_unchanged()
            if before is not None:
                await before()
            await asyncio.to_thread(self._take_place)
        return None if self._file is None else self._offset

    def _write(self) -> None:
        with self._writing:
            if self._file is not None and not os.fstat(self._file.fileno()).st_nlink:
                raise StorageFailed(
                    f"{self._path} was removed while this run writes to it",
                    hint="the answers are in the database: `flowllm resume` writes all lines anew",
                )
            lines = self._taken.copy()
            head = b"" if self._offset else self._layout.head
            block = head + b"".join(lines)
            try:
                file = self._file or self._opened()
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

    def _opened(self) -> BinaryIO:
        """A file beside the one that is there; that one itself, where nothing can be made in its folder."""
        try:
            self._temporary, descriptor = open_temporary(self._target)
        except OSError as error:
            if self._replaced is None or error.errno not in {errno.EACCES, errno.EPERM, errno.EROFS}:
                raise
            self._file = self._target.open("r+b", buffering=0)
        else:
            self._file = os.fdopen(descriptor, "r+b", buffering=0)
        return self._file

    def _take_place(self) -> None:
        with self._writing:
            if self._temporary is None:
                return
            self._check_unchanged()
            try:
                replace_file(self._temporary, self._target)
            except OSError as error:
                raise self._failed(error) from error
            self._temporary = None
            if self._lock is not None:
                self._lock.follow(self._target)

    def _check_unchanged(self) -> None:
        """Raises StorageFailed if what stands there is not what was to be replaced."""
        if _identity(self._target) != self._replaced:
            raise StorageFailed(
                f"{self._path} was made or changed by another program since this run began",
                hint="move it away, then go on with `flowllm resume`: the answers are in the database",
            )

    def _failed(self, error: OSError) -> StorageFailed:
        return StorageFailed(
            f"{self._path} cannot be written: {error.strerror}",
            hint="make room, then go on with `flowllm resume`: the answers are in the database",
        )

    def disown(self) -> None:
        """Another process writes to it now: nothing of it is changed any more."""
        self._disowned = True

    def close(self) -> None:
        """What was not flushed is left out; a resume writes it, behind all but the layout's end."""
        with self._writing:
            if self._file is not None:
                with contextlib.suppress(OSError):
                    self._end(self._file)
                self._file.close()
        if self._lock is not None:
            self._lock.release()

    def _end(self, file: BinaryIO) -> None:
        if self._temporary is not None:  # it could not take its place
            self._temporary.unlink(missing_ok=True)
        elif self._layout.tail and self._offset and not self._disowned:
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
