"""Making flowllm's tables on a PostgreSQL server, and bringing old ones up to date.

All in one transaction under an advisory lock that ends with it: of two processes that upgrade at once the second finds nothing
left to do, and one that is killed half-way leaves the database as it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from flowllm.core.errors import DatabaseCorrupt, UsageError
from flowllm.storage.postgres import faults
from flowllm.storage.postgres.connection import PostgresConnection
from flowllm.storage.postgres.engine import PostgresEngine
from flowllm.storage.sqlite.migrate import (
    HEAD,
    SchemaState,
    SchemaStatus,
    Upgrade,
    migrations_folder,
    status_of,
    too_new,
)

if TYPE_CHECKING:
    from sqlalchemy import Connection

MARK: Final = "flowllm"
"""The comment on the table that names the revision: another program may have one of that name."""
LOCK: Final = 0x464C4C4D
"""Of the lock under which tables are made and changed ("FLLM")."""
CELLS: Final = (("nodes", "parts"), ("nodes", "item"), ("nodes", "output"), ("memo", "answer"))
"""Columns that hold texts or bytes; a text has a byte before it that no bytes begin with (`connection.TEXT`)."""
CONTENTS: Final = (
    "CREATE INDEX IF NOT EXISTS ix_nodes_content ON nodes (run_id, parent, content, place) WHERE place IS NOT NULL"
)
"""Items of a resumed foreach are found by it: SQLite gathers them in a table of the connection, and a pooler knows no such."""

_LOOK: Final = (
    "SELECT current_setting('server_encoding'), to_regclass('alembic_version') IS NOT NULL, "
    "obj_description(to_regclass('alembic_version'), 'pg_class'), to_regclass('nodes') IS NOT NULL"
)
_FOREIGN: Final = """
SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = current_schema()
AND data_type = 'text' AND collation_name IS DISTINCT FROM 'C'"""


def status(url: str) -> SchemaStatus:
    """The schema of the database at `url`; changes nothing. Raises UsageError, StorageFailed."""
    engine = PostgresEngine(url)
    with _connected(engine) as connection:
        return _status(engine, connection)


def upgrade(url: str) -> Upgrade:
    """Make the tables, or bring them up to date; whoever has such a server makes its backups. Raises DatabaseTooNew,
    UsageError, StorageFailed; nothing was changed then."""
    engine = PostgresEngine(url)
    with _connected(engine) as connection:
        before = after = _status(engine, connection)
        if before.state in {SchemaState.MISSING, SchemaState.OLDER}:
            asyncio.run(_migrate(engine))
            after = _status(engine, connection)
    if after.state is SchemaState.NEWER:
        raise too_new(after)
    return Upgrade(before=before, after=after, backup=None)


@contextmanager
def _connected(engine: PostgresEngine) -> Iterator[PostgresConnection]:
    """Raises what `explain` gives."""
    try:
        connection = engine.reader()
        try:
            yield connection
        finally:
            connection.close()
    except engine.errors as error:
        raise engine.explain(error) from error


def _status(engine: PostgresEngine, connection: PostgresConnection) -> SchemaStatus:
    revision = revision_of(engine, connection.fetch(_LOOK, ())[0], lambda sql: connection.fetch(sql, ()))
    return status_of(engine.name, None, revision)


def revision_of(engine: PostgresEngine, found: Any, ask: Any) -> str | None:
    """The revision of what _LOOK has found, None if flowllm's tables are not there. Raises UsageError, DatabaseCorrupt."""
    encoding, versioned, mark, filled = found
    if encoding != "UTF8":
        raise UsageError(
            f"The database {engine.name} keeps text as {encoding}.",
            hint="Make one for flowllm with: createdb --encoding UTF8 --template template0 NAME",
        )
    if mark != MARK and (versioned or filled):
        raise UsageError(
            f"{engine.name} has another program's tables; nothing was touched.",
            hint="Make a database for flowllm (createdb NAME), and name it with --db.",
        )
    if not versioned:
        return None
    rows = ask("SELECT version_num FROM alembic_version")
    if len(rows) != 1:
        raise DatabaseCorrupt(
            f"The database {engine.name} names {len(rows)} schema revisions instead of one.", hint=faults.RESTORE
        )
    return str(rows[0][0])


async def _migrate(engine: PostgresEngine) -> None:
    # Late: both take a second to import, and only a database that is behind needs them.
    from sqlalchemy.exc import DBAPIError  # noqa: PLC0415
    from sqlalchemy.ext.asyncio import create_async_engine  # noqa: PLC0415
    from sqlalchemy.pool import NullPool  # noqa: PLC0415

    made = create_async_engine(
        "postgresql+asyncpg://?prepared_statement_cache_size=0", async_creator=engine.connect, poolclass=NullPool
    )
    try:
        async with made.begin() as connection:
            await connection.run_sync(lambda opened: _bring_up(engine, opened))
    except DBAPIError as error:
        raise engine.explain(_cause(error)) from error
    finally:
        await made.dispose()


def _bring_up(engine: PostgresEngine, connection: Connection) -> None:
    def ask(sql: str) -> list[Any]:
        return list(connection.exec_driver_sql(sql).fetchall())

    ask(f"SELECT pg_advisory_xact_lock({LOCK})")
    revision = revision_of(engine, ask(_LOOK)[0], ask)
    if revision is None:
        _make(connection)
    elif status_of(engine.name, None, revision).state is SchemaState.OLDER:
        go(connection, HEAD)
    else:
        return
    finish(connection)


def _make(connection: Connection) -> None:
    """All tables as `tables.py` declares them."""
    from flowllm.storage.sql import tables  # noqa: PLC0415 - as above

    tables.metadata.create_all(connection)
    tables.versions.metadata.create_all(connection)
    connection.execute(tables.versions.insert().values(version_num=HEAD))


def go(connection: Connection, revision: str) -> None:
    """Up to a revision, by Alembic."""
    from alembic import command  # noqa: PLC0415 - as above
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def finish(connection: Connection) -> None:
    """What PostgreSQL needs besides: text is compared by its bytes, as SQLite does, whatever the database's language is; and
    cells that hold texts or bytes are bytes."""
    tables: dict[str, list[str]] = {}
    for table, column in connection.exec_driver_sql(_FOREIGN):
        kind = 'text COLLATE "C"'
        if (table, column) in CELLS:
            kind = f"bytea USING '\\x07'::bytea || convert_to({column}, 'UTF8')"
        tables.setdefault(table, []).append(f'ALTER "{column}" TYPE {kind}')
    for table, changes in tables.items():
        connection.exec_driver_sql(f'ALTER TABLE "{table}" {", ".join(changes)}')
    connection.exec_driver_sql(CONTENTS)
    connection.exec_driver_sql(f"COMMENT ON TABLE alembic_version IS '{MARK}'")


def _cause(error: BaseException) -> BaseException:
    """What the driver itself has raised."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
