"""A run and its nodes as users read them: `flowllm run --json`, `show --json` and the library share these."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from flowllm.money import Spend
from flowllm.store.base import NodeRecord
from flowllm.types import NodeId, NodeStatus, RunStatus, Usage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowllm.store.base import RunRecord
    from flowllm.types import Json, StepKind


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How a run is carried out. Kept with the run, so that a resume repeats them (all but `until`)."""

    provider: str | None = None
    """The default provider; `simulated` replaces all."""
    model: str | None = None
    """The default model."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Options of single steps, such as {"judge.model": "gpt-4o"}."""
    max_concurrent: int | None = None
    """Requests in flight: in place of `limits.max_concurrent` on the default provider, lowering it on others."""
    no_cache: bool = False
    """The memo is neither read nor written."""
    refresh: tuple[str, ...] = ()
    """Steps that are asked anew though their answer is in the memo."""
    until: str | None = None
    """Only this step and what it needs."""
    fail_fast: bool = False
    """Stop at the first failure."""
    grace: float = 60.0
    """Seconds that calls in flight get to finish when the run is told to stop."""
    priority: str | None = None
    """high, normal or low, for steps that name none."""
    limit: int | None = None
    """Only so many first items of every foreach, and rows of `over`."""
    over: str | None = None
    """A data set each of whose rows is one run of the graph: an absolute path, or `-` for standard input."""
    output: str | None = None
    """Where what comes of the rows is written: an absolute path, or `-` for standard output."""
    format: str | None = None
    """How `over` is read: jsonl, json, csv or lines; None: by its ending, or as it begins."""
    delimiter: str | None = None
    """Of CSV."""
    ordered: bool = False
    """In the order of the rows."""
    overwrite: bool = False
    """`output` may exist already."""
    budget: Mapping[str, float] | None = None
    """Amounts, `usd` and `tokens`, in place of those of the workflow's `budget`."""
    config: str | None = None
    """Absolute path of the flowllm.yaml that is in force; filled in by the run."""
    mended: Mapping[str, Mapping[str, Json]] = field(default_factory=dict)
    """Items in place of those of the data: by foreach and place, [the content that they are for, the item]."""
    given: tuple[str, ...] | None = None
    """Names of the inputs that were given, the others having their defaults; filled in by the run."""

    def as_dict(self) -> dict[str, Json]:
        """What is stored with the run: what differs from the default, without `until`."""
        defaults = _record(RunOptions())
        return {name: value for name, value in _record(self).items() if value != defaults[name]}

    @classmethod
    def of(cls, record: Mapping[str, Json]) -> RunOptions:
        """The options that `as_dict` gave."""
        given = record.get("given")
        return cls(
            **{
                **record,
                "refresh": tuple(record.get("refresh", ())),
                "given": None if given is None else tuple(given),
            }
        )


def _record(options: RunOptions) -> dict[str, Json]:
    return {
        "provider": options.provider,
        "model": options.model,
        "settings": dict(options.settings),
        "max_concurrent": options.max_concurrent,
        "no_cache": options.no_cache,
        "refresh": list(options.refresh),
        "fail_fast": options.fail_fast,
        "grace": options.grace,
        "priority": options.priority,
        "config": options.config,
        "limit": options.limit,
        "over": options.over,
        "output": options.output,
        "ordered": options.ordered,
        "overwrite": options.overwrite,
        "format": options.format,
        "delimiter": options.delimiter,
        "mended": {name: dict(items) for name, items in options.mended.items()},
        "given": None if options.given is None else list(options.given),
        "budget": None if options.budget is None else dict(options.budget),
    }


def timestamp(seconds: float | None) -> str | None:
    """A wall clock time as ISO 8601 in UTC, to the millisecond."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


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
    usage: Usage
    counts: Mapping[str, int] | None = None

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
            usage=node.usage,
            counts=None if node.counts is None else node.counts.as_dict(),
        )

    def as_dict(self) -> dict[str, Json]:
        """As it stands in JSON output."""
        return {
            "kind": self.kind,
            "status": self.status,
            "cached": self.cached,
            "attempts": self.attempts,
            "output": self.output,
            "error": self.error,
            "model": self.model,
            "provider": self.provider,
            "started_at": self.started_at,
            "finished_at": self.finished_at,
            "queue_s": self.queue_s,
            "call_s": self.call_s,
            "cost_usd": self.cost_usd,
            "truncated": self.truncated,
            "counts": self.counts,
            "usage": self.usage.as_dict(),
        }


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
    its last sitting, and in `since_resumed` what that took, if it was resumed."""
    error: Mapping[str, Json] | None = None
    path: str = ""
    """Of the workflow's file."""

    @classmethod
    def of(cls, run: RunRecord, nodes: Sequence[NodeRecord]) -> RunResult:
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
            "inputs": dict(self.inputs),
            "outputs": dict(self.outputs),
            "steps": {name: step.as_dict() for name, step in self.steps.items()},
            "error": self.error,
            **EMPTY_STATS,
            **self.stats,
        }


def all_nodes(run: RunRecord, nodes: Sequence[NodeRecord], kinds: Mapping[str, StepKind]) -> list[NodeRecord]:
    """The nodes of a run in the order of its file, with those that never ended: pending, or cancelled by its end.

    A run that succeeded without some of its steps was not asked for them.
    """
    going = run.status is RunStatus.RUNNING
    status = NodeStatus.PENDING if going else NodeStatus.CANCELLED
    known = {
        node.node_id: replace(node, status=status)
        if node.status is NodeStatus.RUNNING and not going
        else node
        for node in nodes
    }
    missing = {
        NodeId(step): NodeRecord(run_id=run.run_id, node_id=NodeId(step), kind=kind, status=status)
        for step, kind in kinds.items()
        if run.status is not RunStatus.SUCCEEDED or step in known
    }
    return list({**missing, **known}.values())


_NO_QUANTILES: dict[str, Json] = {"p50": None, "p90": None, "p99": None}
EMPTY_STATS: dict[str, Json] = {
    "requests": {"sent": 0, "cached": 0, "joined": 0, "retried": 0, "rate_limited": 0},
    **Spend().as_dict(),
    "list_prices": [],
    "latency_s": _NO_QUANTILES,
    "queue_s": _NO_QUANTILES,
    "duration_s": 0.0,
    "model_figures": {},
    "step_figures": {},
    "limits": {},
}
