"""Where results are kept that the database cannot take: files whose space is taken beforehand.

They lie beside the database, else in the temporary folder. Each result is a frame with a checksum; frames are
numbered, as one may find its place in an earlier file than the one before it. Before them stands which attempts the
database took last: should it not have them any more, that is told. A process holds its files with flock,
so those that nobody holds were left by one that has ended, and whoever next writes to the database takes them over.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import resource
import secrets
import struct
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from flowllm.storage.folders import PRIVATE, temporary_folders

SEGMENT: Final = 1 << 20
"""Bytes of one file, if no more are needed at once and the limit of the process allows it."""
MOST: Final = 1 << 28
"""Bytes that are taken beforehand; what goes beyond need only be free."""
_HEAD: Final = struct.Struct(">4sIII")
"""Magic, number, length and checksum of a frame."""
_MAGIC: Final = b"FLSP"
_START: Final = 4096
"""Where frames begin; what the database took last stands before."""
_LAST: Final = 100
"""Attempts that are noted, the newest last."""
SENT: Final = "+"
"""Before an attempt that was noted as sent, not as ended."""
_END: Final = bytes(_HEAD.size)
_FLAGS: Final = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW


class Segment:
    """One file, open and locked."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor
        self.size = os.fstat(descriptor).st_size
        self.used = _START
        self.synced = True

    @classmethod
    def make(cls, path: Path, size: int) -> Segment:
        """A new one, its space taken. Raises OSError, and leaves nothing."""
        descriptor = os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL, PRIVATE)
        try:
            _hold(descriptor)
            _allocate(descriptor, size)
            return cls(path, descriptor)
        except BaseException:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            raise

    @classmethod
    def found(cls, path: Path) -> Segment | None:
        """One of this user's, whoever holds it."""
        try:
            descriptor = os.open(path, _FLAGS)
        except OSError:
            return None
        segment = cls(path, descriptor)
        if os.fstat(descriptor).st_uid == os.geteuid():
            return segment
        segment.close()
        return None

    def take(self) -> bool:
        """Whether it is ours now: the process that held it has ended, and none was faster."""
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return os.fstat(self.descriptor).st_nlink > 0

    @property
    def holds(self) -> bool:
        """Whether there is a frame."""
        return self.used > _START

    @property
    def process(self) -> str:
        """What the files of one process have in common; frames are numbered across them."""
        return self.path.name.rpartition(".spill-")[2].rpartition("-")[0]

    @property
    def free(self) -> int:
        """Bytes for one more frame; none in a file that was removed."""
        if not os.fstat(self.descriptor).st_nlink:
            return 0
        return max(0, self.size - self.used - _HEAD.size)

    def append(self, number: int, payload: bytes) -> None:
        """Put a frame there. Raises OSError."""
        frame = _HEAD.pack(_MAGIC, number, len(payload), zlib.crc32(payload)) + payload
        after = self.used + len(frame)
        tail = _END[: max(0, self.size - after)]  # what an earlier frame left there is no frame
        _write(self.descriptor, frame + tail, self.used)
        self.used = after
        self.synced = False

    def sync(self) -> None:
        """Its frames are durable. Raises OSError."""
        if not self.synced:
            os.fsync(self.descriptor)
            self.synced = True

    def frames(self) -> list[tuple[int, bytes]]:
        """All that were put there wholly. Raises OSError."""
        found: list[tuple[int, bytes]] = []
        end = _START
        while (frame := self._frame(end)) is not None:
            found.append(frame)
            end += _HEAD.size + len(frame[1])
        self.used = end  # not before all was read: what cannot be read for now is still there
        return found

    @property
    def noted(self) -> list[str]:
        """The attempts that the database took last."""
        frame = self._frame(0)
        return [] if frame is None else frame[1].decode().split()

    @noted.setter
    def noted(self, attempts: Iterable[str]) -> None:
        # Not synced: it is for processes that are killed; where the power fails, the log's own end is as safe
        payload = " ".join(attempts).encode()
        _write(self.descriptor, _HEAD.pack(_MAGIC, 0, len(payload), zlib.crc32(payload)) + payload, 0)

    def _frame(self, at: int) -> tuple[int, bytes] | None:
        head = os.pread(self.descriptor, _HEAD.size, at)
        if len(head) < _HEAD.size:
            return None
        magic, number, length, checksum = _HEAD.unpack(head)
        payload = os.pread(self.descriptor, length, at + _HEAD.size) if magic == _MAGIC else b""
        whole = magic == _MAGIC and len(payload) == length and zlib.crc32(payload) == checksum
        return (number, payload) if whole else None

    def empty(self) -> None:
        """Forget the frames; the space stays. Raises OSError."""
        if self.holds:
            _write(self.descriptor, _END, _START)
            os.fsync(self.descriptor)
        self.used = _START

    def remove(self) -> None:
        """Give it back."""
        with contextlib.suppress(OSError):
            found, ours = self.path.stat(), os.fstat(self.descriptor)
            if (found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino):
                self.path.unlink()
        self.close()

    def close(self) -> None:
        """Leave it to the next process."""
        with contextlib.suppress(OSError):
            os.close(self.descriptor)


