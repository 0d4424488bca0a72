"""Scopes of limits, and the shares that processes have of them

Revision: 0014, after 0013.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "limit_scopes",
        sa.Column("scope", sa.Text, primary_key=True, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
    )
    op.create_table(
        "shares",
        sa.Column("scope", sa.Text, primary_key=True, nullable=False),
        sa.Column("process", BIG, primary_key=True, nullable=False),
        sa.Column("until", sa.Float(53), nullable=False),
        sa.Column("state", sa.Text, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("shares")
    op.drop_table("limit_scopes")
