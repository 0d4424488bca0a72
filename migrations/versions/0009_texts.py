"""Long texts, each once a run, compressed; shorter hashes and usages

Revision: 0009, after 0008.
Rows of before stay as they are: a cell holds a text or leans on others, and a hash says by its length what it is.
"""

from __future__ import annotations

import binascii
import hashlib
import json
import zlib

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
    for table, columns in CELLS.items():
        _write_out(table, columns)
    _lengthen()
    op.drop_index("ix_runs_unfinished", "runs")
    op.drop_index("ix_memo_text_id", "memo")
    op.drop_column("memo", "text_id")
    op.drop_table("texts")


def _write_out(table: str, columns: tuple[str, ...]) -> None:
    """Every cell as its text again; one that cannot be read as a text that no hash matches, so that it is found."""
    connection = op.get_bind()
    leaning = " OR ".join(f"typeof({name}) = 'blob'" for name in columns)
    one = f"SELECT {', '.join(columns)} FROM {table} WHERE rowid = ?"  # noqa: S608
    for (rowid,) in connection.exec_driver_sql(f"SELECT rowid FROM {table} WHERE {leaning}").fetchall():  # noqa: S608
        for name, cell in zip(columns, connection.exec_driver_sql(one, (rowid,)).one(), strict=True):
            if isinstance(cell, bytes):
                try:
                    text = _text(connection, cell)
                except (zlib.error, sa.exc.NoResultFound, ValueError, LookupError, TypeError):
                    text = LOST
                connection.exec_driver_sql(f"UPDATE {table} SET {name} = ? WHERE rowid = ?", (text, rowid))  # noqa: S608


def _lengthen() -> None:
    """Usages with their names, and hashes in full where they are needed: rows without are believed. A hash that its content
    does not match stays, and matches nothing."""
    names = "input_tokens", "output_tokens", "cached_input_tokens", "reasoning_tokens", "cache_write_tokens"
    raw = op.get_bind().connection.driver_connection
    raw.create_function("named", 1, lambda usage: json.dumps(dict(zip(names, json.loads(usage), strict=True))))
    raw.create_function("short", -1, lambda *values: binascii.b2a_base64(_digest(values)[:16])[:22].decode())
    raw.create_function("hashed", -1, lambda *values: _digest(values).hex())
    for table in ("nodes", "attempts"):
        op.execute(f"UPDATE {table} SET usage = named(usage) WHERE usage LIKE '[%'")  # noqa: S608
    answer = "key, provider, model, created_at * 1.0, size * 1.0, answer"
    for table, name, hashed, now in (
        ("nodes", "content_hash", "status, key, output", "status, key, output"),
        ("memo", "content_hash", answer, "answer"),
        ("runs", "outputs_hash", "outputs", "outputs"),
        ("runs", "snapshot_hash", "snapshot", "snapshot"),
    ):
        op.execute(f"UPDATE {table} SET {name} = hashed({now}) WHERE {name} = short({hashed})")  # noqa: S608
    whole = "char(0) NOT IN (parts, coalesce(item, ''))"
    for table, which in (("runs", "1"), ("nodes", whole), ("attempts", "1")):
        op.execute(f"UPDATE {table} SET row_hash = NULL WHERE length(row_hash) = 22 AND {which}")  # noqa: S608


def _digest(values: tuple[str | float, ...]) -> bytes:
    """SHA-256 of texts, and of numbers as Python writes them, each ended by a newline."""
    return hashlib.sha256("\n".join((*map(str, values), "")).encode()).digest()


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
