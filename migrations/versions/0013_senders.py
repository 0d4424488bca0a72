"""Which process has sent a request, and requests on their way by their keys

Revision: 0013, after 0012.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
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
