"""A user's folder whose database is on a PostgreSQL server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flowllm.storage.postgres.engine import PostgresEngine
from flowllm.storage.sql.engine import Engine
from tests.support.postgres import ask
from tests.support.project import Project


class ServerProject(Project):
    """As `Project`; its database is there from the beginning."""

    def __init__(self, folder: Path, url: str, database: str) -> None:
        super().__init__(folder, url)
        self.environ["FLOWLLM_DATABASE_URL"] = self._address = database

    @property
    def engine(self) -> Engine:
        return PostgresEngine(self._address)

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        assert not values
        return ask(self._address, query)

    def run_ids(self) -> list[str]:
        return [row[0] for row in self.rows("SELECT run_id FROM runs ORDER BY seq")]
