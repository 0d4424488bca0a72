"""Numbers of changes, sums of each run, waits of nodes and gauges of accounts

Revision: 0006, after 0005.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
ZERO = sa.text("0")
RUNNING = sa.text("status = 'running'")
STATUSES = ("running", "waiting", "succeeded", "failed", "skipped", "blocked", "cancelled")
COUNTS = ("input_tokens", "output_tokens", "cached_input_tokens", "reasoning_tokens", "cache_write_tokens")


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


def downgrade() -> None:
    for table in ("totals", "gauges", "waits"):
        op.drop_table(table)
    op.drop_index("ix_runs_running", "runs")
    op.drop_index("ix_nodes_change", "nodes")
    # A former flowllm knows no waits, and takes a row that runs for one that a foreach has begun.
    op.execute("DELETE FROM nodes WHERE status = 'waiting' OR (status = 'running' AND key = '')")
    op.drop_column("nodes", "change_no")
    op.drop_column("nodes", "waits")


def _figures() -> dict[str, str]:
    """What one attempt adds to each sum."""
    told = {name: f"json_extract(usage, '$.{name}')" for name in COUNTS}
    counted = f"{told['input_tokens']} + {told['output_tokens']}"
    unseen = f"(status NOT IN ('succeeded', 'failed') AND {counted} = 0)"
    in_doubt = f"({counted} IS NULL OR {unseen})"
    free = f"(status = 'failed' AND {counted} = 0 AND cost_usd IS NULL)"
    cost = f"(CASE WHEN {unseen} THEN NULL WHEN {free} THEN 0.0 ELSE cost_usd END)"
    least = f"coalesce({told['input_tokens']}, 0) + coalesce({told['output_tokens']}, 0)"
    return {
        "requests": "1",
        **{name: f"coalesce({value}, 0)" for name, value in told.items()},
        **{f"no_{name}": f"({unseen} OR {value} IS NULL)" for name, value in told.items()},
        "known_usd": f"coalesce({cost}, 0.0)",
        "unpriced": f"(NOT {in_doubt} AND {cost} IS NULL)",
        "unknown": in_doubt,
        "reserved_tokens": f"(CASE WHEN {in_doubt} THEN max(0, reserved_tokens - ({least})) ELSE 0 END)",
        "reserved_usd": f"(CASE WHEN {in_doubt} AND {cost} IS NULL THEN coalesce(reserved_usd, 0.0) ELSE 0.0 END)",
        "unreserved": f"({in_doubt} AND {cost} IS NULL AND reserved_usd IS NULL)",
    }


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
    figures = _figures()
    op.create_table(
        "totals",
        sa.Column("run_id", sa.Text, primary_key=True, nullable=False),
        *(sa.Column(name, BIG, nullable=False, server_default=ZERO) for name in ("changes", "last_seq", *STATUSES)),
        *(sa.Column(name, sa.Float(53), nullable=False, server_default=ZERO) for name in figures),
    )
    if op.get_bind().dialect.name != "sqlite":
        return  # no other database is as old, so there is nothing to sum up
    op.execute("INSERT INTO totals (run_id) SELECT run_id FROM runs")
    counts = ", ".join(f"count(CASE WHEN status = '{status}' THEN 1 END) AS {status}" for status in STATUSES)
    _fill(("changes", "last_seq", *STATUSES), f"max(change_no) AS changes, max(seq) AS last_seq, {counts}", "nodes")
    sums = ", ".join(f"total({value}) AS {name}" for name, value in figures.items())
    _fill(tuple(figures), sums, "attempts WHERE model <> ''")


def _fill(columns: tuple[str, ...], sums: str, table: str) -> None:
    values = ", ".join(f"{name} = found.{name}" for name in columns)
    op.execute(
        f"UPDATE totals SET {values} FROM (SELECT run_id, {sums} FROM {table} GROUP BY run_id) AS found "  # noqa: S608
        "WHERE totals.run_id = found.run_id"
    )
