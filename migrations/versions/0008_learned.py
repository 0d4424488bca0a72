"""All that was learned of accounts' models, by name, in place of their rates alone.

Revision: 0008, after 0007.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "learned",
        sa.Column("account", sa.Text, primary_key=True, nullable=False),
        sa.Column("name", sa.Text, primary_key=True, nullable=False),
        sa.Column("value", sa.Float(53), nullable=False),
        sa.Column("learned_at", sa.Float(53), nullable=False),
    )
    op.execute(
        "INSERT INTO learned (account, name, value, learned_at) "
        "SELECT account, 'requests_per_second', requests_per_second, learned_at FROM rates"
    )
    op.drop_table("rates")


def downgrade() -> None:
    op.create_table(
        "rates",
        sa.Column("account", sa.Text, primary_key=True, nullable=False),
        sa.Column("requests_per_second", sa.Float(53), nullable=False),
        sa.Column("learned_at", sa.Float(53), nullable=False),
    )
    op.execute(
        "INSERT INTO rates (account, requests_per_second, learned_at) "
        "SELECT account, value, learned_at FROM learned WHERE name = 'requests_per_second'"
    )
    op.drop_table("learned")
