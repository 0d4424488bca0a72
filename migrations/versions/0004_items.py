"""Items of a foreach and steps within a node, and how much of a run's output file is on disk

Revision: 0004, after 0003.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
DEAD = sa.text("status = 'failed' AND place IS NOT NULL")


def upgrade() -> None:
    last = _last_number()
    # Batch mode copies the tables, so that the new columns can stand before the wide ones: the database was copied
    # as a whole just before, so this at most doubles the wait.
    with op.batch_alter_table("runs", recreate="always", table_kwargs={"sqlite_autoincrement": True}) as batch:
        batch.add_column(sa.Column("output_offset", BIG), insert_after="owner_since")
    _go_on_from(last)
    with op.batch_alter_table("nodes", recreate="always") as batch:
        _add_to_nodes(batch)
    op.create_index("ix_nodes_parent_place", "nodes", ["run_id", "parent", "place"])
    columns = ["run_id", "status", "parent", "place"]
    op.create_index("ix_nodes_failed", "nodes", columns, sqlite_where=DEAD, postgresql_where=DEAD)


def downgrade() -> None:
    op.drop_index("ix_nodes_failed", "nodes")
    op.drop_index("ix_nodes_parent_place", "nodes")
    # A former flowllm knows no items: it would take them for steps.
    op.execute("DELETE FROM nodes WHERE parent <> ''")
    with op.batch_alter_table("nodes") as batch:
        for name in ("item", "counts", "content", "epoch", "place", "parent"):
            batch.drop_column(name)
    last = _last_number()
    with op.batch_alter_table("runs", table_kwargs={"sqlite_autoincrement": True}) as batch:
        batch.drop_column("output_offset")
    _go_on_from(last)


def _add_to_nodes(batch: op.BatchOperations) -> None:
    empty = sa.text("''")
    after = "finished_at"
    for column in (
        sa.Column("parent", sa.Text, nullable=False, server_default=empty),
        sa.Column("place", BIG),
        sa.Column("epoch", BIG, nullable=False, server_default=sa.text("1")),
        sa.Column("content", sa.Text, nullable=False, server_default=empty),
        sa.Column("counts", sa.Text),
    ):
        batch.add_column(column, insert_after=after)
        after = column.name
    batch.add_column(sa.Column("item", sa.Text), insert_after="parts")


def _last_number() -> int | None:
    """The number that the last run was given, which SQLite forgets when a table is copied."""
    connection = op.get_bind()
    if connection.dialect.name != "sqlite":
        return None
    return connection.scalar(sa.text("SELECT seq FROM sqlite_sequence WHERE name = 'runs'"))


def _go_on_from(last: int | None) -> None:
    if last is not None:
        op.execute("DELETE FROM sqlite_sequence WHERE name = 'runs'")
        op.execute(sa.text("INSERT INTO sqlite_sequence (name, seq) VALUES ('runs', :last)").bindparams(last=last))
