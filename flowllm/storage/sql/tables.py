"""The schema. Plain types only, so that it is the same in SQLite and in PostgreSQL.

JSON is kept as text (see rows.py), where it is long in another form (see texts.py). The widest columns stand last: SQLite reads a row from its beginning. A
change here needs a migration; a test compares both ways to a schema.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    false,
    text,
)

from flowllm.storage.sql.totals import FIGURES, STATUSES

metadata = MetaData()
BIG = BigInteger().with_variant(Integer(), "sqlite")
"""SQLite numbers rows by itself only in a column that is declared INTEGER."""

DEAD = "status = 'failed' AND place IS NOT NULL"
"""What makes an item a dead letter. They are few, so an index of their own costs next to nothing; `status` is
in it so that SQLite's planner finds it the better one."""


def _where(condition: str) -> dict[str, Any]:
    """Of an index of some rows."""
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}


runs = Table(
    "runs",
    metadata,
    Column("seq", BIG, primary_key=True, autoincrement=True),
    Column("run_id", Text, nullable=False, unique=True),
    Column("workflow", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("started_at", Float(53), nullable=False),
    Column("finished_at", Float(53)),
    Column("provider", Text, nullable=False),
    Column("tenant", Text, nullable=False, server_default=text("''")),
    Column("epoch", BIG, nullable=False),
    Column("owner_pid", BIG),
    Column("owner_host", Text),
    Column("owner_since", Float(53)),
    Column("output_offset", BIG),
    Column("inputs", Text, nullable=False),
    Column("options", Text, nullable=False),
    Column("stats", Text, nullable=False),
    Column("error", Text),
    Column("outputs_hash", Text),
    Column("outputs", Text),
    Column("snapshot", Text, nullable=False),
    Column("snapshot_hash", Text),
    Column("row_hash", Text),
    Column("process", BIG),
    Index("ix_runs_workflow_seq", "workflow", "seq"),
    Index("ix_runs_started_at", "started_at"),
    Index("ix_runs_unfinished", "seq", **_where("status <> 'succeeded'")),
    Index("ix_runs_running", "seq", **_where("status = 'running'")),
    sqlite_autoincrement=True,  # a number is not given twice, also after the newest run was deleted
)

processes = Table(
    "processes",
    metadata,
    Column("process_id", BIG, primary_key=True, autoincrement=True),
    Column("token", Text, nullable=False, unique=True),
    Column("pid", BIG, nullable=False),
    Column("host", Text, nullable=False),
    Column("machine", Text, nullable=False),
    Column("started", Text, nullable=False),
    Column("since", Float(53), nullable=False),
    Column("lease_until", Float(53), nullable=False),
    Column("ended_at", Float(53)),
    Index("ix_processes_ended_at", "ended_at"),
    sqlite_autoincrement=True,  # what names a process that was removed must not name another
)

tags = Table(
    "tags",
    metadata,
    Column("run_id", Text, primary_key=True, nullable=False),
    Column("tag", Text, primary_key=True, nullable=False),
    Index("ix_tags_tag", "tag"),
)

nodes = Table(
    "nodes",
    metadata,
    Column("run_id", Text, primary_key=True, nullable=False),
    Column("node_id", Text, primary_key=True, nullable=False),
    Column("seq", BIG, nullable=False),
    Column("kind", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("cached", Boolean, nullable=False),
    Column("attempts", BIG, nullable=False),
    Column("truncated", Boolean, nullable=False),
    Column("usage", Text, nullable=False),
    Column("cost_usd", Float(53)),
    Column("queue_s", Float(53), nullable=False),
    Column("call_s", Float(53), nullable=False),
    Column("started_at", Float(53)),
    Column("finished_at", Float(53)),
    Column("parent", Text, nullable=False, server_default=text("''")),
    Column("place", BIG),
    Column("epoch", BIG, nullable=False, server_default=text("1")),
    Column("content", Text, nullable=False, server_default=text("''")),
    Column("counts", Text),
    Column("error", Text),
    Column("content_hash", Text, nullable=False),
    Column("parts", Text, nullable=False),
    Column("item", Text),
    Column("output", Text, nullable=False),
    Column("reused", Boolean, nullable=False, server_default=false()),
    Column("row_hash", Text),
    Column("waits", Text),
    Column("change_no", BIG, nullable=False, server_default=text("0")),
    Index("ix_nodes_change", "run_id", "change_no"),
    Index("ix_nodes_parent_place", "run_id", "parent", "place", "epoch", "status"),
    Index("ix_nodes_failed", "run_id", "status", "parent", "place", **_where(DEAD)),
)

attempts = Table(
    "attempts",
    metadata,
    Column("seq", BIG, primary_key=True, autoincrement=True),
    Column("attempt_id", Text, nullable=False, unique=True),
    Column("run_id", Text, nullable=False),
    Column("node_id", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("number", BIG, nullable=False),
    Column("provider", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("started_at", Float(53), nullable=False),
    Column("finished_at", Float(53)),
    Column("usage", Text, nullable=False),
    Column("cost_usd", Float(53)),
    Column("error", Text),
    Column("reserved_tokens", Float(53), nullable=False, server_default=text("0")),
    Column("reserved_usd", Float(53)),
    Column("row_hash", Text),
    Column("process", BIG),
    Index("ix_attempts_run_node", "run_id", "node_id"),
    Index("ix_attempts_sent", "key", **_where("status = 'sent'")),
)

memo = Table(
    "memo",
    metadata,
    Column("key", Text, primary_key=True, nullable=False),
    Column("provider", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("created_at", Float(53), nullable=False),
    Column("size", BIG, nullable=False),
    Column("content_hash", Text, nullable=False),
    Column("answer", Text, nullable=False),
    Column("text_id", BIG),
    Index("ix_memo_created_at", "created_at"),
    Index("ix_memo_text_id", "text_id", **_where("text_id IS NOT NULL")),
)

texts = Table(
    "texts",
    metadata,
    Column("text_id", BIG, primary_key=True, nullable=False),
    Column("run_seq", BIG, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("ix_texts_run_seq", "run_seq"),
)

learned = Table(
    "learned",
    metadata,
    Column("account", Text, primary_key=True, nullable=False),
    Column("name", Text, primary_key=True, nullable=False),
    Column("value", Float(53), nullable=False),
    Column("learned_at", Float(53), nullable=False),
)

totals = Table(
    "totals",
    metadata,
    Column("run_id", Text, primary_key=True, nullable=False),
    *(Column(name, BIG, nullable=False, server_default=text("0")) for name in ("changes", "last_seq", *STATUSES)),
    *(Column(name, Float(53), nullable=False, server_default=text("0")) for name in FIGURES),
)

waits = Table(
    "waits",
    metadata,
    Column("run_id", Text, primary_key=True, nullable=False),
    Column("node_id", Text, primary_key=True, nullable=False),
    Column("kind", Text, nullable=False),
    Column("token", Text, nullable=False, unique=True),
    Column("due_at", Float(53)),
    Column("payload", Text, nullable=False),
    Column("value", Text),
    Index("ix_waits_due_at", "due_at"),
)

gauges = Table(
    "gauges",
    metadata,
    Column("process", Text, primary_key=True, nullable=False),
    Column("account", Text, primary_key=True, nullable=False),
    Column("at", Float(53), primary_key=True, nullable=False),
    Column("in_flight", BIG, nullable=False),
    Column("waiting", BIG, nullable=False),
    Column("max_concurrent", BIG, nullable=False),
    Column("rate", Float(53)),
    Column("requests_sent", BIG, nullable=False),
    Column("tokens_per_minute", Float(53)),
    Column("tokens", Float(53)),
    Column("tokens_used", BIG, nullable=False),
    Column("refused", BIG, nullable=False),
    Column("pause_s", Float(53), nullable=False),
    Column("waits", Text, nullable=False),
    Index("ix_gauges_at", "at"),
)

ranges = Table(
    "ranges",
    metadata,
    Column("run_id", Text, primary_key=True, nullable=False),
    Column("number", BIG, primary_key=True, nullable=False, autoincrement=False),
    Column("epoch", BIG, nullable=False),
    Column("foreach", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("process", BIG),
    Column("leases", BIG, nullable=False),
    Column("items", LargeBinary, nullable=False),
)

reports = Table(
    "reports",
    metadata,
    Column("report_id", BIG, primary_key=True, autoincrement=True),
    Column("run_id", Text, nullable=False),
    Column("number", BIG, nullable=False),
    Column("process", BIG, nullable=False),
    Column("body", Text, nullable=False),
    Index("ix_reports_run_id", "run_id"),
)

portions = Table(
    "portions",
    metadata,
    Column("run_id", Text, primary_key=True, nullable=False),
    Column("process", BIG, primary_key=True, nullable=False, autoincrement=False),
    Column("tokens", Float(53), nullable=False),
    Column("usd", Float(53), nullable=False),
)

limit_scopes = Table(
    "limit_scopes",
    metadata,
    Column("scope", Text, primary_key=True, nullable=False),
    Column("state", Text, nullable=False),
)

shares = Table(
    "shares",
    metadata,
    Column("scope", Text, primary_key=True, nullable=False),
    Column("process", BIG, primary_key=True, nullable=False),
    Column("until", Float(53), nullable=False),
    Column("state", Text, nullable=False),
)

versions = Table(
    "alembic_version",
    MetaData(),  # Alembic's own table, as Alembic makes it: never part of what it compares
    Column("version_num", String(32), primary_key=True, nullable=False),
)
