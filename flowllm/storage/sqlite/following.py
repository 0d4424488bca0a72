"""The verbs that follow a run: narrow reads by the index of changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from flowllm.core.types import Counts, NodeId, NodeStatus, RunId, RunStatus
from flowllm.storage.following import ItemChange, NodeBrief, Past, WorkflowSums
from flowllm.storage.sqlite.reader import Reader
from flowllm.storage.sqlite.records import reading, totals_of, usage_of
from flowllm.storage.sqlite.rows import from_json, from_text, to_text
from flowllm.storage.sqlite.run_queries import TOTALS
from flowllm.storage.sqlite.totals import FIGURES, STATUSES

_COLUMNS: Final = (
    *("node_id", "kind", "status", "parent", "place", "started_at", "finished_at", "queue_s", "call_s", "cached"),
    *("reused", "attempts", "model", "cost_usd", "usage", "error", "counts", "waits", "change_no"),
)
_CHANGED: Final = "FROM nodes WHERE run_id = :run AND change_no > :since"
_OUTSIDE: Final = "instr(parent, '[') = 0"
"""No row of an item, and none within one: those of an item are as many as there are items."""
_TAIL: Final = "ORDER BY change_no LIMIT :limit"
_RECENT: Final = (
    "SELECT seq, coalesce(json_extract(stats, '$.duration_s'), finished_at - started_at), status FROM runs "
    "WHERE workflow = :workflow AND seq <= :upto AND finished_at IS NOT NULL ORDER BY seq DESC LIMIT :limit"
)
_SUMS: Final = (
    f"SELECT workflow, status, count(*), {', '.join(f'sum(totals.{name})' for name in (*STATUSES, *FIGURES))} FROM runs "
    "JOIN totals ON totals.run_id = runs.run_id GROUP BY workflow, status ORDER BY workflow, status"
)


class FollowingReader(Reader):
    """The verbs of `Following`."""

    async def briefs(
        self, run_id: RunId, *, parent: str | None = None, since: int = 0, limit: int = 2000
    ) -> list[NodeBrief]:
        which = _OUTSIDE if parent is None else "parent = :parent"
        query = f"SELECT {', '.join(_COLUMNS)} {_CHANGED} AND place IS NULL AND {which} {_TAIL}"
        values = {"run": to_text(run_id), "parent": to_text(parent or ""), "since": since, "limit": limit}
        return [_brief(dict(zip(_COLUMNS, row, strict=True))) for row in await self._all(query, values)]

    async def item_changes(self, run_id: RunId, *, since: int = 0, limit: int = 2000) -> list[ItemChange]:
        query = f"SELECT parent, place, status, change_no, cached OR reused {_CHANGED} AND place IS NOT NULL AND {_OUTSIDE} {_TAIL}"
        rows = await self._all(query, {"run": to_text(run_id), "since": since, "limit": limit})
        return [
            ItemChange(from_text(parent), place, NodeStatus(status), no, not taken)
            for parent, place, status, no, taken in rows
        ]

    async def recent(self, workflow: str, *, upto: int, limit: int) -> list[Past]:
        rows = await self._all(_RECENT, {"workflow": to_text(workflow), "upto": upto, "limit": limit})
        return [Past(seq, seconds, RunStatus(status)) for seq, seconds, status in reversed(rows)]

    async def sums(self) -> list[WorkflowSums]:
        return [
            WorkflowSums(
                workflow=from_text(workflow),
                status=RunStatus(status),
                runs=runs,
                totals=totals_of(dict(zip(TOTALS, (0, 0, *summed), strict=True))),
            )
            for workflow, status, runs, *summed in await self._all(_SUMS)
        ]


def _brief(row: Mapping[str, Any]) -> NodeBrief:
    with reading(f"Step {row['node_id']}"):
        return NodeBrief(
            **{
                **row,
                "node_id": NodeId(from_text(row["node_id"])),
                "status": NodeStatus(row["status"]),
                "parent": from_text(row["parent"]),
                "cached": bool(row["cached"]),
                "reused": bool(row["reused"]),
                "model": from_text(row["model"]),
                "usage": usage_of(row["usage"]),
                "error": None if row["error"] is None else from_json(row["error"]),
                "counts": None if row["counts"] is None else Counts(**from_json(row["counts"])),
                "waits": {} if row["waits"] is None else from_json(row["waits"]),
            }
        )
