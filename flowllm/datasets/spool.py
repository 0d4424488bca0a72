"""Standard input as rows: given as they come, and copied to a file from which a resume reads them again."""

from __future__ import annotations

import asyncio
import io
import os
import select
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from flowllm.core.errors import DataFailed
from flowllm.datasets.base import ParsedRow, Row, Rows
from flowllm.datasets.files import GUESSED, FileRows, Read, keeping_columns, reader_of
from flowllm.datasets.lines import as_utf8
from flowllm.datasets.rows import WrappedRows

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


AHEAD: Final = 1024
"""Rows that are read before they are wanted."""
AHEAD_BYTES: Final = 8 * 1024 * 1024
"""The same in bytes."""
NAME: Final = "standard input"
_active_spools: Final[dict[Path, SpooledRows]] = {}
"""Those that read standard input and make the copies, in this process."""


def standard_input() -> BinaryIO:
    """The process's own. Raises DataFailed if it has none."""
    if sys.stdin is None:  # so where a shell has closed it with <&-
        raise DataFailed(f"{NAME} is closed", hint="lead a data set to it, or name a file")
    return sys.stdin.buffer


def spool_path(database: Path | None, run_id: str) -> Path:
    """Where standard input is kept for a run, so that a resume can read it again."""
    if database is None:
        return Path(tempfile.gettempdir()) / f"flowllm-{os.getpid()}" / run_id
    return database.parent / "spool" / run_id


def open_spool(
    stdin: Callable[[], BinaryIO], path: Path, *, kind: str | None = None, delimiter: str | None = None
) -> Rows:
    """The rows of standard input, or of its copy where an earlier run attempt has made one.

    `kind` is one of FORMATS, GUESSED or GUESSED_TABLE; None: GUESSED. Raises DataFailed.
    """
    read = reader_of(NAME, kind=kind or GUESSED, delimiter=delimiter)
    part = path.with_name(f"{path.name}.part")
    if path in _active_spools:
        return FollowerRows(_active_spools[path], path, read)
    if path.exists():
        return FileRows(path, read, name=NAME)
    if part.exists():
        return IncompleteCopyRows(FileRows(part, read, name=NAME, cut=True))
    rows = _active_spools[path] = SpooledRows(stdin, path, read)
    return rows


class IncompleteCopyRows(WrappedRows):
    """The whole rows of a copy that was not finished; then an error, as the rest cannot be read again."""

    async def take(self, most: int) -> list[Row]:
        rows = await super().take(most)
        if not rows:
            raise DataFailed(
                f"{NAME} was not read to its end before the run stopped",
                hint="start a new run with the same input: what was answered comes from the cache",
            )
        return rows


class FollowerRows:
    """The copy that another step of the same run makes, once that is whole."""

    total: int | None = None
    live = True

    def __init__(self, leader: SpooledRows, path: Path, read: Read) -> None:
        self._leader = leader
        self._path = path
        self._read = read
        self._rows: Rows | None = None
        leader.follow()

    async def take(self, most: int) -> list[Row]:
        if self._rows is None:
            await self._leader.copied()
            self._rows = FileRows(self._path, self._read, name=NAME)
        return await self._rows.take(most)

    async def count_rest(self) -> int:
        return 0 if self._rows is None else await self._rows.count_rest()

    async def close(self) -> None:
        if self._rows is not None:
            await self._rows.close()


