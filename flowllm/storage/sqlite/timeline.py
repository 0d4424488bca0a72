"""When attempts and items of a run began and ended."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from flowllm.core.types import NODE_TERMINAL, NodeId, NodeStatus, RunId, StepId
from flowllm.storage.base import AttemptRecord
from flowllm.storage.sqlite.reader import Reader
from flowllm.storage.sqlite.records import attempt_of
from flowllm.storage.sqlite.rows import AttemptRow, from_text, to_text
from flowllm.storage.timeline import Activity

_ATTEMPTS: Final = (
    f"SELECT {', '.join(AttemptRow._fields)} FROM attempts "
    "WHERE run_id = :run AND node_id IN (SELECT value FROM json_each(:nodes)) ORDER BY seq"
)
_SPAN: Final = "CASE WHEN {time} >= :begin AND {time} < :end THEN cast(({time} - :begin) / :width AS INTEGER) END"
_ACTIVITY: Final = (
    f"SELECT {_SPAN.format(time='started_at')}, {_SPAN.format(time='finished_at')}, status, count(*) FROM nodes "
    "WHERE run_id = :run AND parent = :parent AND place IS NOT NULL GROUP BY 1, 2, 3"
)
_WITHIN: Final = (
    "SELECT substr(node_id, length(parent) + 2), status, count(*) FROM nodes WHERE run_id = :run "
    "AND parent >= :foreach || '[' AND parent < :foreach || '\\' AND place IS NULL "
    "AND instr(substr(parent, length(:foreach) + 1), '.') = 0 GROUP BY 1, 2 ORDER BY min(seq), 1"
)
_OVER: Final = frozenset(status.value for status in NODE_TERMINAL)
_COUNTED: Final = ("started", "succeeded", "failed", "others")


class TimelineReader(Reader):
    """The verbs of `TimelineReads`."""

    async def attempts_of(self, run_id: RunId, nodes: Sequence[NodeId]) -> dict[NodeId, list[AttemptRecord]]:
        values = {"run": to_text(run_id), "nodes": json.dumps([*map(to_text, nodes)])}
        found: dict[NodeId, list[AttemptRecord]] = {}
        for row in await self._all(_ATTEMPTS, values) if nodes else ():
            attempt = attempt_of(AttemptRow._make(row))
            found.setdefault(attempt.node_id, []).append(attempt)
        return found

    async def activity(self, run_id: RunId, parent: NodeId, *, begin: float, end: float, spans: int) -> Activity:
        width = max(end - begin, 1e-6) / spans
        values = {"run": to_text(run_id), "parent": to_text(parent), "begin": begin, "end": end, "width": width}
        counts = {name: [0] * spans for name in _COUNTED}
        for began, ended, status, count in await self._all(_ACTIVITY, values):
            for span, what in ((began, "started"), (ended, status if status in counts else "others")):
                if span is not None and (what != "others" or status in _OVER):
                    counts[what][min(span, spans - 1)] += count
        return Activity(begin=begin, width=width, **counts)

    async def count_within(self, run_id: RunId, foreach: NodeId) -> dict[StepId, dict[NodeStatus, int]]:
        found: dict[StepId, dict[NodeStatus, int]] = {}
        for step, status, count in await self._all(_WITHIN, {"run": to_text(run_id), "foreach": to_text(foreach)}):
            found.setdefault(StepId(from_text(step)), {})[NodeStatus(status)] = count
        return found
