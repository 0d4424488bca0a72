"""What was set aside for an attempt, and the rates that accounts were found to bear

Revision: 0003, after 0002.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Of attempts made before, nobody knows what they might have cost: their reserved_usd stays NULL.
    op.add_column("attempts", sa.Column("reserved_tokens", sa.Float(53), nullable=False, server_default=sa.text("0")))
    op.add_column("attempts", sa.Column("reserved_usd", sa.Float(53)))
    op.create_table(
        "rates",
        sa.Column("account", sa.Text, primary_key=True, nullable=False),
        sa.Column("requests_per_second", sa.Float(53), nullable=False),
        sa.Column("learned_at", sa.Float(53), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("rates")
    with op.batch_alter_table("attempts") as batch:
        batch.drop_column("reserved_usd")
        batch.drop_column("reserved_tokens")
