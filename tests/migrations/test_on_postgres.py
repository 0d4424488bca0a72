"""Every way to today's tables on a PostgreSQL server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from flowllm.core.errors import DatabaseTooNew, UsageError
from flowllm.storage.postgres import migrate
from flowllm.storage.postgres.engine import PostgresEngine
from flowllm.storage.sql import tables
from flowllm.storage.sqlite.migrate import HEAD, REVISIONS, SchemaState
from tests.support.postgres import ask, database

COLUMNS = """
SELECT table_name, column_name, data_type, collation_name, is_nullable, regexp_replace(column_default, 'nextval.*', 'numbered') FROM information_schema.columns
WHERE table_schema = 'public' AND table_name <> 'alembic_version' ORDER BY 1, 2"""
INDEXES = "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version' ORDER BY 1, 2"


@pytest.fixture
def empty() -> Iterator[str]:
    with database(empty=True) as url:
        yield url


def shape(url: str) -> tuple[object, ...]:
    return ask(url, COLUMNS), ask(url, INDEXES)


def step(url: str, revision: str, *, finish: bool = False) -> None:
    """Up to a revision."""

    async def work() -> None:
        engine = create_async_engine(
            "postgresql+asyncpg://", async_creator=PostgresEngine(url).connect, poolclass=NullPool
        )
        async with engine.begin() as connection:
            await connection.run_sync(lambda opened: migrate.go(opened, revision))
            if finish:
                await connection.run_sync(migrate.finish)
        await engine.dispose()

    asyncio.run(work())


def test_all_migrations_from_nothing_give_the_same_tables_as_a_new_database(empty: str) -> None:
    step(empty, HEAD, finish=True)
    with database() as new:
        assert shape(empty) == shape(new)
    assert migrate.status(empty).state is SchemaState.CURRENT


@pytest.mark.parametrize("revision", REVISIONS[:-1])
def test_an_older_database_is_brought_up_to_date(empty: str, revision: str) -> None:
    step(empty, revision)
    ask(empty, f"COMMENT ON TABLE alembic_version IS '{migrate.MARK}'")
    assert migrate.status(empty).state is SchemaState.OLDER
    done = migrate.upgrade(empty)
    assert (done.before.current, done.after.current, done.backup) == (revision, HEAD, None)
    with database() as new:
        assert shape(empty) == shape(new)


def test_alembic_finds_no_difference() -> None:
    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": False})
        return [one for one in compare_metadata(context, tables.metadata) if "ix_nodes_content" not in repr(one)]

    async def work(url: str) -> list[object]:
        engine = create_async_engine(
            "postgresql+asyncpg://", async_creator=PostgresEngine(url).connect, poolclass=NullPool
        )
        async with engine.begin() as connection:
            found = await connection.run_sync(differences)
        await engine.dispose()
        return found

    with database() as url:
        assert asyncio.run(work(url)) == []


def test_text_is_compared_by_its_bytes_whatever_the_language(empty: str) -> None:
    migrate.upgrade(empty)
    columns = ask(empty, COLUMNS)
    texts = {collation for table, _, kind, collation, *_ in columns if kind == "text"}
    assert texts == {"C"}
    cells = {(table, name) for table, name, kind, *_ in columns if kind == "bytea"}
    assert cells >= {*migrate.CELLS, ("texts", "body")}


def test_of_several_that_make_or_upgrade_it_at_once_one_does(empty: str) -> None:
    with ThreadPoolExecutor(4) as threads:
        done = list(threads.map(migrate.upgrade, [empty] * 4))
    assert {one.after.state for one in done} == {SchemaState.CURRENT}
    assert ask(empty, "SELECT count(*) FROM alembic_version") == [(1,)]


def test_another_programs_tables_are_not_touched(empty: str) -> None:
    for name in ("alembic_version", "nodes"):
        ask(empty, f"CREATE TABLE {name} (version_num text)")
        with pytest.raises(UsageError, match="another program's tables"):
            migrate.upgrade(empty)
        assert ask(empty, f"SELECT * FROM {name}") == []
        ask(empty, f"DROP TABLE {name}")


def test_a_newer_database_is_refused(empty: str) -> None:
    migrate.upgrade(empty)
    ask(empty, "UPDATE alembic_version SET version_num = '9999'")
    assert migrate.status(empty).state is SchemaState.NEWER
    with pytest.raises(DatabaseTooNew, match="made by a newer flowllm"):
        migrate.upgrade(empty)


def test_an_encoding_that_cannot_hold_every_text_is_refused() -> None:
    with database(empty=True) as url:
        name = url.partition("?")[0].rpartition("/")[2]
        other = f"{name}_latin"
        ask(url, f"CREATE DATABASE {other} TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'")
        try:
            with pytest.raises(UsageError, match="keeps text as LATIN1"):
                migrate.status(url.replace(name, other))
        finally:
            ask(url, f"DROP DATABASE {other} WITH (FORCE)")