class Spill:
    """The files of one process for one database. Used by one thread."""

    def __init__(self, database: Path) -> None:
        path = database.absolute()
        digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
        self._places = (
            (path.parent, f"{path.name}.spill-"),
            *((folder, f"flowllm-{digest}.spill-") for folder in temporary_folders()),
        )
        self._own: list[Segment] = []
        self._left: list[Segment] = []
        """Of processes that have ended, with frames."""
        self._number = 0
        self._name = f"{os.getpid()}-{secrets.token_hex(8)}"
        self._made = 0
        self._last: deque[str] = deque(maxlen=_LAST)

    @property
    def holds(self) -> bool:
        """Whether there is anything in it."""
        return bool(self._left) or any(segment.holds for segment in self._own)

    @property
    def paths(self) -> list[Path]:
        """The files that hold something."""
        return [segment.path for segment in (*self._left, *self._own) if segment.holds]

    def take_over(self) -> None:
        """Take over what processes have left that have ended; what of that is empty goes."""
        for segment in self._found():
            if not segment.take():
                segment.close()
            elif segment.frames():
                self._left.append(segment)
            else:
                segment.remove()

    def noted(self) -> set[str]:
        """What all processes have noted: it is in the database before, so that it is no matter who still lives."""
        noted: set[str] = set()
        for segment in self._found():
            noted.update(segment.noted)
            segment.close()
        return noted

    def _found(self) -> Iterator[Segment]:
        known = {segment.path for segment in (*self._own, *self._left)}
        for folder, prefix in self._places:
            try:
                names = sorted(entry.name for entry in os.scandir(folder) if entry.name.startswith(prefix))
            except OSError:
                continue
            for path in (folder / name for name in names if folder / name not in known):
                segment = Segment.found(path)
                if segment is not None:
                    yield segment

    def note(self, attempts: Iterable[str]) -> None:
        """The database has these attempts as sent (after SENT), or with their results."""
        self._last.extend(attempts)
        if self._own:
            with contextlib.suppress(OSError):
                self._own[0].noted = self._last

    def forget(self) -> None:
        """Some of them may have been removed."""
        self._last.clear()
        self.note(())

    def reserve(self, results: int, size: int) -> None:
        """Have room for so many results of so many bytes each. Raises OSError if there is none."""
        size += _HEAD.size
        most = _largest_file() - _START
        if most <= 2 * _HEAD.size:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        size = min(size, most - _HEAD.size)
        missing = results - sum(segment.free // size for segment in self._own)
        if missing > 0 and missing * size + sum(segment.size for segment in self._own) > MOST:
            self._see_room(missing * size)
            return
        while missing > 0:
            wanted = min(most, max(SEGMENT, missing * size + _HEAD.size))
            segment = self._make((wanted, min(wanted, size + _HEAD.size)))
            missing -= max(1, segment.free // size)

    def append(self, payload: bytes) -> None:
        """Keep a result, durable after the next `sync`. Raises OSError if there is no room anywhere."""
        room = len(payload) + _HEAD.size
        own = next((segment for segment in self._own if segment.free >= room), None)
        segment = own or self._make((room + _HEAD.size,))
        segment.append(self._number, payload)
        self._number += 1

    def sync(self) -> None:
        """What is in it is durable. Raises OSError."""
        for segment in self._own:
            segment.sync()

    def results(self) -> list[bytes]:
        """What is in it, in the order in which it came. Raises OSError."""
        processes: dict[str, list[tuple[int, bytes]]] = {}
        for segment in (*self._left, *self._own):
            processes.setdefault(segment.process, []).extend(segment.frames())
        return [payload for frames in processes.values() for _, payload in sorted(frames)]

    def clear(self) -> None:
        """All of it is in the database. Raises OSError."""
        for segment in self._left:
            segment.remove()
        self._left = []
        for segment in self._own:
            segment.empty()

    def close(self) -> None:
        """Give the space back; what is in it stays."""
        for segment in self._own:
            if segment.holds:
                with contextlib.suppress(OSError):
                    os.ftruncate(segment.descriptor, segment.used)
                segment.close()
            else:
                segment.remove()
        for segment in self._left:
            segment.close()
        self._own, self._left = [], []

    def _see_room(self, size: int) -> None:
        """So much is not taken, but it must be free. Raises OSError if it is not."""
        for folder, _ in self._places:
            with contextlib.suppress(OSError):
                found = os.statvfs(folder)
                if found.f_bavail * found.f_frsize >= size:
                    return
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _make(self, sizes: tuple[int, ...]) -> Segment:
        """A new file for so many bytes of frames: the first of these sizes that there is room for."""
        failure: OSError | None = None
        for folder, prefix in self._places:
            for size in sizes:
                try:
                    segment = Segment.make(folder / f"{prefix}{self._name}-{self._made}", _START + size)
                except OSError as error:
                    failure = failure or error
                else:
                    self._made += 1
                    self._own.append(segment)
                    return segment
        raise failure or OSError("there is no folder for it")


def _hold(descriptor: int) -> None:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if not os.fstat(descriptor).st_nlink:  # before it was locked, another process has tidied it away
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


def _allocate(descriptor: int, size: int) -> None:
    try:
        os.posix_fallocate(descriptor, 0, size)
    except (AttributeError, OSError):  # not everywhere; where the disk is full, writing says so too
        block = bytes(1 << 16)
        for start in range(0, size, len(block)):
            _write(descriptor, block[: size - start], start)
        os.fsync(descriptor)


def _write(descriptor: int, content: bytes, at: int) -> None:
    while content:
        written = os.pwrite(descriptor, content, at)
        content, at = content[written:], at + written


def _largest_file() -> int:
    """Bytes that this process may put into one file."""
    soft, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return (1 << 62) if soft in {resource.RLIM_INFINITY, -1} else soft
