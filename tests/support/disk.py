"""Where a simulated run is on record: in memory, or in a real database that is removed, replaced and full at times."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import random
import shutil
import sqlite3
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowllm.core.clock import Clock
from flowllm.core.errors import StorageFailed
from flowllm.core.types import Json, NodeStatus
from flowllm.storage.base import Store
from flowllm.storage.open import this_process
from flowllm.storage.sql import spill, texts
from flowllm.storage.sql.store import SqlStore
from flowllm.storage.sql.writer import Failpoints
from flowllm.storage.sqlite.connection import connect
from flowllm.storage.sqlite.engine import at
from tests.support.stores import FAST, InlineStore, new_database

if TYPE_CHECKING:
    Records = dict[str, tuple[NodeStatus, Json]]
    Verb = Callable[..., Awaitable[object]]

WRITES = {"create_run", "claim_run", "update_run", "begin_attempt", "commit", "adopt", "finish_run"}


def _records(path: Path) -> Records:
    with closing(connect(path, mode="rw")) as connection:
        rows = texts.read(connection, "SELECT node_id, status, output FROM nodes", {}, (2,))
    return {name: (NodeStatus(status), json.loads(output)) for name, status, output in rows}


class Memory:
    """A store that outlives the processes that use it, and has no troubles."""

    vanished = 0

    def __init__(self, draw: random.Random) -> None:
        self._store = InlineStore()

    def open(self, clock: Clock) -> Store:
        self._store.abandon()
        return self._store

    def records(self) -> Records:
        """Of all nodes: what became of them."""
        return _records(self._store.path)

    def restore(self) -> None:
        pass

    def remove(self) -> None:
        pass


class File:
    """A database on a disk."""

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw
        self.folder = Path(tempfile.mkdtemp(prefix="flowllm-sim-", dir=FAST))
        (self.folder / "home").mkdir()
        self.path = self.folder / "home" / "flowllm.db"
        self.path.write_bytes(new_database())
        tempfile.tempdir = str(self.folder)  # what finds its place there is gone with it
        self._full = 0.0
        self.vanished = 0

    def open(self, clock: Clock) -> Store:
        return SqlStore(at(self.path), owner=this_process(clock), failpoints=Failpoints(before_commit=self._commit))

    def records(self) -> Records:
        """Of all nodes: what became of them."""
        return _records(self.path)

    # its troubles

    def fill(self) -> None:
        """From now on there is no room for new files, and for some or all of what is written to the database."""
        self._full = self._draw.choice([0.3, 1.0])
        spill._allocate = self._allocate

    def vanish(self) -> None:
        """Its files are removed, moved away, or others take their place."""
        self.vanished += 1
        away = self.folder / f"away-{self.vanished}"
        home, how = self.path.parent, self._draw.randrange(5)
        if home == self.folder:
            how = self._draw.randrange(2, 5)
        match how:
            case 0:
                _remove(home)
            case 1:
                home.rename(away)
            case 2:
                self.path.rename(away)
            case 3:
                self._unlink()
            case _:
                self._unlink()
                self.path.write_bytes(new_database())

    def _unlink(self) -> None:
        for tail in ("", "-wal", "-shm"):
            self.path.with_name(f"{self.path.name}{tail}").unlink(missing_ok=True)

    def restore(self) -> None:
        """There is room again."""
        self._full = 0.0
        spill._allocate = _allocate

    def remove(self) -> None:
        tempfile.tempdir = None
        _remove(self.folder)

    def _commit(self) -> None:
        if self._draw.random() < self._full:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error

    @staticmethod
    def _allocate(descriptor: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


_allocate = spill._allocate


class Disk:
    """A store as one process has it: writes take time, and all ends with the process. It remembers what was said to be
    on record."""

    def __init__(self, store: Store, draw: random.Random, records: Callable[[], Records]) -> None:
        self._store = store
        self._draw = draw
        self._records = records
        self.dead = False
        self.owns = False
        """It has the run, and so the database open."""
        self.kept: Records = {}
        self.open: set[str] = set()
        """Attempts that are on record, and their outcome is not."""
        self.most_open = 0
        self.at_write: Callable[[], None] | None = None
        """Called once, just when the `writes_left`th write is under way."""
        self.writes_left = 0
        self._lock = asyncio.Lock()
        self.finished = False

    def __getattr__(self, name: str) -> Any:
        verb = getattr(self._store, name)
        if not asyncio.iscoroutinefunction(verb):
            return verb

        async def call(*args: Any, **kwargs: Any) -> object:
            if name in WRITES:
                return await self._write(name, verb, args, kwargs)
            return await self._carry_out(name, verb, args, kwargs)

        return call

    async def _write(self, name: str, verb: Verb, args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
        """In the order in which they come. A caller that is cancelled waits until its write is done."""
        begun = asyncio.Event()

        async def carry_out() -> object:
            async with self._lock:
                await asyncio.sleep(self._draw.random() / 50)
            begun.set()
            self.finished = self.finished or name == "finish_run"
            self._count()
            return await self._carry_out(name, verb, args, kwargs)

        writing = asyncio.ensure_future(carry_out())
        try:
            return await asyncio.shield(writing)
        except asyncio.CancelledError:
            await _outlasting(asyncio.ensure_future(begun.wait()))
            writing.cancel()  # the store itself has its own way with callers that are cancelled
            await _outlasting(writing)
            if writing.cancelled():
                raise
            asyncio.current_task().cancel()  # it came too late for this, and is heard at the next wait
            return writing.result()

    async def _carry_out(self, name: str, verb: Verb, args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
        if self.dead and name != "close":
            raise StorageFailed("the process is dead")
        try:
            with asyncio.get_running_loop().outside():
                found = await verb(*args, **kwargs)
        finally:
            if name == "commit" and kwargs.get("attempt") is not None:
                self.open.discard(kwargs["attempt"].attempt_id)
        if name in {"create_run", "claim_run"}:
            self.owns = True
            self.kept |= self._records()
        if name == "begin_attempt":
            self.open.add(args[1].attempt_id)
            self.most_open = max(self.most_open, len(self.open))
        for write in kwargs.get("nodes", ()):
            self.kept[write.node.node_id] = (write.node.status, write.node.output)
        return found

    def _count(self) -> None:
        self.writes_left -= 1
        if self.writes_left == 0 and self.at_write is not None:
            asyncio.get_running_loop().call_soon(self.at_write)


async def _outlasting(task: asyncio.Future[Any]) -> None:
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([task])


def _remove(folder: Path) -> None:
    """Also while another thread opens a database there, which makes files."""
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
