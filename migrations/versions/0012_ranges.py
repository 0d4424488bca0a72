"""Ranges of items that workers carry out, and what these say of them

Revision: 0012, after 0011.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
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


def downgrade() -> None:
    op.drop_table("reports")
    op.drop_table("ranges")
