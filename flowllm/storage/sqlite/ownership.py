"""Who has a run: a file per run names the lock file of its owner, held with flock for as long as the owner lives.

The kernel gives the lock back when the process ends, however it ends. One lock file for all runs of an owner keeps the
number of open files small however many runs go on at once. The epoch in the database is the second line: should a
run's file be deleted and the run taken over, the former owner's writes are refused there.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from flowllm.core.errors import StorageFailed
from flowllm.core.types import RunId
from flowllm.storage.base import Owner
from flowllm.storage.sql.faults import run_owned

TRIES: Final = 250
PAUSE: Final = 0.02
"""Seconds between tries. The folder is held for microseconds, while a run changes hands."""


_HERE: dict[str, tuple[Locks, asyncio.AbstractEventLoop]] = {}
"""Those of this process with their loops, by the names of their lock files."""


class Locks:
    """The locks on runs of one database that this owner holds."""

    def __init__(self, database: Path) -> None:
        self._folder = database.with_name(f"{database.name}.locks")
        self._mine: set[RunId] = set()
        self._name = ""
        self._descriptor: int | None = None

    async def acquire(self, run_id: RunId, owner: Owner) -> None:
        """Become the owner of a run, and write that into its file. Raises RunOwned, StorageFailed."""
        try:
            for _ in range(TRIES):
                if self._take(run_id, owner):
                    return
                await asyncio.sleep(PAUSE)  # waits for another process, so no clock of ours can pass it
        except OSError as error:
            raise StorageFailed(
                f"The lock of run {run_id} in {self._folder} cannot be taken: {error.strerror}.",
                hint="Give this user write access to that folder, and check that the disk has space.",
            ) from error
        raise StorageFailed(
            f"The lock of run {run_id} in {self._folder} cannot be taken: another process holds the folder.",
            hint="See which one that is with `lsof`, and end it if it is stuck.",
        )

    def release(self, run_id: RunId) -> None:
        """Give a run back and remove its file; nothing happens if it is not held here."""
        if run_id not in self._mine:
            return
        with contextlib.suppress(OSError):
            if self._is_mine(run_id):
                self._file(run_id).unlink()
        self._forget(run_id)

    def forget_lost(self, run_id: RunId) -> None:
        """Let go of a run whose file another owner has replaced; one that is still ours stays."""
        with contextlib.suppress(OSError):
            if run_id in self._mine and not self._is_mine(run_id):
                self._forget(run_id)

    def release_all(self) -> None:
        """Give back every run."""
        for run_id in list(self._mine):
            self.release(run_id)

    def held(self, run_id: RunId) -> bool:
        """Whether any living owner, this one included, has that run."""
        try:
            return run_id in self._mine or self._is_alive(self._read(run_id).get("lock"))
        except OSError:
            return True  # nobody knows, so nobody takes it

    def _take(self, run_id: RunId, owner: Owner) -> bool:
        """Whether the run is ours now; False if the folder is not free. Raises RunOwned, OSError."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        with _exclusive(self._folder) as free:
            if not free:
                return False
            found = self._read(run_id)
            if self._is_alive(found.get("lock")):
                raise run_owned(run_id, _owner(found))
            self._mine.add(run_id)
            try:
                self._open()
                self._write(run_id, owner)
            except BaseException:
                self._forget(run_id)
                raise
        return True

    def _open(self) -> None:
        """Hold a lock file that nobody else can have."""
        if self._descriptor is not None:
            return
        self._name = f".{os.getpid()}-{secrets.token_hex(8)}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._descriptor = os.open(self._folder / self._name, flags, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _HERE[self._name] = self, asyncio.get_running_loop()

    def _write(self, run_id: RunId, owner: Owner) -> None:
        content = {"pid": owner.pid, "host": owner.host, "since": owner.since, "lock": self._name}
        new = self._folder / f"{self._name}.new"
        try:
            new.touch(mode=0o600)
            new.write_text(json.dumps(content))
            new.replace(self._file(run_id))
        except BaseException:
            new.unlink(missing_ok=True)
            raise

    def _forget(self, run_id: RunId) -> None:
        self._mine.discard(run_id)
        if self._mine or self._descriptor is None:
            return
        with contextlib.suppress(OSError):
            (self._folder / self._name).unlink()
        os.close(self._descriptor)
        self._descriptor = None
        _HERE.pop(self._name, None)

    def _is_mine(self, run_id: RunId) -> bool:
        return self._read(run_id).get("lock") == self._name

    def _is_alive(self, name: object) -> bool:
        """Whether somebody holds that lock file; one that nobody holds is removed. Raises OSError."""
        if not isinstance(name, str) or not name.startswith(".") or "/" in name:
            return False
        holder, loop = _HERE.get(name, (None, None))
        if holder is not None and loop is not None and loop.is_closed():
            holder.release_all()  # its program has left without closing it: nothing of it can go on
        elif self._descriptor is not None and name == self._name:
            return True
        try:
            descriptor = os.open(self._folder / name, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            with contextlib.suppress(OSError):
                (self._folder / name).unlink()
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def _file(self, run_id: RunId) -> Path:
        return self._folder / quote(run_id, safe="", errors="surrogatepass").replace(".", "%2E")

    def _read(self, run_id: RunId) -> dict[str, Any]:
        """What is told of its owner. Raises OSError where that is not known: it is no run without an owner."""
        try:
            content = json.loads(self._file(run_id).read_text())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}


@contextlib.contextmanager
def _exclusive(folder: Path) -> Iterator[bool]:
    """Whether nobody else changes what is in the folder meanwhile."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield _locked(descriptor)
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _owner(content: dict[str, Any]) -> Owner | None:
    try:
        return Owner(pid=int(content["pid"]), host=str(content["host"]), since=float(content["since"]))
    except (ValueError, TypeError, KeyError):
        return None
