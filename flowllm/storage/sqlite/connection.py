"""Connections to an SQLite file: their address, their settings, their kind."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

from flowllm.core.errors import UsageError
from flowllm.core.redact import without_passwords
from flowllm.storage.sql.engine import Values
from flowllm.storage.sqlite.mounts import refuse_shared

MEMORY: Final = frozenset({"memory:", ":memory:", "sqlite:///:memory:"})
SQLITE: Final = "sqlite:///"
BUSY_TIMEOUT: Final = 60.0
"""Seconds to wait for another process's write lock before it counts as a failure."""
APPLICATION_ID: Final = 0x464C4C4D
"""Stands in the header of every database of flowllm's ("FLLM")."""
RETRY: Final = 0.05
"""Seconds between tries at what SQLite does not wait for by itself."""
CACHE_KIB: Final = 16_384
"""Of pages that the writer keeps in memory. What is found by a hash lies all over its tree: with SQLite's own 2 MiB most pages
that a commit touches are read anew once there are some ten thousand items."""


def address(path: Path) -> str:
    """The URI of a database file, without its options."""
    return f"file:{quote(os.fsencode(path.absolute()))}"


def options(mode: str) -> dict[str, str]:
    """The options of its URI; `mode` is rw, ro, or `immutable` for a file that nothing can change."""
    return {"mode": "ro", "immutable": "1"} if mode == "immutable" else {"mode": mode}


def sidecars(path: Path) -> list[Path]:
    """The files that SQLite keeps beside a database while it is in use, or after a crash."""
    names = [f"{path.name}{tail}" for tail in ("-wal", "-shm", "-journal")]
    return [path.with_name(name) for name in names if path.with_name(name).exists()]


def reading_mode(path: Path) -> str:
    """How a database can be read where it is: a read-only folder has no place for the files beside it."""
    if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
        return "rw"
    return "ro" if sidecars(path) else "immutable"


def peeking_mode(path: Path) -> str:
    """How to look at a database without leaving a trace: what nobody has open needs no files beside it."""
    return "ro" if sidecars(path) else "immutable"


def decode(raw: bytes) -> str:
    """Text as it was stored. A damaged byte becomes a lone surrogate, which no hash will match, where
    the driver itself would raise."""
    return raw.decode(errors="surrogateescape")


class SqliteConnection(sqlite3.Connection):
    """A connection as `sql/` wants it."""

    for_update = for_share = ""
    """Who writes has the whole database."""
    finds_contents = False

    def lock_keys(self, keys: Collection[str]) -> None:
        """Who writes has the whole database."""

    def write(self, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Several rows with each execution: around every one another thread may take the interpreter's lock, and then
        holds it for as long as several rows take."""
        at = 0
        for count in _TOGETHER:
            while len(rows) - at >= count:
                self.execute(_repeated(statement, count), tuple(chain.from_iterable(rows[at : at + count])))
                at += count

    def keep_text(self, run_seq: int, body: bytes) -> int:
        """Put a text into the table of texts; its number."""
        return self.execute("INSERT INTO texts (run_seq, body) VALUES (?, ?)", (run_seq, body)).lastrowid or 0

    def fetch(self, query: str, values: Values) -> list[tuple[Any, ...]]:
        """All rows of a query. The driver reads text faster by itself; `decode` does where a byte is damaged."""
        self.text_factory = str
        try:
            return self.execute(query, values).fetchall()
        except sqlite3.OperationalError:
            self.text_factory = decode
            return self.execute(query, values).fetchall()
        finally:
            self.text_factory = decode

    def pages(self, query: str, values: Values, size: int) -> Iterator[list[tuple[Any, ...]]]:
        """The rows of a query, so many at a time."""
        cursor = self.execute(query, values)
        while rows := cursor.fetchmany(size):
            yield rows

    def begin(self) -> None:
        """Take the write lock; waits for other processes up to the busy timeout."""
        self.execute("BEGIN IMMEDIATE")

    def begin_reading(self) -> None:
        """See one state of the database."""
        self.execute("BEGIN")


@lru_cache
def _repeated(statement: str, count: int) -> str:
    """The statement for so many rows."""
    head, mark, rest = statement.partition(" VALUES ")
    values, end, then = rest.partition(")")
    return f"{head}{mark}{', '.join([values + end] * count)}{then}"


_TOGETHER: Final = (32, 8, 1)
"""Rows with one execution: few numbers, as each makes a statement of its own."""


def connect(path: Path, *, mode: str, busy_timeout: float = BUSY_TIMEOUT) -> SqliteConnection:
    """A connection without transactions of its own making. Raises sqlite3.Error."""
    connection = sqlite3.connect(
        f"{address(path)}?{urlencode(options(mode))}",
        uri=True,
        isolation_level=None,
        timeout=busy_timeout,
        check_same_thread=False,
        factory=SqliteConnection,
    )
    connection.text_factory = decode
    connection.create_function("database_now", 0, time.time)
    return connection


def connect_writer(path: Path, *, busy_timeout: float = BUSY_TIMEOUT) -> SqliteConnection:
    """The connection for writing: what it commits has reached the disk. Raises sqlite3.Error, UsageError."""
    refuse_shared(path)
    connection = connect(path, mode="rw", busy_timeout=busy_timeout)
    try:
        use_wal(connection, busy_timeout=busy_timeout)
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
    except BaseException:
        connection.close()
        raise
    return connection


def use_wal(connection: sqlite3.Connection, *, busy_timeout: float) -> None:
    """Turn on the write-ahead log. SQLite does not wait while others turn it on too, so this does."""
    deadline = time.monotonic() + busy_timeout
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(RETRY)
        else:
            return


def compact(path: Path) -> int | None:
    """Write the file anew without the space of what was removed; the bytes by which it is smaller, None if others use
    it or there is no room. Blocks while it does."""
    try:
        with closing(connect(path, mode="rw", busy_timeout=1.0)) as connection:
            before = _emptied(connection, path)
            connection.execute("VACUUM")
            return before - _emptied(connection, path)
    except sqlite3.Error:
        return None


def _emptied(connection: sqlite3.Connection, path: Path) -> int:
    """Bytes of the file, once all of the log is in it."""
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path.stat().st_size


def is_memory(url: str) -> bool:
    """Whether it names a store that lives and dies with the process."""
    return url in MEMORY


def database_path(url: str) -> Path:
    """The file of a database: a path, or `sqlite:///` and a path (an absolute one begins with a fourth
    slash). Raises UsageError for anything else."""
    name = url.removeprefix(SQLITE)
    if not name or "\0" in name or is_memory(url) or (name == url and ("://" in url or url == "sqlite:")):
        raise UsageError(
            f"{without_passwords(url)!r} is no database that flowllm knows.",
            hint="Give a path, sqlite:///PATH, or memory:",
        )
    return Path(os.path.expanduser(name))  # noqa: PTH111 - never raises
