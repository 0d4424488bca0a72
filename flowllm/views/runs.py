"""Runs as a list shows them, and the head of one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from flowllm.core.records import dataclass, fields, replace
from flowllm.core.types import Json, NodeStatus, RunStatus, Usage
from flowllm.storage.base import RunRecord, Store
from flowllm.storage.timeline import RUN_ATTEMPTS


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """One run in a line. Times are wall clock seconds since 1970, money is US dollars."""

    run_id: str
    seq: int
    workflow: str
    path: str
    status: RunStatus
    started_at: float
    finished_at: float | None
    elapsed_s: float
    """In all its attempts, until now."""
    cost_usd: float | None
    """None as soon as the price of one request is unknown."""
    cost_at_least: float
    usage: Usage
    cached_share: float | None
    """The part of input tokens that the provider had in its prompt cache; None: there were none, or it did not say."""
    nodes: Mapping[NodeStatus, int]
    """Items too."""
    requests: int
    tags: tuple[str, ...]
    provider: str
    tenant: str
    error: str | None
    changes: int
    over: bool

    @classmethod
    def of(cls, run: RunRecord, *, now: float) -> RunSummary:
        """What the store tells of a run at that wall clock time."""
        spend = run.totals.spend
        return cls(
            run_id=run.run_id,
            seq=run.seq,
            workflow=run.workflow,
            path=run.path,
            status=run.status,
            started_at=run.started_at,
            finished_at=run.finished_at,
            elapsed_s=worked_s(run, now=now),
            cost_usd=spend.cost_usd,
            cost_at_least=spend.known_usd,
            usage=replace(spend.usage, input_tokens=spend.known_input, output_tokens=spend.known_output),
            cached_share=_share(spend.usage),
            nodes=_nodes(run),
            requests=spend.requests,
            tags=tuple(run.tags),
            provider=run.provider,
            tenant=run.tenant,
            error=_message(run.error),
            changes=run.totals.changes,
            over=run.options.get("over") is not None,
        )

    def as_dict(self) -> dict[str, Json]:
        """As JSON."""
        return {one.name: getattr(self, one.name) for one in fields(self)} | {
            "status": self.status.value,
            "usage": self.usage.as_dict(),
            "nodes": {status.value: count for status, count in self.nodes.items() if count},
            "tags": list(self.tags),
        }


async def summary_of(store: Store, run: RunRecord, *, now: float) -> RunSummary:
    """A run as it stands at that wall clock time."""
    return RunSummary.of(run, now=await seen_at(store, run, now=now))


async def seen_at(store: Store, run: RunRecord, *, now: float) -> float:
    """Now, or when a run that nobody ended gave its last sign of life."""
    if run.going or run.finished_at is not None:
        return now
    return await store.last_sign(run.run_id) or run.started_at


def worked_s(run: RunRecord, *, now: float) -> float:
    """Seconds that were spent on a run, in all its attempts."""
    *before, last = run.stats.get(RUN_ATTEMPTS) or [{"started_at": run.started_at}]
    earlier = math.fsum(one["finished_at"] - one["started_at"] for one in before)
    if isinstance(took := run.stats.get("duration_s"), (int, float)) and run.finished_at is not None:
        return earlier + float(took)
    until = now if run.finished_at is None else run.finished_at
    return earlier + max(0.0, until - float(last["started_at"]))


def _nodes(run: RunRecord) -> Mapping[NodeStatus, int]:
    """Nothing runs in a run that does not go on."""
    nodes = Counter(run.totals.nodes)
    if not run.going and (left := nodes.pop(NodeStatus.RUNNING, 0)):
        nodes[NodeStatus.CANCELLED] += left
    return nodes


def _share(usage: Usage) -> float | None:
    if not usage.input_tokens or usage.cached_input_tokens is None:
        return None
    return usage.cached_input_tokens / usage.input_tokens


def _message(error: Mapping[str, Json] | None) -> str | None:
    return None if error is None else str(error.get("message") or error.get("type") or "")
