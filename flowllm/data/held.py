"""Which run writes to an output: one at a time among all processes, for as long as its process lives."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Final

from flowllm.data.beside import stands_at
from flowllm.data.claims import names_of
from flowllm.errors import UsageError

if TYPE_CHECKING:
    from flowllm.types import RunId

_LONGEST: Final = 1000
"""Bytes of what a holder tells of itself."""


class Held:
    """Locks in the temporary folder, one for each name of the file, so that none is left where the output is. The kernel
    gives them back when the process ends, however it ends."""

    def __init__(self, path: Path, run_id: RunId) -> None:
        """Raises UsageError if another run that is under way writes to that file."""
        self._run_id = run_id
        self._locks: list[tuple[Path, int]] = []
        self.release = weakref.finalize(self, _release, self._locks)
        """Give them back; more than once does nothing."""
        self.take(path)

    def take(self, path: Path) -> None:
        """Also the names that the file has now. Raises UsageError, and gives all back."""
        for name in names_of(path):
            digest = hashlib.sha256(repr(name).encode(errors="surrogatepass")).hexdigest()[:32]
            file = Path(tempfile.gettempdir(), f"flowllm-{os.getuid()}-{digest}.lock")
            try:
                self._locks.append((file, _locked(file, self._run_id)))
            except BlockingIOError:
                holder = _holder(file)
                if holder.get("run") == self._run_id:  # who owns a run, the database decides
                    continue
                self.release()
                raise UsageError(
                    f"{path}: {_told(holder)} writes to this file",
                    hint="name another file with --output, or wait until it has ended",
                ) from None
            except OSError:  # no room there, or another user's: what stands in the file is still looked at
                continue


def _locked(file: Path, run_id: RunId) -> int:
    """Raises BlockingIOError if another has it, OSError."""
    while True:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(file, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if stands_at(file, descriptor):  # else its holder has just removed it
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


def _told(holder: dict[str, object]) -> str:
    if not holder:
        return "another run"
    return f"run {holder.get('run')} (process {holder.get('pid')})"


def _release(locks: list[tuple[Path, int]]) -> None:
    while locks:
        file, descriptor = locks.pop()
        with contextlib.suppress(OSError):
            file.unlink()  # while it is locked, so that nobody else's goes
        os.close(descriptor)
