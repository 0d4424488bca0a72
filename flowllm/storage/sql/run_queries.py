"""What is asked of the table of runs, and what of all requests of one run together."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from flowllm.core.models import ModelTotals, asked_model
from flowllm.core.types import ABANDONED, THROTTLED, USAGE_FIELDS, RunStatus, Usage
from flowllm.storage.base import RunRecord
from flowllm.storage.liveness import Standing, standing
from flowllm.storage.machine import Machine
from flowllm.storage.sql.presence import FIELDS, had_by_older, process_of
from flowllm.storage.sql.records import listed_run, run_of, spend_of, totals_of
from flowllm.storage.sql.rows import RunRow, from_text, to_json, to_text
from flowllm.storage.sql.totals import FIGURES, STATUSES

LAST: Final = "\U0010ffff"
"""Sorts after every text."""
AMBIGUOUS: Final = 3
"""How many of several runs an error names."""
Rows = list[tuple[Any, ...]]


def columns(table: str, *names: str) -> str:
    """Columns of a table, for a query."""
    return ", ".join(f"{table}.{name}" for name in names)


def all_of(conditions: Mapping[str, bool]) -> str:
    """Those conditions that hold, for a query."""
    return " AND ".join(condition for condition, holds in conditions.items() if holds) or "true"


TOTALS: Final = ("changes", "last_seq", *STATUSES, *FIGURES)
_LISTED: Final = tuple(name for name in RunRow._fields if name != "snapshot")
_SNAPSHOT: Final = RunRow._fields.index("snapshot")
_TAGS: Final = "(SELECT json_group_array(tag) FROM tags WHERE tags.run_id = runs.run_id)"
_OWNER: Final = (*FIELDS, "now")
_REST: Final = (
    f"runs.seq, {columns('processes', *FIELDS)}, database_now(), {_TAGS}, {columns('totals', *TOTALS)} "
    "FROM runs JOIN totals ON totals.run_id = runs.run_id LEFT JOIN processes ON processes.process_id = runs.process WHERE"
)
FIND: Final = (
    f"SELECT {columns('runs', *RunRow._fields)}, {_REST} runs.run_id >= :begin AND runs.run_id < :end "
    f"ORDER BY runs.run_id LIMIT {AMBIGUOUS}"
)
_LIST: Final = f"SELECT {columns('runs', *_LISTED)}, {_REST}"
_SEARCHED: Final = f"runs.run_id || char(10) || runs.workflow || char(10) || {_TAGS} || char(10) || runs.inputs"
NAMES: Final = {
    "workflow": "SELECT DISTINCT workflow FROM runs ORDER BY workflow",
    "tag": "SELECT DISTINCT tag FROM tags ORDER BY tag",
}


def listing(
    *,
    limit: int,
    workflow: str | None = None,
    unfinished: bool = False,
    running: bool = False,
    ended_before: float | None = None,
    status: RunStatus | None = None,
    since: float | None = None,
    tag: str | None = None,
    search: str = "",
    before_seq: int | None = None,
    skip: int = 0,
) -> tuple[str, dict[str, Any]]:
    """The query for runs and its values; see `History.runs`. That of interrupted ones gives those too that stand as running:
    who asks must look whether they do."""
    left = status is RunStatus.INTERRUPTED
    where = {
        "runs.workflow = :workflow": workflow is not None,
        "runs.status <> 'succeeded'": unfinished or status not in {None, RunStatus.SUCCEEDED},
        "runs.status = 'running'": running,
        "runs.status <> 'running' AND coalesce(runs.finished_at, runs.started_at) < :ended": ended_before is not None,
        "runs.status IN (:status, 'running')": left,
        "runs.status = :status": status is not None and not left,
        "runs.started_at >= :since": since is not None,
        "runs.run_id IN (SELECT run_id FROM tags WHERE tag = :tag)": tag is not None,
        f"instr(lower({_SEARCHED}), lower(:search)) > 0": bool(search),
        "runs.seq < :before": before_seq is not None,
    }
    values = {
        "workflow": to_text(workflow or ""),
        "ended": ended_before,
        "status": status and status.value,
        "since": since,
        "tag": to_text(tag or ""),
        "search": to_json(search)[1:-1],
        "before": before_seq,
        "skip": skip,
        "limit": limit,
    }
    return f"{_LIST} {all_of(where)} ORDER BY runs.seq DESC LIMIT :limit OFFSET :skip", values


def found_run(found: tuple[Any, ...], machine: Machine) -> RunRecord:
    """The run of a row that FIND gives, as it stands. Raises DatabaseCorrupt."""
    row = RunRow._make(found[: len(RunRow._fields)])
    return _as_it_stands(run_of(row, seq=found[len(row)], snapshot=row.snapshot), row, found[len(row) + 1 :], machine)


def listed(found: tuple[Any, ...], machine: Machine) -> RunRecord:
    """The run of a row that `listing` gives, as it stands. Raises DatabaseCorrupt."""
    row = RunRow._make((*found[:_SNAPSHOT], "", *found[_SNAPSHOT : len(_LISTED)]))
    return _as_it_stands(listed_run(row, seq=found[len(_LISTED)]), row, found[len(_LISTED) + 1 :], machine)


def _as_it_stands(run: RunRecord, row: RunRow, found: tuple[Any, ...], machine: Machine) -> RunRecord:
    *process, now, tags = found[: len(_OWNER) + 1]
    sums, status = found[len(_OWNER) + 1 :], run.status
    if status is RunStatus.RUNNING and not had_by_older(row, machine):
        alive = process[0] and standing(process_of(tuple(process)), now=now, known=machine) is Standing.ALIVE
        status = status if alive else RunStatus.INTERRUPTED
    return replace(
        run,
        status=status,
        tags=tuple(sorted(from_text(tag) for tag in json.loads(tags))),
        totals=totals_of(dict(zip(TOTALS, sums, strict=True))),
    )


# what all requests of a run took, by model: `totals.figures` in SQL


def _told(name: str) -> str:
    """A count of a usage: in the order of their names, or by name in rows of before revision 0009."""
    listed, named = f"json_extract(usage, '$[{USAGE_FIELDS.index(name)}]')", f"json_extract(usage, '$.{name}')"
    return f"CAST(CASE WHEN usage LIKE '[%' THEN {listed} ELSE {named} END AS FLOAT)"


def _one(condition: str) -> str:
    """What counts rows for which it holds, summed up."""
    return f"(CASE WHEN {condition} THEN 1 ELSE 0 END)"


_COUNTED: Final = "(input_tokens + output_tokens)"
_UNSEEN: Final = f"(status NOT IN ('succeeded', 'failed') AND {_COUNTED} = 0)"
_UNKNOWN: Final = f"({_COUNTED} IS NULL OR {_UNSEEN})"
_COST: Final = f"(CASE WHEN {_UNSEEN} THEN NULL WHEN status = 'failed' AND {_COUNTED} = 0 THEN coalesce(cost_usd, 0.0) ELSE cost_usd END)"
_LEAST: Final = "(coalesce(input_tokens, 0) + coalesce(output_tokens, 0))"
_FIGURES: Final = {
    "requests": "1",
    **{name: f"coalesce({name}, 0)" for name in USAGE_FIELDS},
    **{f"no_{name}": _one(f"{_UNSEEN} IS true OR {name} IS NULL") for name in USAGE_FIELDS},
    "known_usd": f"coalesce({_COST}, 0.0)",
    "unpriced": _one(f"NOT {_UNKNOWN} AND {_COST} IS NULL"),
    "unknown": _one(_UNKNOWN),
    "reserved_tokens": f"(CASE WHEN {_UNKNOWN} AND reserved_tokens > {_LEAST} THEN reserved_tokens - {_LEAST} ELSE 0.0 END)",
    "reserved_usd": f"(CASE WHEN {_UNKNOWN} AND {_COST} IS NULL THEN coalesce(reserved_usd, 0.0) ELSE 0.0 END)",
    "unreserved": _one(f"{_UNKNOWN} AND {_COST} IS NULL AND reserved_usd IS NULL"),
}
_WHY: Final = "json_extract(error, '$.type')"
MODELS: Final = (
    f"WITH sent AS (SELECT model, provider, status, cost_usd, reserved_tokens, reserved_usd, {_WHY} AS why, "
    f"finished_at - started_at AS took, {', '.join(f'{_told(name)} AS {name}' for name in USAGE_FIELDS)} "
    "FROM attempts WHERE run_id = :run AND model <> '' AND status <> 'not_sent'), "
    "ranked AS (SELECT model, provider, took, row_number() OVER (PARTITION BY model, provider ORDER BY took) AS rank, "
    "count(*) OVER (PARTITION BY model, provider) AS number FROM sent WHERE status = 'succeeded' AND took >= 0), "
    "timed AS (SELECT model, provider, max(CASE WHEN rank = (number + 1) / 2 THEN took END) AS p50, "
    "max(CASE WHEN rank = (number * 99 + 99) / 100 THEN took END) AS p99 FROM ranked GROUP BY model, provider) "
    "SELECT sent.model, sent.provider, max(p50), max(p99), "
    f"count(CASE WHEN status = 'failed' AND why NOT IN ('Stopped', 'NotSent', '{ABANDONED}') THEN 1 END), "
    f"count(CASE WHEN why = 'RateLimited' THEN 1 END), {', '.join(f'sum({_FIGURES[name]})' for name in FIGURES)} "
    "FROM sent LEFT JOIN timed ON timed.model = sent.model AND timed.provider = sent.provider "
    "GROUP BY sent.model, sent.provider"
)
"""The ranks are those of `reporting.stats.QuantileSketch`."""
_ASKED: Final = (
    "(SELECT {} FROM attempts WHERE attempts.run_id = nodes.run_id AND attempts.node_id = nodes.node_id "
    "AND attempts.model <> '' LIMIT 1)"
)
_HELD: Final = " + ".join(
    f"coalesce(CAST(json_extract(waits, '$.{reason.value}') AS FLOAT), 0)" for reason in sorted(THROTTLED)
)
ANSWERED: Final = (
    "SELECT name, provider_name, count(CASE WHEN cached THEN 1 END), "
    f"{', '.join(f'sum(CASE WHEN cached THEN {_told(name)} END)' for name in USAGE_FIELDS)}, sum(held) FROM (SELECT "
    f"coalesce({_ASKED.format('model')}, model) AS name, coalesce({_ASKED.format('provider')}, provider) AS provider_name, "
    f"cached, usage, {_HELD} AS held FROM nodes WHERE run_id = :run AND counts IS NULL AND (cached OR waits IS NOT NULL)) AS answered "
    "WHERE name <> '' AND (cached OR held > 0) GROUP BY name, provider_name"
)
"""What was answered from the response cache, under the name that the server gave the model, and how long nodes were held up."""


def models_of(sent: Iterable[tuple[Any, ...]], answered: Iterable[tuple[Any, ...]]) -> list[ModelTotals]:
    """What MODELS and ANSWERED give, put together."""
    found: dict[tuple[str, str], ModelTotals] = {}
    for model, provider, p50, p99, failed, rate_limited, *sums in sent:
        found[model, provider] = ModelTotals(
            model=from_text(model),
            provider=from_text(provider),
            spend=spend_of(dict(zip(FIGURES, sums, strict=True))),
            failed=failed or 0,
            rate_limited=rate_limited,
            p50_s=p50,
            p99_s=p99,
        )
    for model, provider, cached, *counts, held in answered:
        asked = asked_model(model, (name for name, by in found if by == provider))
        known = found.get((asked, provider)) or ModelTotals(model=from_text(model), provider=from_text(provider))
        usage = Usage(**{name: count or 0 for name, count in zip(USAGE_FIELDS, counts, strict=True)})
        found[asked, provider] = replace(
            known,
            cached=known.cached + cached,
            cached_usage=known.cached_usage + usage,
            throttled_s=known.throttled_s + held,
        )
    return [found[key] for key in sorted(found)]
