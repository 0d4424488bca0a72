"""Which run writes to an output: one at a time among all processes, for as long as its process lives."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
import weakref
from collections.abc import Collection
from pathlib import Path
from typing import Final

from flowllm.core.errors import UsageError
from flowllm.core.types import RunId
from flowllm.datasets.atomic_write import is_same_file
from flowllm.datasets.file_registry import file_identities

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
