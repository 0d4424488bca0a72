"""A store for tests under a virtual clock: the real one over a real database, but without threads."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakSet

from flowllm.storage.base import NodeRecord, Owner
from flowllm.storage.sql.jobs import Job
from flowllm.storage.sql.statements import Unit
from flowllm.storage.sql.store import SqlStore
from flowllm.storage.sql.writer import Writer
from flowllm.storage.sqlite.connection import connect
from flowllm.storage.sqlite.engine import at
from flowllm.storage.sqlite.migrate import create

FAST = next((folder for folder in ("/dev/shm",) if os.access(folder, os.W_OK)), None)
US = Owner(pid=1, host="here", since=0.0)


@cache
def new_database() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "flowllm.db")
        create(path)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return path.read_bytes()


class InlineStore(SqlStore):
    """Its verbs are done when they return to the loop for the first time, in no virtual time."""

    made: ClassVar[WeakSet[InlineStore]] = WeakSet()

    def __init__(self) -> None:
        self.made.add(self)
        self._home_folder = tempfile.TemporaryDirectory(prefix="flowllm-test-", dir=FAST, ignore_cleanup_errors=True)
        path = Path(self._home_folder.name, "flowllm.db")
        path.write_bytes(new_database())
        super().__init__(at(path), owner=US)
        self._writer = _Writer(at(path))
        self._lost = self._writer.loss

    async def _in_thread(self, read: Callable[[], Any]) -> Any:
        return read()

    def others_wrote(self, within: float) -> bool:
        return True  # tests write what is another process's through this connection

    async def close(self) -> None:
        """It stays open for the next process."""
        self.abandon()

    def discard(self) -> None:
        """Close its files: the test is over, and garbage may not be collected for a thousand others."""
        for connection in self._connections:
            connection.close()
        self.abandon()
        self._writer._disconnect()
        self._writer._spill.close()
        self._home_folder.cleanup()

    def abandon(self) -> None:
        """Give back all runs, as when their process is killed."""
        if self.presence.number is not None:
            self._writer._connect().execute("UPDATE processes SET ended_at = 0 WHERE ended_at IS NULL")
            self.presence.forget()

    def rows(self, query: str, *values: object) -> list[Any]:
        """What is on record."""
        with closing(connect(self.path, mode="ro")) as connection:
            return connection.execute(query, values).fetchall()

    @property
    def runs_on_record(self) -> set[str]:
        return {run_id for (run_id,) in self.rows("SELECT run_id FROM runs")}

    @property
    def cached_keys(self) -> set[str]:
        return {key for (key,) in self.rows("SELECT key FROM memo")}

    @property
    def statuses(self) -> dict[str, str]:
        """Of all nodes."""
        return dict(self.rows("SELECT node_id, status FROM nodes"))

    @property
    def text(self) -> str:
        """All that is on record."""
        with closing(connect(self.path, mode="ro")) as connection:
            return "\n".join(connection.iterdump())

    def node_now(self, node_id: str, run_id: str = "r1") -> NodeRecord | None:
        work = self.node(run_id, node_id)
        try:
            work.send(None)
        except StopIteration as done:
            return done.value
        raise AssertionError("a verb has waited")


class _Writer(Writer):
    async def write(self, unit: Unit) -> Any:
        job = Job(unit, asyncio.get_running_loop())
        self._carry_out([job])
        if job.error is not None:
            raise job.error
        return job.result

    def _hand_over(self, *, riders: bool = False) -> None:
        """What rides may be lost, and is."""
