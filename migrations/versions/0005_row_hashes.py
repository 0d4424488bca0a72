"""Hashes of whole rows, which find what was damaged on disk

Revision: 0005, after 0004.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

COLUMNS = (("runs", "snapshot_hash"), ("runs", "row_hash"), ("nodes", "row_hash"), ("attempts", "row_hash"))


def upgrade() -> None:
    # Of rows that were written before nobody knows whether they are whole: they have no hash, and are believed.
    for table, name in COLUMNS:
        op.add_column(table, sa.Column(name, sa.Text))


def downgrade() -> None:
    for table, name in reversed(COLUMNS):
        op.drop_column(table, name)
