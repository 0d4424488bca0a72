"""What earlier runs of a workflow took: a few rows of each, by ranges of the index of a run's nodes."""

from __future__ import annotations

from typing import Any, Final

from flowllm.core.types import ROW, NodeStatus, step_path
from flowllm.storage.base import AttemptRecord
from flowllm.storage.sql.reader import TIMED, Reader
from flowllm.storage.sql.records import attempt_of
from flowllm.storage.sql.rows import AttemptRow, from_text, to_text

RUNS: Final = 20
"""The newest runs, whatever came of them, that are looked into."""
_RUNS_OF: Final = f"SELECT run_id FROM runs WHERE workflow = :workflow ORDER BY seq DESC LIMIT {RUNS}"
_ROWS: Final = "SELECT {columns} FROM {table} WHERE run_id = :run AND node_id GLOB :like AND {ended} LIMIT :limit"
_ATTEMPTS: Final = _ROWS.format(
    columns=", ".join(AttemptRow._fields), table="attempts", ended="finished_at IS NOT NULL AND status <> 'not_sent'"
)
_STATUSES: Final = _ROWS.format(
    columns="node_id, status", table="nodes", ended="status IN ('succeeded', 'failed', 'skipped')"
)
_ANSWERS: Final = (
    f"SELECT {', '.join(AttemptRow._fields)} FROM (SELECT * FROM attempts ORDER BY seq DESC LIMIT {TIMED}) AS newest "
    "WHERE provider = :provider AND model <> '' AND model = coalesce(nullif(:model, ''), model) AND status = 'succeeded' AND error IS NULL LIMIT :limit"
)
_NODE: Final = AttemptRow._fields.index("node_id")


class PastReader(Reader):
    """The verbs of `PastReads`."""

    async def past_attempts(self, workflow: str, step: str, *, limit: int) -> list[AttemptRecord]:
        rows = await self._in_thread(lambda: self._past(_ATTEMPTS, workflow, step, limit, at=_NODE))
        return [attempt_of(AttemptRow._make(row)) for row in rows]

    async def past_statuses(self, workflow: str, step: str, *, limit: int) -> list[NodeStatus]:
        rows = await self._in_thread(lambda: self._past(_STATUSES, workflow, step, limit, at=0))
        return [NodeStatus(status) for _, status in rows]

    async def past_answers(self, provider: str, model: str, *, limit: int) -> list[AttemptRecord]:
        rows = await self._all(_ANSWERS, {"provider": to_text(provider), "model": to_text(model), "limit": limit})
        return [attempt_of(AttemptRow._make(row)) for row in rows]

    def _past(self, query: str, workflow: str, step: str, limit: int, *, at: int) -> list[tuple[Any, ...]]:
        """Rows of a step's nodes, whose name stands in column `at`."""
        likes = {f"{'*.'.join(names.split('.'))}*": names for names in (step, f"{ROW}.{step}")}
        found: list[tuple[Any, ...]] = []
        for (run,) in self._fetch(_RUNS_OF, {"workflow": to_text(workflow)}):
            for like, names in likes.items():
                rows = self._fetch(query, {"run": run, "like": like, "limit": 4 * limit})
                found += [row for row in rows if step_path(from_text(row[at])) == names]
            if len(found) >= limit:
                break
        return found[:limit]
