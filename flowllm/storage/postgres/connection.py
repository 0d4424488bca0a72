"""Connections to PostgreSQL as `sql/` wants them: asyncpg, driven by the thread that uses it.

Behind a pooler in transaction mode each transaction may go to another server process: so a pooled connection prepares nothing
beyond one statement, and does everything within transactions. That there is one shows in the number of the server process,
which a pooler cannot tell.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import threading
import time
import zlib
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, TypeVar

from flowllm.storage.liveness import LEASE
from flowllm.storage.postgres.faults import state_of
from flowllm.storage.postgres.translate import translated

if TYPE_CHECKING:
    import asyncpg
    from asyncpg.prepared_stmt import PreparedStatement

T = TypeVar("T")
Row = tuple[Any, ...]

CONNECT_TIMEOUT: Final = 10.0
"""Seconds to be connected in."""
STATEMENT_TIMEOUT: Final = 120.0
"""Seconds after which a statement that has not ended counts as a lost connection."""
STATEMENTS: Final = 256
"""Prepared ones that a connection keeps."""
NUMBERS: Final = 64
"""Of texts, taken from the server at a time: at first a few, then as many as were used the last time."""
TEXT: Final = b"\x07"
"""Before a text in a column that also holds bytes: none of those begins so, neither what deflate gives nor a digit."""
KEY_CLASS: Final = 0x464C
KEY_LOCKS: Final = 1024
"""Advisory locks that keys share: the class of their numbers, and how many there are."""
WRITES: Final = (
    "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL enable_seqscan = off; "
    f"SET LOCAL idle_in_transaction_session_timeout = '{LEASE:.0f}s'"
)
"""Whoever had to wait for a lock sees what was written meanwhile, whatever the server's default is. What is written is looked up by
keys: a plan that was made while a table was small would go through all of it. What a process has locked that stands still, or
cannot be reached, is free for others as soon as its lease is over."""
READS: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
IN_THE_FUTURE: Final = "22023"
"""Of the number of a transaction: it is one that the server has not given."""
_FIRST: Final = itemgetter(0)


class Result:
    """What a statement gave."""

    def __init__(self, rows: Sequence[Row], status: str, names: Callable[[], list[str]]) -> None:
        self._rows = deque(rows)
        self._status = status
        self._names = names

    @property
    def rowcount(self) -> int:
        """Rows that it has changed or given."""
        last = self._status.rpartition(" ")[2]
        return int(last) if last.isdigit() else -1

    @property
    def description(self) -> list[tuple[str]]:
        """Names of its columns."""
        return [(name,) for name in self._names()]

    def fetchone(self) -> Row | None:
        """The next row."""
        return self._rows.popleft() if self._rows else None

    def fetchall(self) -> list[Row]:
        """All rows that are left."""
        rows = list(self._rows)
        self._rows.clear()
        return rows

    def __iter__(self) -> Iterator[Row]:
        return iter(self.fetchall())


class PostgresConnection:
    """One connection, for one thread at a time; that thread may have a running loop."""

    for_update = " FOR UPDATE"
    for_share = " FOR SHARE"
    finds_contents = True

    def __init__(self, connect: Callable[[], Awaitable[asyncpg.Connection[Any]]]) -> None:
        """Raises what the driver does, OSError, TimeoutError."""
        self._loop = asyncio.new_event_loop()
        self._statements: OrderedDict[str, PreparedStatement[Any]] = OrderedDict()
        self._name = f"flowllm_{secrets.token_hex(6)}"
        self._made = 0
        self._open = False
        self._numbers: deque[int] = deque()
        self._wanted = 4
        self._texts: list[Row] = []
        self.xid: str | None = None
        """The transaction whose COMMIT was sent and not heard of."""
        self.unheard: Callable[[str | None], None] = lambda _: None
        """Hears of it when the connection is lost."""
        try:
            self._raw = self._run(self._connected(connect))
        except BaseException:
            self._run(_settled())
            self._loop.close()
            raise

    async def _connected(self, connect: Callable[[], Awaitable[asyncpg.Connection[Any]]]) -> asyncpg.Connection[Any]:
        raw = await connect()
        try:
            await raw.execute("BEGIN")
            for name, form, encode, decode in _CODECS:
                await raw.set_type_codec(name, schema="pg_catalog", encoder=encode, decoder=decode, format=form)
            here = await raw.fetchval("SELECT pg_backend_pid()")
            await raw.execute("COMMIT")
        except BaseException:
            raw.terminate()
            raise
        self.pooled = here != raw.get_server_pid()
        return raw

    @property
    def in_transaction(self) -> bool:
        """Whether one is open."""
        return self._open

    def execute(self, sql: str, values: Any = (), /) -> Result:
        """Carry out a statement."""
        rows, status, names = self._run(self._execute(*_given(sql, values)))
        return Result(rows, status, names)

    def executemany(self, sql: str, values: Iterable[Any], /) -> None:
        """Carry out a statement for each of these values."""
        statement, order = translated(sql)
        rows = [tuple(_sound(row)) for row in (values if order is None else map(order, values))]
        if rows:
            self._run(self._many(statement, rows))

    def write(self, statement: str, rows: Sequence[Row]) -> None:
        """Insert rows, those of one key in their order. All processes take rows in the order of their keys, so that they do
        not wait for each other in a circle."""
        self.executemany(statement, sorted(rows, key=_FIRST))

    def keep_text(self, run_seq: int, body: bytes) -> int:
        """Put a text into the table of texts, with what is written next; its number."""
        if not self._numbers:
            more = "SELECT nextval(pg_get_serial_sequence('texts', 'text_id')) FROM generate_series(1, $1)"
            self._numbers.extend(row[0] for row in self._run(self._execute(more, (self._wanted,)))[0])
            self._wanted = min(NUMBERS, 2 * self._wanted)
        number = self._numbers.popleft()
        self._texts.append((number, run_seq, body))
        return number

    def lock_keys(self, keys: Collection[str]) -> None:
        """In their order, so that no two wait for each other in a circle. They share some locks, of which a server has not many."""
        numbers = sorted({zlib.crc32(key.encode()) % KEY_LOCKS for key in keys})
        self.execute(
            f"SELECT pg_advisory_xact_lock({KEY_CLASS}, cast(value AS int)) FROM json_array_elements_text(cast(? AS json))",
            (json.dumps(numbers),),
        )

    def fetch(self, query: str, values: Any) -> list[Row]:
        """All rows of a query."""
        return self._run(self._execute(*_given(query, values)))[0]

    def pages(self, query: str, values: Any, size: int) -> Iterator[list[Row]]:
        """The rows of a query, so many at a time, within a transaction."""
        sql, given = _given(query, values)
        alone = not self._open
        if alone:
            self.begin_reading()
        try:
            cursor = self._run(self._cursor(sql, given))
            while rows := self._run(cursor.fetch(size)):
                yield [tuple(row) for row in rows]
        finally:
            if alone:
                self.rollback()

    def begin(self) -> None:
        """Begin a transaction that writes."""
        self._begin(WRITES)

    def begin_reading(self) -> None:
        """Begin a transaction that sees one state of the database."""
        self._begin(READS)

    def commit(self) -> None:
        """Make it durable."""
        try:
            self._run(self._commit())
        except BaseException:
            self.unheard(self.xid)
            raise

    def rollback(self) -> None:
        """Undo the open transaction, if there still is one."""
        self._texts.clear()
        if self._open and not self._raw.is_closed():
            self._open = False
            self._run(self._raw.execute("ROLLBACK", timeout=CONNECT_TIMEOUT))

    def close(self) -> None:
        """Give it back. May be called twice, also from another thread than the one that has used it."""
        if not self._loop.is_closed():
            self._run(self._close())
            self._loop.close()

    def ended(self, xid: str) -> bool:
        """Whether that transaction was committed. Waits for one that is still being ended. A server that has not come that far has
        taken the place of the one that was asked."""
        while True:
            try:
                found = self.fetch("SELECT pg_xact_status(cast(cast(? AS text) AS xid8))", (xid,))[0][0]
            except Exception as error:
                if state_of(error) == IN_THE_FUTURE:
                    return False
                raise
            if found != "in progress":
                return bool(found == "committed")
            time.sleep(0.05)

    def unprepared(self) -> None:
        """Prepare nothing from now on: a pooler is between, and cannot be seen."""
        self.pooled = True

    def _begin(self, statement: str) -> None:
        self._run(self._raw.execute(statement, timeout=STATEMENT_TIMEOUT))
        self._open = True

    def _run(self, work: Awaitable[T]) -> T:
        return self._apart(work) if _in_a_loop() else self._loop.run_until_complete(work)

    def _apart(self, work: Awaitable[T]) -> T:
        """In a thread of its own, as this one runs another loop."""
        found: list[T] = []
        failure: list[BaseException] = []

        def run() -> None:
            try:
                found.append(self._loop.run_until_complete(work))
            except BaseException as error:  # noqa: BLE001 - it is raised where it was asked for
                failure.append(error)

        thread = threading.Thread(target=run, name="flowllm-postgres", daemon=True)
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return found[0]

    # everything below runs in the loop of this connection

    async def _execute(self, sql: str, values: Sequence[Any]) -> tuple[list[Row], str, Callable[[], list[str]]]:
        await self._write_texts()
        if self.pooled and not self._open:
            await self._raw.execute("BEGIN", timeout=STATEMENT_TIMEOUT)
            try:
                return await self._executed(sql, values)
            finally:
                if not self._raw.is_closed():
                    await self._raw.execute("COMMIT", timeout=STATEMENT_TIMEOUT)
        return await self._executed(sql, values)

    async def _executed(self, sql: str, values: Sequence[Any]) -> tuple[list[Row], str, Callable[[], list[str]]]:
        statement = await self._prepared(sql)
        rows = await statement.fetch(*values, timeout=STATEMENT_TIMEOUT)
        return (
            [tuple(row) for row in rows],
            statement.get_statusmsg(),
            lambda: [column.name for column in statement.get_attributes()],
        )

    async def _prepared(self, sql: str) -> PreparedStatement[Any]:
        if self.pooled:
            return await self._raw.prepare(sql, name="", timeout=STATEMENT_TIMEOUT)
        found = self._statements.get(sql)
        if found is None:
            # A name of its own: should there be a pooler all the same, it is not that of another process' statement
            self._made += 1
            found = await self._raw.prepare(sql, name=f"{self._name}_{self._made}", timeout=STATEMENT_TIMEOUT)
            self._statements[sql] = found
            if len(self._statements) > STATEMENTS:
                self._statements.popitem(last=False)
        else:
            self._statements.move_to_end(sql)
        return found

    async def _many(self, sql: str, rows: Sequence[Row]) -> None:
        await self._write_texts()
        await (await self._prepared(sql)).executemany(rows, timeout=STATEMENT_TIMEOUT)

    async def _write_texts(self) -> None:
        if self._texts:
            rows, self._texts = self._texts, []
            insert = await self._prepared("INSERT INTO texts (text_id, run_seq, body) VALUES ($1, $2, $3)")
            await insert.executemany(rows, timeout=STATEMENT_TIMEOUT)

    async def _cursor(self, sql: str, values: Sequence[Any]) -> Any:
        return await (await self._prepared(sql)).cursor(*values)

    async def _commit(self) -> None:
        await self._write_texts()
        xid = (await self._executed("SELECT pg_current_xact_id_if_assigned()::text", ()))[0][0][0]
        self.xid = xid
        await self._raw.execute("COMMIT", timeout=STATEMENT_TIMEOUT)
        self.xid, self._open = None, False

    async def _close(self) -> None:
        if self._open or self._raw.is_closed():
            self._raw.terminate()
        else:
            try:
                await self._raw.close(timeout=1.0)
            except Exception:  # noqa: BLE001 - whatever it is, the connection is no longer ours
                self._raw.terminate()
        await _settled()


async def _settled() -> None:
    """Transports that were ended close in the next rounds of their loop."""
    for _ in range(3):
        await asyncio.sleep(0)


def _in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _given(sql: str, values: Any) -> tuple[str, Sequence[Any]]:
    statement, order = translated(sql)
    return statement, _sound(values if order is None else order(values))


def _sound(values: Sequence[Any]) -> Sequence[Any]:
    """Values as SQLite takes them too: not a number is nothing."""
    return [None if value != value else value for value in values]  # noqa: PLR0124 - a NaN


def _decimal(text: str) -> int | float:
    """A sum, as the number that it is elsewhere."""
    with suppress(ValueError):
        return int(text)
    return float(text)


def _cell(content: bytes) -> str | bytes:
    return content[1:].decode(errors="surrogateescape") if content[:1] == TEXT else content


_CODECS: Final = (
    ("bool", "binary", lambda value: b"\1" if value else b"\0", lambda value: value != b"\0"),
    ("bytea", "binary", lambda cell: cell if isinstance(cell, bytes) else TEXT + cell.encode(), _cell),
    ("numeric", "text", str, _decimal),
)
"""How values travel that the rest of storage/ has in another form: booleans may be numbers, texts may be bytes."""
