"""Which rows of a foreach's items stand, in SQL.

A resumed sitting takes the items of earlier ones over one by one. Until its foreach has ended, the rows of every
sitting are to be seen, but of two at one place only that of the newer sitting; once it has ended, what it neither
wrote nor took over has left the data. A run in its first sitting (most are) has nothing of the kind, and is spared
the looking.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import ColumnElement, and_, exists, func, literal_column, or_, select

from flowllm.core.types import NodeStatus
from flowllm.storage.sqlite.tables import nodes, runs

ENDED: Final = (NodeStatus.SUCCEEDED, NodeStatus.FAILED, NodeStatus.SKIPPED, NodeStatus.BLOCKED)
"""How a foreach ends that came to the end of its data; a cancelled one did not."""
_ZERO: Final[ColumnElement[int]] = literal_column("0")
_ONE: Final[ColumnElement[int]] = literal_column("1")


def standing(run_id: Any, parent: Any) -> ColumnElement[bool]:
    """Whether a row of `nodes` is an item that stands; `run_id` and `parent` are its columns, or values for them,
    with which SQLite looks at the run and the foreach once."""
    foreach, other = nodes.alias("foreach"), nodes.alias("other")
    sitting = select(runs.c.epoch).where(runs.c.run_id == run_id).scalar_subquery()
    ended = (
        select(foreach.c.epoch)
        .where(
            foreach.c.run_id == run_id,
            foreach.c.node_id == parent,
            foreach.c.status.in_([literal_column(f"'{status}'") for status in ENDED]),
        )
        .scalar_subquery()
    )
    newer = exists(literal_column("1")).where(
        other.c.run_id == nodes.c.run_id,
        other.c.parent == nodes.c.parent,
        other.c.place == nodes.c.place,
        other.c.epoch > nodes.c.epoch,
    )
    left_behind = or_(nodes.c.epoch < func.coalesce(ended, _ZERO), newer)
    return and_(nodes.c.place.is_not(None), or_(sitting == _ONE, ~left_behind))