class SpooledRows:
    """Read in a thread of its own, which ends with the process: a read from a terminal cannot be broken off."""

    total: int | None = None
    live = True

    def __init__(self, stdin: Callable[[], BinaryIO], path: Path, read: Read) -> None:
        self._stdin = stdin
        self._path = path
        self._reader = read
        self._available = asyncio.Event()
        self._copied = asyncio.Event()
        self._followed = False
        """Others wait for the whole copy: it is made to its end, however long this reader takes."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._condition = threading.Condition()
        """Holds all that follows together: it is used by the thread as well."""
        self._rows: deque[tuple[Row, int]] = deque()
        self._size = 0
        self._wanted = False
        """A caller waits for rows."""
        self._ended = False
        self._closed = False
        self._failed: DataFailed | None = None
        self.columns: list[str] = []
        """Of a table that has no rows, once that is known."""

    async def take(self, most: int) -> list[Row]:
        self._start()
        while (rows := self._taken(most)) is None:
            await self._available.wait()
        return rows

    def follow(self) -> None:
        """Others will wait for the whole copy."""
        with self._condition:
            self._followed = True
            self._condition.notify()

    async def copied(self) -> None:
        """Wait until all of it is in the copy. Raises DataFailed."""
        self._start()
        await self._copied.wait()
        if self._failed is not None:
            raise self._failed

    def _start(self) -> None:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            threading.Thread(target=self._run, name="flowllm-stdin", daemon=True).start()

    def _taken(self, most: int) -> list[Row] | None:
        """What is there; None: nothing yet, and `_available` will tell."""
        with self._condition:
            if not self._rows and not self._ended:
                self._available.clear()
                self._wanted = True
                return None
            if not self._rows and self._failed is not None:
                raise self._failed
            taken = [self._rows.popleft() for _ in range(min(most, len(self._rows)))]
            self._size -= sum(size for _, size in taken)
            self._condition.notify()
        return [row for row, _ in taken]

    async def count_rest(self) -> int:
        """0: it is not known without waiting for it."""
        return 0

    async def close(self) -> None:
        with self._condition:
            self._closed = self._ended = True
            self._rows.clear()
            self._condition.notify()
        self._available.set()
        if not self._followed or self._loop is None:
            _active_spools.pop(self._path, None)

    # in the thread

    def _run(self) -> None:
        failed = None
        try:
            self._copy()
        except DataFailed as error:
            failed = error
        except Exception as error:  # noqa: BLE001 - raised to the reader of the rows, whatever it is
            failed = DataFailed(f"{NAME} cannot be read: {error}")
        with self._condition:
            self._failed = failed
            self._ended = True
        _active_spools.pop(self._path, None)
        self._set(self._available)
        self._set(self._copied)

    def _copy(self) -> None:
        part = self._path.with_name(f"{self._path.name}.part")
        source = self._stdin()
        try:
            part.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise _not_copied(part, error) from None
        with os.fdopen(descriptor, "wb", buffering=0) as copy:
            tee = io.BufferedReader(_Tee(source, copy, part), buffer_size=64 * 1024)
            rows = keeping_columns(self._reader(as_utf8(tee), NAME), self.columns)
            for index, found in enumerate(rows):
                if not self._hand_over(index, found):
                    return
            if self._closed and not self._followed:
                return
            try:
                os.fsync(copy.fileno())
                part.rename(self._path)
            except OSError as error:
                raise _not_copied(part, error) from None

    def _hand_over(self, index: int, found: ParsedRow) -> bool:
        """Hand on a row, once there is room; False: no more is wanted."""
        line, size, value, error = found
        row = Row(index=index, value=value, line=line, error=error)
        with self._condition:
            while not (self._closed or self._followed) and (len(self._rows) >= AHEAD or self._size > AHEAD_BYTES):
                self._condition.wait()
            if self._closed:
                return self._followed
            self._rows.append((row, size))
            self._size += size
            wanted, self._wanted = self._wanted, False
        if wanted:
            self._set(self._available)
        return True

    def _set(self, event: asyncio.Event) -> None:
        with suppress(RuntimeError):  # the loop is closed
            if self._loop is not None:
                self._loop.call_soon_threadsafe(event.set)


def _not_copied(part: Path, error: OSError) -> DataFailed:
    return DataFailed(
        f"the copy of {NAME} at {part} cannot be written: {error.strerror}",
        hint="make room there; or put the data into a file, and name that",
    )


class _Tee(io.RawIOBase):
    """A file of which every byte goes into a copy before it is given."""

    def __init__(self, file: BinaryIO, copy: BinaryIO, path: Path) -> None:
        self._file = file
        self._copy = copy
        self._path = path
        try:
            # Python's own object for standard input cannot be closed while a thread waits in it: the process would
            # break off at its very end.
            self._descriptor: int | None = file.fileno()
        except OSError:
            self._descriptor = None

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Raises DataFailed if the copy cannot be written."""
        view = memoryview(buffer)
        data = self._read(len(view))
        view[: len(data)] = data
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._copy.write(rest) :]
        except OSError as error:
            raise _not_copied(self._path, error) from None
        return len(data)

    def _read(self, most: int) -> bytes:
        if self._descriptor is None:
            return self._file.read(most)
        while True:
            try:
                return os.read(self._descriptor, most)
            except BlockingIOError:  # another process has made it non-blocking
                select.select([self._descriptor], [], [])


def forget_spool(path: Path) -> None:
    """Remove a copy of standard input, finished or not, if there is one."""
    for name in (path, path.with_name(f"{path.name}.part")):
        name.unlink(missing_ok=True)
