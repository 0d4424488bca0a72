"""Which process has sent a request, and requests on their way by their keys

Revision: 0012, after 0011.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
SENT = sa.text("status = 'sent'")


def upgrade() -> None:
    op.add_column("attempts", sa.Column("process", BIG))
    op.create_index("ix_attempts_sent", "attempts", ["key"], sqlite_where=SENT, postgresql_where=SENT)


def downgrade() -> None:
    op.drop_index("ix_attempts_sent", "attempts")
    op.drop_column("attempts", "process")
