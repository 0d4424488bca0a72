"""Long texts, each once a run, compressed

Revision: 0009, after 0008.
Rows of before stay as they are: a cell holds a text or leans on others.
"""

from __future__ import annotations

import zlib

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
LEANS = sa.text("text_id IS NOT NULL")
CELLS = {"nodes": ("parts", "item", "output"), "memo": ("answer",)}


def upgrade() -> None:
    op.create_table(
        "texts",
        sa.Column("text_id", BIG, primary_key=True, nullable=False),
        sa.Column("run_seq", BIG, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_texts_run_seq", "texts", ["run_seq"])
    op.add_column("memo", sa.Column("text_id", BIG))
    op.create_index("ix_memo_text_id", "memo", ["text_id"], sqlite_where=LEANS, postgresql_where=LEANS)


def downgrade() -> None:
    for table, columns in CELLS.items():
        _write_out(table, columns)
    op.drop_index("ix_memo_text_id", "memo")
    op.drop_column("memo", "text_id")
    op.drop_table("texts")


def _write_out(table: str, columns: tuple[str, ...]) -> None:
    """Every cell as its text again; one that cannot be read stays, and is found to be damaged."""
    connection = op.get_bind()
    leaning = " OR ".join(f"typeof({name}) = 'blob'" for name in columns)
    one = f"SELECT {', '.join(columns)} FROM {table} WHERE rowid = ?"  # noqa: S608
    for (rowid,) in connection.exec_driver_sql(f"SELECT rowid FROM {table} WHERE {leaning}").fetchall():  # noqa: S608
        for name, cell in zip(columns, connection.exec_driver_sql(one, (rowid,)).one(), strict=True):
            if isinstance(cell, bytes):
                values = (_text(connection, cell), rowid)
                connection.exec_driver_sql(f"UPDATE {table} SET {name} = ? WHERE rowid = ?", values)  # noqa: S608


def _text(connection: sa.Connection, cell: bytes) -> str:
    head, _, rest = cell.partition(b":")
    find = "SELECT body FROM texts WHERE text_id = ?"
    numbers = [int(number) for number in head.split(b",") if number]
    known = [zlib.decompress(connection.exec_driver_sql(find, (number,)).scalar_one(), -15) for number in numbers]
    if not rest:
        return known[0].decode()
    dictionary = b"".join(known)[-32_000:]
    made = zlib.decompressobj(-15, zdict=dictionary) if dictionary else zlib.decompressobj(-15)
    return made.decompress(rest).decode()
