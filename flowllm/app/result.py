"""A run and its nodes as users read them: `flowllm run --json`, `show --json` and the library share these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Self, TypeVar

from flowllm.core.clock import timestamp
from flowllm.core.errors import PackageMissing, RunFailed, UsageError
from flowllm.core.records import dataclass, field, fields
from flowllm.core.types import Json, NodeStatus, RunId, RunStatus, Usage
from flowllm.datasets.parquet import NOTHING, WHOLE, kind_of
from flowllm.language.problems import nearest
from flowllm.reporting.stats import Stats
from flowllm.storage.base import NodeRecord, RunRecord
from flowllm.storage.results import Results
from flowllm.storage.timeline import RUN_ATTEMPTS
from flowllm.views.rows import TIMES, Columns, Rows, RunRows

S = TypeVar("S", NodeStatus, RunStatus)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """One step of a run."""

    kind: str
    status: str
    cached: bool
    attempts: int
    output: Json
    error: Mapping[str, Json] | None
    model: str | None
    provider: str | None
    started_at: str | None
    finished_at: str | None
    queue_s: float
    call_s: float
    cost_usd: float | None
    truncated: bool
    counts: Mapping[str, int] | None = None
    usage: Usage

    @classmethod
    def of(cls, node: NodeRecord) -> StepResult:
        """A step as its node's record tells it."""
        return cls(
            kind=node.kind.value,
            status=node.status.value,
            cached=node.cached,
            attempts=node.attempts,
            output=node.output,
            error=node.error,
            model=node.model or None,
            provider=node.provider or None,
            started_at=timestamp(node.started_at),
            finished_at=timestamp(node.finished_at),
            queue_s=round(node.queue_s, 3),
            call_s=round(node.call_s, 3),
            cost_usd=node.cost_usd,
            truncated=node.truncated,
            counts=None if node.counts is None else node.counts.as_dict(),
            usage=node.usage,
        )

    def as_dict(self) -> dict[str, Json]:
        """As it stands in JSON output."""
        return {one.name: getattr(self, one.name) for one in fields(self)} | {"usage": self.usage.as_dict()}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """One run, as far as it has come."""

    run_id: str
    workflow: str
    status: RunStatus
    provider: str
    inputs: Mapping[str, Json]
    outputs: Mapping[str, Json]
    steps: Mapping[str, StepResult]
    stats: Mapping[str, Json]
    """`usage`, `cost_usd`, `at_least` and `unknown` of the whole run; `requests`, `latency_s`, `duration_s` and the others of
    its last attempt, and in `since_resumed` what that took, if it was resumed."""
    error: Mapping[str, Json] | None = None
    path: str = ""
    """Of the workflow's file."""
    tags: Sequence[str] = ()
    results: Results | None = field(default=None, repr=False, compare=False)
    """Where `rows` are read."""

    @classmethod
    def of(cls, run: RunRecord, nodes: Sequence[NodeRecord], results: Results | None = None) -> RunResult:
        """A run as the store tells it; `nodes` are all of its graph (see `all_nodes`)."""
        return cls(
            run_id=run.run_id,
            workflow=run.workflow,
            status=run.status,
            provider=run.provider,
            inputs=run.inputs,
            outputs=run.outputs or {},
            steps={node.node_id: StepResult.of(node) for node in nodes},
            stats=run.stats,
            error=run.error,
            path=run.path,
            tags=run.tags,
            results=results,
        )

    def rows(self, step: str | None = None, *, status: NodeStatus | str | None = None) -> Rows:
        """The results as flat rows, which are read from the database as they are looked at, a page at a time: one for each item
        of the step's foreach, or row of `--over`, and one for a step without items. As `flowllm export RUN STEP` has them.

        `step` may be left out where only one has items, and may be one within items, `posts.title`, or one item, `posts[3]`.
        Raises UsageError if there is no such step or status; StoreError, also for a database in memory that was closed.
        """
        if self.results is None:
            raise UsageError(
                "this result was not read from a database", hint="take that of FlowLLM.run, resume or result"
            )
        rows = RunRows(
            run_id=RunId(self.run_id), going=self.status is RunStatus.RUNNING, steps=self.steps, results=self.results
        )
        return rows.of(step, [] if status is None else [status_named(NodeStatus, status)])

    def to_dicts(self, step: str | None = None) -> list[dict[str, Json]]:
        """All `rows` of a step at once."""
        return list(self.rows(step))

    def to_pandas(self, step: str | None = None) -> Any:
        """All `rows` of a step as a pandas.DataFrame, with the columns of `flowllm export`; whole numbers stay such where some
        are missing (`Int64`), lists and mappings are objects. Raises PackageMissing without pandas."""
        try:
            from pandas import DataFrame, Series  # noqa: PLC0415 - takes half a second, and is nobody's but the user's
        except ImportError:
            raise PackageMissing("to_pandas needs pandas", hint="pip install pandas") from None
        found, columns = self.to_dicts(step), Columns()
        for row in found:
            columns.see(row)
            row.update((name, datetime.fromisoformat(row[name])) for name in TIMES if row[name] is not None)
        names, cells = columns.table()
        rows = [cells(row) for row in found]
        data = {name: [row[name] for row in rows] for name in names}
        # else pandas makes them numbers that have no room for the last digits of an id
        data |= {name: Series(column, dtype="Int64") for name, column in data.items() if _whole_with_gaps(column)}
        return DataFrame(data, columns=names)

    def raise_for_status(self) -> Self:
        """The run itself, if it has succeeded. Raises RunFailed, which names the first error."""
        if self.status is RunStatus.SUCCEEDED:
            return self
        failed = [(name, step.error) for name, step in self.steps.items() if step.error is not None]
        where, error = failed[0] if failed else ("", self.error or {})
        more = ": ".join(part for part in (where, str(error.get("message") or "")) if part)
        raise RunFailed(
            f"run {self.run_id} {_ENDED.get(self.status, self.status.value)}{f': {more}' if more else ''}",
            hint=str(error.get("hint") or ""),
            run_id=self.run_id,
            status=self.status,
        )

    @property
    def exit_code(self) -> int:
        """What the command line returns for it; interruptions by a signal are told apart there."""
        return {RunStatus.SUCCEEDED: 0, RunStatus.PAUSED: 3, RunStatus.INTERRUPTED: 130}.get(self.status, 1)

    def as_dict(self) -> dict[str, Json]:
        """The object that `flowllm run --json` prints."""
        return {
            "run_id": self.run_id,
            "workflow": self.workflow,
            "status": self.status.value,
            "provider": self.provider,
            "tags": list(self.tags),
            "inputs": dict(self.inputs),
            "outputs": dict(self.outputs),
            "steps": {name: step.as_dict() for name, step in self.steps.items()},
            "error": self.error,
            **EMPTY_STATS,
            **self.stats,
        }


