"""Files that are written: whole or not at all, by one run at a time, and none that the run reads."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
import stat
import tempfile
import weakref
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

from flowllm.core.errors import StorageFailed, UsageError
from flowllm.core.records import dataclass
from flowllm.core.types import RunId

T = TypeVar("T")

_NAME: Final = re.compile(r"\.flowllm-[0-9a-f]{12}\.tmp")
_BINARY: Final = getattr(os, "O_BINARY", 0)


def open_temporary(target: Path) -> tuple[Path, int]:
    """A new file in the folder of `target` with its mode, or that of any new file, open for writing; the descriptor holds
    a lock for as long as it is open, which tells `remove_leftovers` that its process lives. Raises OSError."""
    while True:
        path = target.with_name(f".flowllm-{secrets.token_hex(6)}.tmp")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | _BINARY, 0o666)
        try:
            if _lock(descriptor, path):  # else `remove_leftovers` was faster
                if target.exists():
                    path.chmod(stat.S_IMODE(target.stat().st_mode))
                return path, descriptor
        except BaseException:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            raise
        os.close(descriptor)


def _lock(descriptor: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks, where nothing is swept either
        return True
    return is_same_file(path, descriptor)


def is_same_file(path: Path, descriptor: int) -> bool:
    """Whether the open file still has that name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def remove_leftovers(folder: Path) -> None:
    """Remove what processes that ended in the middle of writing have left there; what cannot be removed stays."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        left = [entry.path for entry in entries if _NAME.fullmatch(entry.name)]
        for path in left:
            with contextlib.suppress(OSError):
                _remove_unlocked(Path(path))


def _remove_unlocked(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if is_same_file(path, descriptor):
            path.unlink()
    finally:
        os.close(descriptor)


def replace_file(temporary: Path, target: Path) -> None:
    """Rename the temporary file to `target`, durably. Raises OSError."""
    temporary.replace(target)
    with contextlib.suppress(OSError):  # not all file systems can
        folder = os.open(target.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_file(path: Path, write: Callable[[BinaryIO], T]) -> T:
    """Write a file beside it, and put it in its place once it is whole; gives what `write` does. Raises StorageFailed, and then
    has changed nothing."""
    target = Path(os.path.realpath(path))
    try:
        remove_leftovers(target.parent)
        temporary, descriptor = open_temporary(target)
        try:
            with os.fdopen(descriptor, "r+b") as file:
                found = write(file)
                file.flush()
                os.fsync(descriptor)
                replace_file(temporary, target)  # while it is locked: nobody sweeps it away
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except StorageFailed:  # an OSError too, of what is read meanwhile
        raise
    except OSError as error:
        raise StorageFailed(
            f"{path} cannot be written: {error.strerror}", hint="what stood there is as it was"
        ) from None
    return found


class FileConflict(Exception):
    """A file would be written that the run reads, or writes elsewhere."""


def no_step(_step: str) -> bool:
    """No step may write it."""
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Use:
    what: str
    written: bool = False
    after: Callable[[str], bool]
    """Whether a step, named in full, may write it: who reads it waits for that step."""


class FileRegistry:
    """One for each run attempt. Links lead to one file; devices and pipes are not registered."""

    def __init__(self) -> None:
        self._uses: dict[object, _Use] = {}

    def reads(self, path: str | Path, what: str, *, after: Callable[[str], bool] = no_step) -> None:
        """Register a file that is read. Raises FileConflict if it is written."""
        use = self._find(path)
        if use is None:
            self._keep(path, _Use(what=what, after=after))
        elif use.written:
            raise _conflict(use.what, what, path)

    def writes(self, path: str | Path, what: str) -> None:
        """Register a file that is written. Raises FileConflict if it is read or written."""
        self.check(path, what)
        self._keep(path, _Use(what=what, written=True, after=no_step))

    def check(self, path: str | Path, what: str, *, by: str = "") -> None:
        """Raises FileConflict if the file that a step (`by`) is to write is read or written elsewhere."""
        use = self._find(path)
        if use is not None and not use.after(by):
            raise _conflict(what, use.what, path)

    def _find(self, path: str | Path) -> _Use | None:
        return next((self._uses[key] for key in file_identities(path) if key in self._uses), None)

    def _keep(self, path: str | Path, use: _Use) -> None:
        for key in file_identities(path):
            self._uses[key] = use


def file_identities(path: str | Path) -> Iterator[object]:
    """Where all links lead, and the file itself if it is there: it may have other names, also in other letters."""
    try:
        real = os.path.realpath(path)
    except ValueError:  # with a NUL or half a character in it, it is no file's name: whoever opens it tells that
        return
    try:
        found = Path(real).stat()
    except OSError:
        yield real
        return
    if stat.S_ISREG(found.st_mode):
        yield real
        yield found.st_dev, found.st_ino


def _conflict(writer: str, reader: str, path: str | Path) -> FileConflict:
    return FileConflict(f"{writer} would write over {reader}: {path}")


_LONGEST: Final = 1000
"""Bytes of what a holder tells of itself."""


class OutputLock:
    """Locks in the temporary folder, one for each name of the file, so that none is left where the output is. The kernel
    gives them back when the process ends, however it ends."""

    def __init__(self, path: Path, run_id: RunId) -> None:
        """Raises UsageError if another run that is under way writes to that file."""
        self._run_id = run_id
        self._locks: dict[object, tuple[Path, int]] = {}
        self.release = weakref.finalize(self, _release, self._locks)
        """Give them back; more than once does nothing."""
        try:
            for name in file_identities(path):
                self._take(name, path)
        except UsageError:
            self.release()
            raise

    def follow(self, path: Path) -> None:
        """Another file stands at the path now: hold its names, and no more those of the one before."""
        names = list(file_identities(path))
        _release(self._locks, keep=names)
        with contextlib.suppress(UsageError):
            for name in names:
                self._take(name, path)

    def _take(self, name: object, path: Path) -> None:
        if name in self._locks:
            return
        digest = hashlib.sha256(repr(name).encode(errors="surrogatepass")).hexdigest()[:32]
        file = Path(f"flowllm-{os.getuid()}-{digest}.lock")
        # Where none can be had (no room, another user's), what stands in the file is still looked at
        with contextlib.suppress(OSError):
            file = Path(tempfile.gettempdir()) / file
            try:
                self._locks[name] = file, _locked(file, self._run_id)
            except BlockingIOError:
                holder = _holder(file)
                if holder.get("run") != self._run_id:  # who owns a run, the database decides
                    raise UsageError(
                        f"{path}: {_described(holder)} writes to this file",
                        hint="name another file with --output, or wait until it has ended",
                    ) from None


def _locked(file: Path, run_id: RunId) -> int:
    """Raises BlockingIOError if another has it, OSError."""
    while True:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(file, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_same_file(file, descriptor):  # else its holder has just removed it
                os.ftruncate(descriptor, 0)
                os.write(descriptor, json.dumps({"run": run_id, "pid": os.getpid()}).encode())
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _holder(file: Path) -> dict[str, object]:
    with contextlib.suppress(OSError, ValueError), file.open("rb") as lines:
        found = json.loads(lines.read(_LONGEST))
        if isinstance(found, dict):
            return found
    return {}


def _described(holder: dict[str, object]) -> str:
    if not holder:
        return "another run"
    return f"run {holder.get('run')} (process {holder.get('pid')})"


def _release(locks: dict[object, tuple[Path, int]], *, keep: Collection[object] = ()) -> None:
    for name in [name for name in locks if name not in keep]:
        file, descriptor = locks.pop(name)
        with contextlib.suppress(OSError):
            file.unlink()  # while it is locked, so that nobody else's goes
        os.close(descriptor)
