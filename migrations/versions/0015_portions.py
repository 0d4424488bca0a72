"""Portions of runs' budgets that processes hold

Revision: 0015, after 0014.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "portions",
        sa.Column("run_id", sa.Text, primary_key=True, nullable=False),
        sa.Column("process", BIG, primary_key=True, nullable=False, autoincrement=False),
        sa.Column("tokens", sa.Float(53), nullable=False),
        sa.Column("usd", sa.Float(53), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("portions")