def status_named(kind: type[S], name: str) -> S:
    """The status of that name. Raises UsageError if there is none."""
    try:
        return kind(name)
    except ValueError:
        raise UsageError(f"there is no status `{name}`", hint=nearest(name, [one.value for one in kind])) from None


def _whole_with_gaps(column: Sequence[Json]) -> bool:
    return {kind_of(value) for value in column} == {WHOLE, NOTHING}


_ENDED = {RunStatus.RUNNING: "has not ended", RunStatus.INTERRUPTED: "was interrupted", RunStatus.PAUSED: "is paused"}
EMPTY_STATS: dict[str, Json] = {**Stats().as_dict(duration_s=0.0), "limits": {}}
"""The figures of a run that has none."""
COUNTED = "steps_in_all"
"""The entry of a run's figures that has the number of its workflow's steps; where it is, the figures are whole."""
LAST_ATTEMPT = "since_resumed"
"""The entry that has what the last attempt took, of a run that was resumed."""


def figures_of(run: RunRecord) -> Mapping[str, Json]:
    """The figures of a run; where it goes on, or its process is gone, what is known without it."""
    if run.finished_at is None:
        known = {name: run.stats[name] for name in (COUNTED,) if name in run.stats}
        sent = {**EMPTY_STATS["requests"], "sent": run.totals.spend.requests}
        return {**known, "requests": sent, **run.totals.spend.as_dict()}
    stats = {name: value for name, value in run.stats.items() if name != RUN_ATTEMPTS}
    if COUNTED in stats:
        return stats
    earlier = {name: value for name, value in stats.items() if name != LAST_ATTEMPT}
    return {**earlier, **run.totals.spend.as_dict()}
