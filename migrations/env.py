"""Alembic's way in: it works on the connection that flowllm hands it, inside flowllm's own transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alembic import context

from flowllm.storage.sql.tables import metadata

if TYPE_CHECKING:
    from sqlalchemy import Connection

connection: Connection | None = context.config.attributes.get("connection")
if connection is None:
    raise SystemExit("Migrations run on flowllm's own connection. Use: flowllm db upgrade")

context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
