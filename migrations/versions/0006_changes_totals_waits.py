"""Numbers of changes, sums of each run, waits of nodes and gauges of accounts

Revision: 0006, after 0005.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from flowllm.storage.sqlite.totals import FIGURES, STATUSES, SUMS, TRIGGERS

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
ZERO = sa.text("0")
RUNNING = sa.text("status = 'running'")


def upgrade() -> None:
    op.add_column("nodes", sa.Column("waits", sa.Text))
    op.add_column("nodes", sa.Column("change_no", BIG, nullable=False, server_default=ZERO))
    op.execute(
        "UPDATE nodes SET change_no = numbered.number FROM (SELECT run_id, node_id, row_number() OVER "
        "(PARTITION BY run_id ORDER BY epoch, seq, node_id) AS number FROM nodes) AS numbered "
        "WHERE nodes.run_id = numbered.run_id AND nodes.node_id = numbered.node_id"
    )
    op.create_index("ix_nodes_change", "nodes", ["run_id", "change_no"])
    op.create_index("ix_runs_running", "runs", ["seq"], sqlite_where=RUNNING, postgresql_where=RUNNING)
    _waits()
    _gauges()
    _totals()
    for trigger in TRIGGERS:
        op.execute(trigger)


def downgrade() -> None:
    for trigger in TRIGGERS:
        op.execute(f"DROP TRIGGER {trigger.split()[2]}")
    for table in ("totals", "gauges", "waits"):
        op.drop_table(table)
    op.drop_index("ix_runs_running", "runs")
    op.drop_index("ix_nodes_change", "nodes")
    # A former flowllm knows no waits, and takes a row that runs for one that a foreach has begun.
    op.execute("DELETE FROM nodes WHERE status = 'waiting' OR (status = 'running' AND key = '')")
    op.drop_column("nodes", "change_no")
    op.drop_column("nodes", "waits")


def _waits() -> None:
    op.create_table(
        "waits",
        sa.Column("run_id", sa.Text, primary_key=True, nullable=False),
        sa.Column("node_id", sa.Text, primary_key=True, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("token", sa.Text, nullable=False, unique=True),
        sa.Column("due_at", sa.Float(53)),
        sa.Column("payload", sa.Text, nullable=False),
        sa.Column("value", sa.Text),
    )
    op.create_index("ix_waits_due_at", "waits", ["due_at"])


def _gauges() -> None:
    op.create_table(
        "gauges",
        sa.Column("process", sa.Text, primary_key=True, nullable=False),
        sa.Column("account", sa.Text, primary_key=True, nullable=False),
        sa.Column("at", sa.Float(53), primary_key=True, nullable=False),
        sa.Column("in_flight", BIG, nullable=False),
        sa.Column("waiting", BIG, nullable=False),
        sa.Column("rate", sa.Float(53)),
        sa.Column("tokens", sa.Float(53)),
        sa.Column("pause_s", sa.Float(53), nullable=False),
    )
    op.create_index("ix_gauges_at", "gauges", ["at"])


def _totals() -> None:
    op.create_table(
        "totals",
        sa.Column("run_id", sa.Text, primary_key=True, nullable=False),
        *(sa.Column(name, BIG, nullable=False, server_default=ZERO) for name in ("changes", "last_seq", *STATUSES)),
        *(sa.Column(name, sa.Float(53), nullable=False, server_default=ZERO) for name in FIGURES),
    )
    op.execute("INSERT INTO totals (run_id) SELECT run_id FROM runs")
    counts = ", ".join(f"count(CASE WHEN status = '{status}' THEN 1 END) AS {status}" for status in STATUSES)
    _fill(("changes", "last_seq", *STATUSES), f"max(change_no) AS changes, max(seq) AS last_seq, {counts}", "nodes")
    _fill(tuple(FIGURES), ", ".join(f"{value} AS {name}" for name, value in SUMS.items()), "attempts WHERE model <> ''")


def _fill(columns: tuple[str, ...], sums: str, table: str) -> None:
    values = ", ".join(f"{name} = found.{name}" for name in columns)
    op.execute(
        f"UPDATE totals SET {values} FROM (SELECT run_id, {sums} FROM {table} GROUP BY run_id) AS found "  # noqa: S608
        "WHERE totals.run_id = found.run_id"
    )
