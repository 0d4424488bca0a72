"""Long texts, each once a run, compressed; shorter hashes and usages

Revision: 0009, after 0008.
Rows of before stay as they are: a cell holds a text or leans on others, and a hash says by its length what it is.
"""

from __future__ import annotations

import binascii
import contextlib
import hashlib
import json
import sqlite3
import zlib
from collections.abc import Iterator

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
UNFINISHED = sa.text("status <> 'succeeded'")
LEANS = sa.text("text_id IS NOT NULL")
USUAL = (
    b',"model":"gpt-4o-mini","provider":"openai","usage":{"input_tokens":1,"output_tokens":1,"cached_input_tokens":0,'
    b'"reasoning_tokens":0,"cache_write_tokens":0},"cost_usd":0.0001,"cost_usd":null,"truncated":false}"}]}}'
    b'{"kind":"chat","provider":{"type":"openai","base_url":"https://api.openai.com/v1"},'
    b'"body":{"model":"gpt-4o-mini","messages":[{"role":"system","content":"{"role":"user","content":"'
)
"""The text of number 0."""
LOST = "\0"
USAGE = ("input_tokens", "output_tokens", "cached_input_tokens", "reasoning_tokens", "cache_write_tokens")
ROWS = {
    "runs": "run_id workflow path started_at finished_at provider tenant epoch owner_pid owner_host owner_since inputs "
    "options stats error outputs_hash snapshot_hash",
    "nodes": "run_id node_id seq kind status key model provider cached attempts truncated usage cost_usd queue_s call_s "
    "started_at finished_at parent place epoch content counts error content_hash parts item reused",
    "attempts": "attempt_id run_id node_id key number provider model status started_at finished_at usage cost_usd error "
    "reserved_tokens reserved_usd",
    "memo": "",
}
"""What the hash of a row is made of; that of a node also of its waits, if it has any."""
HASHES = {
    "runs": (("outputs_hash", ["outputs"], ["outputs"]), ("snapshot_hash", ["snapshot"], ["snapshot"])),
    "nodes": (("content_hash", ["status", "key", "output"], ["status", "key", "output"]),),
    "attempts": (),
    "memo": (("content_hash", ["key", "provider", "model", "created_at", "size", "answer"], ["answer"]),),
}
"""Hashes of contents, what the short one is made of, and the long one."""
CELLS = {"nodes": ("parts", "item", "output"), "memo": ("answer",)}


def upgrade() -> None:
    op.create_table(
        "texts",
        sa.Column("text_id", BIG, primary_key=True, nullable=False),
        sa.Column("run_seq", BIG, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_texts_run_seq", "texts", ["run_seq"])
    op.create_index("ix_runs_unfinished", "runs", ["seq"], sqlite_where=UNFINISHED, postgresql_where=UNFINISHED)
    op.add_column("memo", sa.Column("text_id", BIG))
    op.create_index("ix_memo_text_id", "memo", ["text_id"], sqlite_where=LEANS, postgresql_where=LEANS)


def downgrade() -> None:
    raw = _raw()
    raw.text_factory = lambda text: text.decode(errors="surrogateescape")  # no hash matches what is damaged
    for table, columns in CELLS.items():
        _write_out(table, columns)
    _lengthen()
    raw.text_factory = str
    op.drop_index("ix_runs_unfinished", "runs")
    op.drop_index("ix_memo_text_id", "memo")
    op.drop_column("memo", "text_id")
    op.drop_table("texts")


def _write_out(table: str, columns: tuple[str, ...]) -> None:
    """Every cell as its text again; one that cannot be read as a text that no hash matches, so that it is found."""
    leaning = " OR ".join(f"typeof({name}) = 'blob'" for name in columns)
    for row in _rows(table, ", ".join(columns), leaning):
        for name in columns:
            cell = row[name]
            if isinstance(cell, bytes):
                try:
                    text = _text(op.get_bind(), cell)
                except (zlib.error, sa.exc.NoResultFound, ValueError, LookupError, TypeError):
                    text = LOST
                _raw().execute(f"UPDATE {table} SET {name} = ? WHERE rowid = ?", (text, row["rowid"]))  # noqa: S608


def _lengthen() -> None:
    """Usages with their names, and hashes in full where they are needed: rows without are believed. A hash that its content
    does not match stays, and matches nothing."""
    for table in ROWS:
        for row in _rows(table, "*"):
            changes = _changes(table, row)
            if changes:
                sets = ", ".join(f"{name} = :{name}" for name in changes)
                _raw().execute(f"UPDATE {table} SET {sets} WHERE rowid = :rowid", {**row, **changes})  # noqa: S608


def _changes(table: str, row: dict[str, object]) -> dict[str, object]:
    changes: dict[str, object] = {}
    for name, before, now in HASHES[table]:
        if row[name] == _short([row[one] for one in before]):
            changes[name] = _digest([row[one] for one in now]).hex()
    if "row_hash" in row:
        names = [*ROWS[table].split(), *(("waits",) if row.get("waits") is not None else ())]
        if row["row_hash"] == _short([row[one] for one in names]):
            changes["row_hash"] = None
    if str(row.get("usage")).startswith("["):
        with contextlib.suppress(ValueError):  # it is damaged, as its row's hash tells
            changes["usage"] = json.dumps(dict(zip(USAGE, json.loads(str(row["usage"])), strict=True)))
    return changes


def _rows(table: str, columns: str, which: str = "1") -> Iterator[dict[str, object]]:
    """One by one, so that they may be written meanwhile."""
    one = f"SELECT rowid, {columns} FROM {table} WHERE rowid = ?"  # noqa: S608
    for (rowid,) in _raw().execute(f"SELECT rowid FROM {table} WHERE {which}").fetchall():  # noqa: S608
        found = _raw().execute(one, (rowid,))
        yield dict(zip([column[0] for column in found.description], found.fetchone(), strict=True), rowid=rowid)


def _raw() -> sqlite3.Connection:
    return op.get_bind().connection.driver_connection


def _short(values: list[object]) -> str:
    return binascii.b2a_base64(_digest(values)[:16])[:22].decode()


def _digest(values: list[object]) -> bytes:
    """SHA-256 of texts, of numbers as Python writes them, and of a NUL for none, each ended by a newline."""
    texts = ("\0" if one is None else repr(float(one)) if isinstance(one, int | float) else str(one) for one in values)
    return hashlib.sha256("\n".join((*texts, "")).encode(errors="surrogatepass")).digest()


def _text(connection: sa.Connection, cell: bytes) -> str:
    head, _, rest = cell.partition(b":")
    find = "SELECT body FROM texts WHERE text_id = ?"
    numbers = [int(number) for number in head.split(b",") if number]
    known = [
        zlib.decompress(connection.exec_driver_sql(find, (number,)).scalar_one(), -15) if number else USUAL
        for number in numbers
    ]
    if not rest:
        return known[0].decode()
    dictionary = b"".join(known)[-32_000:]
    made = zlib.decompressobj(-15, zdict=dictionary) if dictionary else zlib.decompressobj(-15)
    content = made.decompress(rest)
    if not made.eof:
        raise zlib.error
    return content.decode()
