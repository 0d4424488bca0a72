"""Opening a store by its address."""

from __future__ import annotations

import os
import socket
import sqlite3
import tempfile
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path

from flowllm.core.clock import Clock
from flowllm.core.tasks import in_thread
from flowllm.storage.base import Owner, Store
from flowllm.storage.sql.faults import lost_results
from flowllm.storage.sql.spill import SENT, Spill
from flowllm.storage.sql.statements import HAS_ENDED
from flowllm.storage.sql.store import SqlStore
from flowllm.storage.sqlite.connection import BUSY_TIMEOUT, connect, database_path, is_memory, reading_mode
from flowllm.storage.sqlite.engine import at
from flowllm.storage.sqlite.faults import explain
from flowllm.storage.sqlite.migrate import SchemaState, SchemaStatus, Upgrade, upgrade, upgrade_file
from flowllm.storage.sqlite.migrate import status as schema_of
from flowllm.storage.sqlite.mounts import refusal, shared_file_system
from flowllm.storage.sqlite.pulse import Beat, Pulse

__all__ = (
    "Beat",
    "Pulse",
    "SchemaState",
    "SchemaStatus",
    "Upgrade",
    "database_path",
    "is_memory",
    "open_store",
    "refusal",
    "schema_of",
    "shared_file_system",
    "this_process",
    "upgrade",
)


async def open_store(
    url: str,
    *,
    clock: Clock,
    busy_timeout: float = BUSY_TIMEOUT,
    upgraded: Callable[[Upgrade], None] | None = None,
    told: Callable[[str], object] | None = None,
) -> Store:
    """The store at a path, at `sqlite:///path`, or `memory:` (a temporary file, removed as it is closed).

    A new database is made, an older one upgraded with a backup beside it (`upgraded` is told); one that is up to
    date is not written to until something is stored. `told` hears of results that it has lost. Raises DatabaseTooNew, UsageError, DatabaseCorrupt,
    StorageFailed.
    """
    folder = tempfile.TemporaryDirectory(prefix="flowllm-") if is_memory(url) else None
    path = database_path(url) if folder is None else Path(folder.name, "flowllm.db")
    done, missing = await in_thread(lambda: _prepare(path, busy_timeout))  # which may wait for a lock
    if done is not None and upgraded is not None:
        upgraded(done)
    if missing and told is not None:
        told(lost_results(missing, path))
    return SqlStore(at(path, busy_timeout), owner=this_process(clock), folder=folder)


def this_process(clock: Clock) -> Owner:
    """The owner that this process is, from now on."""
    return Owner(pid=os.getpid(), host=socket.gethostname(), since=clock.now())


def _prepare(path: Path, busy_timeout: float) -> tuple[Upgrade | None, int]:
    """Make or upgrade the database where that is needed; what was upgraded, and how many results it has lost."""
    done = upgrade_file(path, busy_timeout=busy_timeout)
    noted = Spill(path).noted()
    return done if done.backup is not None else None, _missing(path, noted) if noted else 0


def _missing(path: Path, noted: Iterable[str]) -> int:
    """How many of these attempts the database does not have as they were noted."""
    lost: set[str] = set()
    try:
        with closing(connect(path, mode=reading_mode(path))) as connection:
            for name in noted:
                attempt = name.removeprefix(SENT)
                found = connection.execute(HAS_ENDED, (attempt,)).fetchone()
                if found is None or (name == attempt and not found[0]):
                    lost.add(attempt)
    except sqlite3.Error as error:
        raise explain(error, path) from error
    return len(lost)
