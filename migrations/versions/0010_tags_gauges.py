"""Tags of runs, and gauges with the limits and what was used of them in the last minute

Revision: 0010, after 0009.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "tags",
        sa.Column("run_id", sa.Text, primary_key=True, nullable=False),
        sa.Column("tag", sa.Text, primary_key=True, nullable=False),
    )
    op.create_index("ix_tags_tag", "tags", ["tag"])
    op.create_index("ix_runs_started_at", "runs", ["started_at"])
    op.drop_table("gauges")  # they are kept for ten minutes
    _gauges(
        sa.Column("max_concurrent", BIG, nullable=False),
        sa.Column("rate", sa.Float(53)),
        sa.Column("requests_sent", BIG, nullable=False),
        sa.Column("tokens_per_minute", sa.Float(53)),
        sa.Column("tokens", sa.Float(53)),
        sa.Column("tokens_used", BIG, nullable=False),
        sa.Column("refused", BIG, nullable=False),
        sa.Column("pause_s", sa.Float(53), nullable=False),
        sa.Column("waits", sa.Text, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("gauges")
    _gauges(
        sa.Column("rate", sa.Float(53)),
        sa.Column("tokens", sa.Float(53)),
        sa.Column("pause_s", sa.Float(53), nullable=False),
    )
    op.drop_index("ix_runs_started_at", "runs")
    op.drop_table("tags")


def _gauges(*columns: sa.Column[object]) -> None:
    op.create_table(
        "gauges",
        sa.Column("process", sa.Text, primary_key=True, nullable=False),
        sa.Column("account", sa.Text, primary_key=True, nullable=False),
        sa.Column("at", sa.Float(53), primary_key=True, nullable=False),
        sa.Column("in_flight", BIG, nullable=False),
        sa.Column("waiting", BIG, nullable=False),
        *columns,
    )
    op.create_index("ix_gauges_at", "gauges", ["at"])
