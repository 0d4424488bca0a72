"""Opening a store by its address."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable, Collection
from contextlib import closing
from pathlib import Path
from typing import Protocol

from flowllm.core.clock import Clock
from flowllm.core.tasks import in_thread
from flowllm.storage.address import is_postgres, name_of, place
from flowllm.storage.base import Owner, Store
from flowllm.storage.postgres import migrate as postgres
from flowllm.storage.postgres.engine import PostgresEngine
from flowllm.storage.postgres.pulse import PostgresPulse
from flowllm.storage.sql.engine import Engine
from flowllm.storage.sql.faults import lost_results
from flowllm.storage.sql.spill import SENT, Spill
from flowllm.storage.sql.statements import HAS_ENDED
from flowllm.storage.sql.store import SqlStore
from flowllm.storage.sqlite import migrate as sqlite
from flowllm.storage.sqlite.connection import BUSY_TIMEOUT, database_path, is_memory
from flowllm.storage.sqlite.engine import at
from flowllm.storage.sqlite.migrate import SchemaState, SchemaStatus, Upgrade, upgrade_file
from flowllm.storage.sqlite.mounts import refusal, shared_file_system
from flowllm.storage.sqlite.pulse import Beat
from flowllm.storage.sqlite.pulse import Pulse as FilePulse

__all__ = (
    "Beat",
    "Pulse",
    "SchemaState",
    "SchemaStatus",
    "Upgrade",
    "database_path",
    "exists",
    "home_of",
    "is_memory",
    "is_postgres",
    "name_of",
    "open_store",
    "pulse_of",
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
    if is_postgres(url):
        return await _on_server(url, clock=clock, told=told)
    folder = tempfile.TemporaryDirectory(prefix="flowllm-") if is_memory(url) else None
    path = database_path(url) if folder is None else Path(folder.name, "flowllm.db")
    done, missing = await in_thread(lambda: _prepare(path, busy_timeout))  # which may wait for a lock
    if done is not None and upgraded is not None:
        upgraded(done)
    if missing and told is not None:
        told(lost_results(missing, str(path)))
    return SqlStore(at(path, busy_timeout), owner=this_process(clock), folder=folder)


class Pulse(Protocol):
    """Hears whether a database was written to."""

    def beat(self) -> Beat | None:
        """Another value than before once anything was written; None while there is none, or it cannot be looked at."""
        ...

    def close(self) -> None:
        """Give the connection back."""
        ...


def pulse_of(url: str) -> Pulse:
    """Of the database at an address. Raises UsageError for one that is none."""
    return PostgresPulse(url) if is_postgres(url) else FilePulse(database_path(url))


def home_of(url: str) -> Path | None:
    """The file of a database, absolute; of one on a server the name that its files on this machine begin with; None in memory.
    Raises UsageError for an address that is none."""
    if is_memory(url):
        return None
    return place(url) if is_postgres(url) else database_path(url).absolute()


def address_of(url: str) -> str:
    """How another process of this machine finds a database, from whichever folder. Raises UsageError for an address that is none."""
    return url if is_postgres(url) or is_memory(url) else str(database_path(url).absolute())


def exists(url: str) -> bool:
    """Whether there is a database to read from. Raises UsageError, StorageFailed."""
    if is_postgres(url):
        return schema_of(url).state is not SchemaState.MISSING
    return is_memory(url) or database_path(url).exists()


def schema_of(url: str) -> SchemaStatus:
    """The schema of the database at that address; changes nothing. Raises UsageError, DatabaseCorrupt, StorageFailed."""
    return postgres.status(url) if is_postgres(url) else sqlite.status(url)


def upgrade(url: str) -> Upgrade:
    """Make the database, or bring it up to date; a file is copied beside itself before. Raises DatabaseTooNew, UsageError,
    DatabaseCorrupt, StorageFailed; nothing was changed then."""
    return postgres.upgrade(url) if is_postgres(url) else sqlite.upgrade(url)


async def _on_server(url: str, *, clock: Clock, told: Callable[[str], object] | None) -> Store:
    engine = PostgresEngine(url)
    await in_thread(lambda: postgres.upgrade(url))
    engine.make_folder()
    missing = await in_thread(lambda: _missing(engine, Spill(engine.home).noted()))
    if missing and told is not None:
        told(lost_results(missing, engine.name))
    return SqlStore(engine, owner=this_process(clock))


def this_process(clock: Clock) -> Owner:
    """The owner that this process is, from now on."""
    return Owner(pid=os.getpid(), host=socket.gethostname(), since=clock.now())


def _prepare(path: Path, busy_timeout: float) -> tuple[Upgrade | None, int]:
    """Make or upgrade the database where that is needed; what was upgraded, and how many results it has lost."""
    done = upgrade_file(path, busy_timeout=busy_timeout)
    noted = Spill(path).noted()
    return done if done.backup is not None else None, _missing(at(path, busy_timeout), noted)


def _missing(engine: Engine, noted: Collection[str]) -> int:
    """How many of these attempts the database does not have as they were noted."""
    lost: set[str] = set()
    if not noted:
        return 0
    try:
        with closing(engine.reader()) as connection:
            for name in noted:
                attempt = name.removeprefix(SENT)
                found = connection.execute(HAS_ENDED, (attempt,)).fetchone()
                if found is None or (name == attempt and not found[0]):
                    lost.add(attempt)
    except engine.errors as error:
        raise engine.explain(error) from error
    return len(lost)
