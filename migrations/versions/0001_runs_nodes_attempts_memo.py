"""Runs, nodes, attempts and the memo

Revision: 0001, the first.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    _runs()
    _nodes()
    _attempts()
    _memo()


def downgrade() -> None:
    for table in ("memo", "attempts", "nodes", "runs"):
        op.drop_table(table)


def _runs() -> None:
    op.create_table(
        "runs",
        sa.Column("seq", BIG, primary_key=True, autoincrement=True),
        sa.Column("run_id", sa.Text, nullable=False, unique=True),
        sa.Column("workflow", sa.Text, nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("started_at", sa.Float(53), nullable=False),
        sa.Column("finished_at", sa.Float(53)),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("epoch", BIG, nullable=False),
        sa.Column("owner_pid", BIG),
        sa.Column("owner_host", sa.Text),
        sa.Column("owner_since", sa.Float(53)),
        sa.Column("inputs", sa.Text, nullable=False),
        sa.Column("options", sa.Text, nullable=False),
        sa.Column("stats", sa.Text, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("outputs_hash", sa.Text),
        sa.Column("outputs", sa.Text),
        sa.Column("snapshot", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_runs_workflow_seq", "runs", ["workflow", "seq"])


def _nodes() -> None:
    op.create_table(
        "nodes",
        sa.Column("run_id", sa.Text, primary_key=True, nullable=False),
        sa.Column("node_id", sa.Text, primary_key=True, nullable=False),
        sa.Column("seq", BIG, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("cached", sa.Boolean, nullable=False),
        sa.Column("attempts", BIG, nullable=False),
        sa.Column("truncated", sa.Boolean, nullable=False),
        sa.Column("usage", sa.Text, nullable=False),
        sa.Column("cost_usd", sa.Float(53)),
        sa.Column("queue_s", sa.Float(53), nullable=False),
        sa.Column("call_s", sa.Float(53), nullable=False),
        sa.Column("started_at", sa.Float(53)),
        sa.Column("finished_at", sa.Float(53)),
        sa.Column("error", sa.Text),
        sa.Column("content_hash", sa.Text, nullable=False),
        sa.Column("parts", sa.Text, nullable=False),
        sa.Column("output", sa.Text, nullable=False),
    )


def _attempts() -> None:
    op.create_table(
        "attempts",
        sa.Column("seq", BIG, primary_key=True, autoincrement=True),
        sa.Column("attempt_id", sa.Text, nullable=False, unique=True),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("node_id", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("number", BIG, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("started_at", sa.Float(53), nullable=False),
        sa.Column("finished_at", sa.Float(53)),
        sa.Column("usage", sa.Text, nullable=False),
        sa.Column("cost_usd", sa.Float(53)),
        sa.Column("error", sa.Text),
    )
    op.create_index("ix_attempts_run_node", "attempts", ["run_id", "node_id"])


def _memo() -> None:
    op.create_table(
        "memo",
        sa.Column("key", sa.Text, primary_key=True, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float(53), nullable=False),
        sa.Column("size", BIG, nullable=False),
        sa.Column("content_hash", sa.Text, nullable=False),
        sa.Column("answer", sa.Text, nullable=False),
    )
