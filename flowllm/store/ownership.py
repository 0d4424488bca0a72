"""Who has a run: a lock file per run, held with flock for as long as the owner lives.

The kernel gives the lock back when the process ends, however it ends. The epoch in the database is the
second line: should the file be deleted and the run taken over, the former owner's writes are refused there.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from flowllm.errors import StorageFailed
from flowllm.store.base import Owner
from flowllm.store.refusals import run_owned

if TYPE_CHECKING:
    from pathlib import Path

    from flowllm.types import RunId

TRIES: Final = 10
PAUSE: Final = 0.02
"""Seconds between tries. Someone who only looks whether a lock is held has it for microseconds."""


class Locks:
    """The locks on runs of one database that this process holds."""

    def __init__(self, database: Path) -> None:
        self._folder = database.with_name(f"{database.name}.locks")
        self._held: dict[RunId, int] = {}

    async def acquire(self, run_id: RunId, owner: Owner) -> None:
        """Take a run's lock and write the owner into it. Raises RunOwned, StorageFailed."""
        for attempt in range(TRIES):
            if attempt:
                await asyncio.sleep(PAUSE)  # waits for another process, so no clock of ours can pass it
            try:
                descriptor = self._try(run_id)
            except OSError as error:
                raise StorageFailed(
                    f"The lock of run {run_id} in {self._folder} cannot be taken: {error.strerror}.",
                    hint="Give this user write access to that folder, and check that the disk has space.",
                ) from error
            if descriptor is not None:
                self.forget_lost(run_id)
                self._held[run_id] = descriptor
                _note(descriptor, owner)
                return
            if run_id in self._held:
                break
        raise run_owned(run_id, self._read(run_id))

    def release(self, run_id: RunId) -> None:
        """Give a lock back and remove its file; nothing happens if it is not held here."""
        descriptor = self._held.pop(run_id, None)
        if descriptor is None:
            return
        with contextlib.suppress(OSError):
            if _same_file(descriptor, self._file(run_id)):
                self._file(run_id).unlink()
        os.close(descriptor)

    def forget_lost(self, run_id: RunId) -> None:
        """Let go of a lock whose file another owner has replaced; one that still holds stays."""
        descriptor = self._held.get(run_id)
        if descriptor is not None and not _same_file(descriptor, self._file(run_id)):
            os.close(self._held.pop(run_id))

    def release_all(self) -> None:
        """Give back every lock."""
        for run_id in list(self._held):
            self.release(run_id)

    def held(self, run_id: RunId) -> bool:
        """Whether any living process, this one included, holds that run's lock."""
        if run_id in self._held:
            return True
        try:
            descriptor = os.open(self._file(run_id), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return False

    def _file(self, run_id: RunId) -> Path:
        return self._folder / quote(run_id, safe="", errors="surrogatepass").replace(".", "%2E")

    def _try(self, run_id: RunId) -> int | None:
        """A descriptor that holds the lock on the file that is there now, None if another has it."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        path = self._file(run_id)
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _same_file(descriptor, path):
                    return descriptor
            except BlockingIOError:
                os.close(descriptor)
                return None
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # its last owner removed the file before we had it: look again

    def _read(self, run_id: RunId) -> Owner | None:
        try:
            content = json.loads(self._file(run_id).read_text())
            return Owner(pid=int(content["pid"]), host=str(content["host"]), since=float(content["since"]))
        except (OSError, ValueError, TypeError, KeyError):
            return None


def _note(descriptor: int, owner: Owner) -> None:
    """For people and for RunOwned; the lock itself does not depend on it."""
    content = json.dumps({"pid": owner.pid, "host": owner.host, "since": owner.since})
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, content.encode(), 0)


def _same_file(descriptor: int, path: Path) -> bool:
    mine = os.fstat(descriptor)
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)
