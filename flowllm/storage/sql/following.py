"""The verbs that follow a run: narrow reads by the index of changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from flowllm.core.types import NODE_TERMINAL, Counts, NodeId, NodeStatus, RunId, RunStatus
from flowllm.storage.following import ItemChange, NodeBrief, Past, Within, WorkflowSums
from flowllm.storage.sql.reader import Reader
from flowllm.storage.sql.records import reading, totals_of, usage_of
from flowllm.storage.sql.rows import from_json, from_text, to_text
from flowllm.storage.sql.run_queries import TOTALS
from flowllm.storage.sql.totals import FIGURES, STATUSES

_COLUMNS: Final = (
    *("node_id", "kind", "status", "parent", "place", "started_at", "finished_at", "queue_s", "call_s", "cached"),
    *("reused", "attempts", "model", "cost_usd", "usage", "error", "counts", "waits", "change_no"),
)
_CHANGED: Final = "FROM nodes WHERE run_id = :run AND change_no > :since"
_OUTSIDE: Final = "instr(parent, '[') = 0"
"""No row of an item, and none within one: those of an item are as many as there are items."""
_TAIL: Final = "ORDER BY change_no LIMIT :limit"
_ITEMS: Final = (
    "parent, place, status, change_no, cached OR reused, "
    "CASE WHEN status = 'failed' THEN node_id END, CASE WHEN status = 'failed' THEN error END"
)
_ENDED: Final = ", ".join(f"'{status}'" for status in sorted(NODE_TERMINAL))
_SIZE: Final = "nullif(CAST(json_extract(counts, '$.total') AS BIGINT), 0)"
"""Of a foreach; it is not known of one whose items are still being counted."""
_WITHIN: Final = (
    "SELECT CASE WHEN place IS NULL THEN substr(node_id, instr(node_id, '].') + 2) ELSE substr(parent, instr(parent, '].') + 2) END, "
    f"place IS NOT NULL, CASE WHEN count(counts) > 0 THEN count({_SIZE}) ELSE count(*) END, "
    f"count(CASE WHEN status IN ({_ENDED}) THEN 1 END), count(CASE WHEN status = 'failed' THEN 1 END), "
    "count(CASE WHEN status IN ('skipped', 'blocked') THEN 1 END), "
    f"count(CASE WHEN status IN ({_ENDED}) AND NOT (cached OR reused) THEN 1 END), "
    f"CASE WHEN count(counts) > 0 THEN coalesce(sum({_SIZE}), 0) END, min({_SIZE}) = max({_SIZE}) FROM nodes WHERE run_id = :run "
    "AND parent >= :foreach || '[' AND parent < :foreach || '\\' AND instr(substr(parent, length(:foreach) + 2), '[') = 0 "
    "GROUP BY 1, 2"
)
_AT: Final = "CASE WHEN finished_at > started_at THEN finished_at ELSE started_at END AS at"
_LAST: Final = (
    f"SELECT max(at) FROM (SELECT {_AT} FROM attempts WHERE run_id = :run UNION ALL SELECT at FROM (SELECT {_AT} FROM nodes "
    "WHERE run_id = :run AND started_at IS NOT NULL ORDER BY change_no DESC LIMIT 100) AS newest) AS found"
)
_RECENT: Final = (
    "SELECT seq, coalesce(CAST(json_extract(stats, '$.duration_s') AS FLOAT), finished_at - started_at), status FROM runs "
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
        query = f"SELECT {_ITEMS} {_CHANGED} AND place IS NOT NULL AND {_OUTSIDE} {_TAIL}"
        rows = await self._all(query, {"run": to_text(run_id), "since": since, "limit": limit})
        return [
            ItemChange(
                *(from_text(parent), place, NodeStatus(status), no, not taken, NodeId(from_text(node or ""))),
                error=None if error is None else from_json(error),
            )
            for parent, place, status, no, taken, node, error in rows
        ]

    async def within(self, run_id: RunId, foreach: NodeId) -> list[Within]:
        rows = await self._all(_WITHIN, {"run": to_text(run_id), "foreach": to_text(foreach)})
        items, found = {path: counts for path, of_items, *counts in rows if of_items}, []
        for path, of_items, *counts in rows:
            if not of_items:
                begun, *_, total, alike = counts
                ended, failed, skipped, worked = map(int, (counts if total is None else items.get(path, [0] * 5))[1:5])
                size = None if total is None else int(total)
                found.append(Within(from_text(path), ended, failed, skipped, worked, begun, size, alike == 1))
        return found

    async def last_sign(self, run_id: RunId) -> float | None:
        ((at,),) = await self._all(_LAST, {"run": to_text(run_id)})
        return None if at is None else float(at)

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
