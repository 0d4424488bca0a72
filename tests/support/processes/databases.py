"""The databases of several processes, whose clocks are virtual."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from flowllm.core.types import NodeStatus
from flowllm.storage.postgres import translate
from flowllm.storage.postgres.engine import PostgresEngine
from flowllm.storage.sql import texts
from flowllm.storage.sqlite.engine import at
from tests.support import postgres
from tests.support.stores import FAST, new_database

EPOCH = 1_800_000_000.0
"""What a database's clock shows at the beginning."""


class Database:
    """A file in memory: its clock is that of this process, which is virtual."""

    def __init__(self, url: str, engine: Any) -> None:
        self.url = url
        self.engine = engine
        self.connection = engine.reader()

    @contextlib.contextmanager
    def in_loop_time(self) -> Iterator[None]:
        """In here its clock is the running loop's."""
        yield

    def tick(self) -> None:
        """It is about to be asked."""

    def rows(self, query: str) -> list[Any]:
        return self.connection.fetch(query, {})

    def nodes(self, run: str) -> dict[str, tuple[NodeStatus, Any]]:
        """Status and output of every node of a run."""
        query = "SELECT node_id, status, output FROM nodes WHERE run_id = :run"
        rows = texts.read(self.connection, query, {"run": run}, (2,))
        return {name: (NodeStatus(status), json.loads(output)) for name, status, output in rows}


class Postgres(Database):
    """A server's: it has its clock in a table, since that is what all its processes see."""

    def __init__(self, url: str, engine: Any) -> None:
        super().__init__(url, engine)
        self._writer = engine.writer()
        for statement in ("CREATE TABLE clock (at float8 NOT NULL)", "INSERT INTO clock VALUES (0)"):
            self._writer.execute(statement)
        self._at = -1.0

    @contextlib.contextmanager
    def in_loop_time(self) -> Iterator[None]:
        now = re.compile(r"\bdatabase_now\(\)"), "(SELECT at FROM clock)"
        translate.translated.cache_clear()
        with patch.object(translate, "_WORDS", (now, *translate._WORDS)):
            yield
        translate.translated.cache_clear()

    def tick(self) -> None:
        now = asyncio.get_running_loop().time()
        if now != self._at:
            self._at = now
            self._writer.execute("UPDATE clock SET at = ?", (EPOCH + now,))


@contextlib.contextmanager
def new(kind: str) -> Iterator[Database]:
    """Of SQLite or PostgreSQL; removed at the end."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flowllm-sim-", dir=FAST)))
        if kind == "postgres":
            url = stack.enter_context(postgres.database())
            database: Database = Postgres(url, PostgresEngine(url, folder))
            stack.callback(database._writer.close)
        else:
            path = folder / "flowllm.db"
            path.write_bytes(new_database())
            database = Database(str(path), at(path))
        stack.callback(database.connection.close)
        yield database
