"""Files that are written to a temporary file and then renamed: whole or not at all. What dead processes left is removed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import stat
from pathlib import Path
from typing import Final

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
