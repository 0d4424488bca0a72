"""Many processes at one database: their leases, ranges of items, senders of requests, shares of limits, portions of budgets

Revision: 0011, after 0010.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
SENT = sa.text("status = 'sent'")


def upgrade() -> None:
    op.create_table(
        "processes",
        sa.Column("process_id", BIG, primary_key=True, autoincrement=True),
        sa.Column("token", sa.Text, nullable=False, unique=True),
        sa.Column("pid", BIG, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("machine", sa.Text, nullable=False),
        sa.Column("started", sa.Text, nullable=False),
        sa.Column("since", sa.Float(53), nullable=False),
        sa.Column("lease_until", sa.Float(53), nullable=False),
        sa.Column("ended_at", sa.Float(53)),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_processes_ended_at", "processes", ["ended_at"])
    op.add_column("runs", sa.Column("process", BIG))
    op.create_table(
        "ranges",
        sa.Column("run_id", sa.Text, primary_key=True, nullable=False),
        sa.Column("number", BIG, primary_key=True, nullable=False, autoincrement=False),
        sa.Column("epoch", BIG, nullable=False),
        sa.Column("foreach", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("process", BIG),
        sa.Column("leases", BIG, nullable=False),
        sa.Column("items", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "reports",
        sa.Column("report_id", BIG, primary_key=True, autoincrement=True),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("number", BIG, nullable=False),
        sa.Column("process", BIG, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_index("ix_reports_run_id", "reports", ["run_id"])
    op.add_column("attempts", sa.Column("process", BIG))
    op.create_index("ix_attempts_sent", "attempts", ["key"], sqlite_where=SENT, postgresql_where=SENT)
    op.create_table(
        "limit_scopes",
        sa.Column("scope", sa.Text, primary_key=True, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
    )
    op.create_table(
        "shares",
        sa.Column("scope", sa.Text, primary_key=True, nullable=False),
        sa.Column("process", BIG, primary_key=True, nullable=False),
        sa.Column("until", sa.Float(53), nullable=False),
        sa.Column("state", sa.Text, nullable=False),
    )
    op.create_table(
        "portions",
        sa.Column("run_id", sa.Text, primary_key=True, nullable=False),
        sa.Column("process", BIG, primary_key=True, nullable=False, autoincrement=False),
        sa.Column("tokens", sa.Float(53), nullable=False),
        sa.Column("usd", sa.Float(53), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("portions")
    op.drop_table("shares")
    op.drop_table("limit_scopes")
    op.drop_index("ix_attempts_sent", "attempts")
    op.drop_column("attempts", "process")
    op.drop_table("reports")
    op.drop_table("ranges")
    op.drop_column("runs", "process")
    op.drop_table("processes")
