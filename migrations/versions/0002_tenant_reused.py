"""The tenant of a run, whether a node was reused, and an index for pruning the memo

Revision: 0002, after 0001.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    tenant = sa.Column("tenant", sa.Text, nullable=False, server_default=sa.text("''"))
    last = _last_number()
    # Batch mode copies the table, so that the new column can stand before the wide ones. Runs are few.
    with op.batch_alter_table("runs", recreate="always", table_kwargs={"sqlite_autoincrement": True}) as batch:
        batch.add_column(tenant, insert_after="provider")
    _go_on_from(last)
    op.add_column("nodes", sa.Column("reused", sa.Boolean, nullable=False, server_default=sa.false()))
    op.create_index("ix_memo_created_at", "memo", ["created_at"])


def downgrade() -> None:
    op.drop_index("ix_memo_created_at", "memo")
    with op.batch_alter_table("nodes") as batch:
        batch.drop_column("reused")
    with op.batch_alter_table("runs", table_kwargs={"sqlite_autoincrement": True}) as batch:
        batch.drop_column("tenant")


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
