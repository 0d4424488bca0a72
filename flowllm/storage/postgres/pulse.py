"""Whether somebody has written to a database since it was last looked at."""

from __future__ import annotations

from flowllm.storage.postgres.connection import PostgresConnection
from flowllm.storage.postgres.engine import PostgresEngine
from flowllm.storage.sqlite.pulse import Beat

_SNAPSHOT = (
    "SELECT pg_current_snapshot()::text, (SELECT oid::bigint FROM pg_database WHERE datname = current_database()), "
    "coalesce(to_regclass('alembic_version')::oid::bigint, 0)"
)
"""Of all transactions of the server: only those that write have numbers."""
_REVISION = "SELECT version_num FROM alembic_version"


class PostgresPulse:
    """One connection that looks at nothing else. For one thread at a time."""

    def __init__(self, url: str) -> None:
        """Raises UsageError for an address that is none."""
        self._engine = PostgresEngine(url)
        self._connection: PostgresConnection | None = None

    def beat(self) -> Beat | None:
        """Another value than before once anything was written; None while it cannot be looked at."""
        try:
            if self._connection is None:
                self._connection = self._engine.reader()
            ((snapshot, database, table),) = self._connection.fetch(_SNAPSHOT, ())
            revision = self._connection.fetch(_REVISION, ()) if table else ()
        except self._engine.errors:
            self.close()
            return None
        return (database, table, *(name for (name,) in revision)), snapshot

    def close(self) -> None:
        """Give the connection back."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
