"""Totals of runs are added up by the writer, no longer by triggers; the index of items holds what counts need.

Revision: 0007, after 0006.
A database whose 0006 made triggers would count everything twice; one whose 0006 did not is left as it is.
"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

TRIGGERS = ("runs_insert", "runs_delete", "nodes_insert", "nodes_update", "attempts_insert", "attempts_update")


def upgrade() -> None:
    for name in TRIGGERS if op.get_bind().dialect.name == "sqlite" else ():
        op.execute(f"DROP TRIGGER IF EXISTS {name}_totals")
    op.drop_index("ix_nodes_parent_place", "nodes")
    op.create_index("ix_nodes_parent_place", "nodes", ["run_id", "parent", "place", "epoch", "status"])


def downgrade() -> None:
    """Without the triggers: a new database has never had them."""
    op.drop_index("ix_nodes_parent_place", "nodes")
    op.create_index("ix_nodes_parent_place", "nodes", ["run_id", "parent", "place"])
