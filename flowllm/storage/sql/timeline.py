"""When attempts and items of a run began and ended."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from flowllm.core.types import NODE_TERMINAL, NodeId, NodeStatus, RunId, StepId
from flowllm.storage.base import AttemptRecord
from flowllm.storage.sql.reader import Reader
from flowllm.storage.sql.records import attempt_of
from flowllm.storage.sql.rows import AttemptRow, from_text, to_text
from flowllm.storage.timeline import Activity

_ATTEMPTS: Final = (
    f"SELECT {', '.join(AttemptRow._fields)} FROM attempts "
    "WHERE run_id = :run AND node_id IN (SELECT value FROM json_each(:nodes)) ORDER BY seq"
)
_ACTIVITY: Final = (
    "SELECT {began}, {ended}, status, count(*) FROM nodes WHERE run_id = :run AND parent = :parent GROUP BY 1, 2, 3"
)
_WITHIN: Final = (
    "SELECT substr(node_id, length(parent) + 2), status, count(*) FROM nodes WHERE run_id = :run "
    "AND parent >= :foreach || '[' AND parent < :foreach || '\\' AND place IS NULL "
    "AND instr(substr(parent, length(:foreach) + 1), '.') = 0 GROUP BY 1, 2 ORDER BY min(seq), 1"
)
_OVER: Final = frozenset(status.value for status in NODE_TERMINAL)
_COUNTED: Final = ("started", "succeeded", "failed", "others")


def _span(time: str, windows: int, spans: int) -> str:
    """The number of the span that a time is in, those of all windows counted through; NULL outside of them."""
    cases = (
        f"WHEN {time} >= :begin{one} AND {time} < :end{one} "
        f"THEN {one * spans} + CASE WHEN {time} >= :last{one} THEN {spans - 1} "
        f"ELSE CAST(({time} - :begin{one}) / :width{one} AS INTEGER) END"
        for one in range(windows)
    )
    return f"CASE {' '.join(cases)} END"


class TimelineReader(Reader):
    """The verbs of `TimelineReads`."""

    async def attempts_of(self, run_id: RunId, nodes: Sequence[NodeId]) -> dict[NodeId, list[AttemptRecord]]:
        values = {"run": to_text(run_id), "nodes": json.dumps([*map(to_text, nodes)])}
        found: dict[NodeId, list[AttemptRecord]] = {}
        for row in await self._all(_ATTEMPTS, values) if nodes else ():
            attempt = attempt_of(AttemptRow._make(row))
            found.setdefault(attempt.node_id, []).append(attempt)
        return found

    async def activity(
        self, run_id: RunId, parent: NodeId, windows: Sequence[tuple[float, float]], *, spans: int
    ) -> list[Activity]:
        values: dict[str, Any] = {"run": to_text(run_id), "parent": to_text(parent)}
        widths = [max(end - begin, 1e-6) / spans for begin, end in windows]
        for number, (begin, end) in enumerate(windows):
            values |= {f"begin{number}": begin, f"end{number}": end, f"width{number}": widths[number]}
            values[f"last{number}"] = begin + (spans - 1) * widths[number]
        counts: list[dict[str, list[int]]] = [{name: [0] * spans for name in _COUNTED} for _ in windows]
        query = _ACTIVITY.format(
            began=_span("started_at", len(windows), spans), ended=_span("finished_at", len(windows), spans)
        )
        for began, ended, status, count in await self._all(query, values):
            for at, what in ((began, "started"), (ended, status if status in _COUNTED else "others")):
                if at is not None and (what != "others" or status in _OVER):
                    window, span = divmod(at, spans)
                    counts[window][what][span] += count
        return [
            Activity(begin=begin, width=width, **of)
            for (begin, _), width, of in zip(windows, widths, counts, strict=True)
        ]

    async def count_within(self, run_id: RunId, foreach: NodeId) -> dict[StepId, dict[NodeStatus, int]]:
        found: dict[StepId, dict[NodeStatus, int]] = {}
        for step, status, count in await self._all(_WITHIN, {"run": to_text(run_id), "foreach": to_text(foreach)}):
            found.setdefault(StepId(from_text(step)), {})[NodeStatus(status)] = count
        return found
