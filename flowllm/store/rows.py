"""Records as rows, and rows as records. A row's fields stand in the order of its table's columns."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from flowllm.errors import DatabaseCorrupt
from flowllm.store.base import AttemptRecord, MemoRecord, NodeRecord, Owner, RunRecord
from flowllm.store.text import content_hash, from_json, from_text, to_json, to_text
from flowllm.types import AttemptStatus, NodeId, NodeStatus, RunId, RunStatus, StepKind, Usage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from flowllm.types import Json

NO_USAGE = Usage()
NO_USAGE_TEXT = to_json(NO_USAGE.as_dict())


class RunRow(NamedTuple):
    """A row of `runs` without its `seq`, which the store gives."""

    run_id: str
    workflow: str
    path: str
    status: str
    started_at: float
    finished_at: float | None
    provider: str
    tenant: str
    epoch: int
    owner_pid: int | None
    owner_host: str | None
    owner_since: float | None
    inputs: str
    options: str
    stats: str
    error: str | None
    outputs_hash: str | None
    outputs: str | None
    snapshot: str


class NodeRow(NamedTuple):
    """A row of `nodes`."""

    run_id: str
    node_id: str
    seq: int
    kind: str
    status: str
    key: str
    model: str
    provider: str
    cached: bool
    attempts: int
    truncated: bool
    usage: str
    cost_usd: float | None
    queue_s: float
    call_s: float
    started_at: float | None
    finished_at: float | None
    error: str | None
    content_hash: str
    parts: str
    output: str
    reused: bool


class AttemptRow(NamedTuple):
    """A row of `attempts` without its `seq`, which the store gives."""

    attempt_id: str
    run_id: str
    node_id: str
    key: str
    number: int
    provider: str
    model: str
    status: str
    started_at: float
    finished_at: float | None
    usage: str
    cost_usd: float | None
    error: str | None
    reserved_tokens: float
    reserved_usd: float | None


class MemoRow(NamedTuple):
    """A row of `memo`."""

    key: str
    provider: str
    model: str
    created_at: float
    size: int
    content_hash: str
    answer: str


class RateRow(NamedTuple):
    """A row of `rates`."""

    account: str
    requests_per_second: float
    learned_at: float


# records to rows


def run_row(run: RunRecord) -> RunRow:
    """A run as it is inserted. Raises ValueError for values that JSON cannot hold."""
    owner = run.owner
    outputs = _optional(run.outputs)
    return RunRow(
        run_id=to_text(run.run_id),
        workflow=to_text(run.workflow),
        path=to_text(run.path),
        status=run.status.value,
        started_at=run.started_at,
        finished_at=run.finished_at,
        provider=to_text(run.provider),
        tenant=to_text(run.tenant),
        epoch=run.epoch,
        owner_pid=owner.pid if owner else None,
        owner_host=to_text(owner.host) if owner else None,
        owner_since=owner.since if owner else None,
        inputs=to_json(dict(run.inputs)),
        options=to_json(dict(run.options)),
        stats=to_json(dict(run.stats)),
        error=_optional(run.error),
        outputs_hash=outputs_hash(outputs),
        outputs=outputs,
        snapshot=to_json(dict(run.snapshot)),
    )


def node_row(node: NodeRecord) -> NodeRow:
    """A node as it is written. Raises ValueError for values that JSON cannot hold."""
    output, key, status = to_json(node.output), to_text(node.key), node.status.value
    return NodeRow(
        run_id=to_text(node.run_id),
        node_id=to_text(node.node_id),
        seq=node.seq,
        kind=node.kind.value,
        status=status,
        key=key,
        model=to_text(node.model),
        provider=to_text(node.provider),
        cached=node.cached,
        attempts=node.attempts,
        truncated=node.truncated,
        usage=_usage(node.usage),
        cost_usd=node.cost_usd,
        queue_s=node.queue_s,
        call_s=node.call_s,
        started_at=node.started_at,
        finished_at=node.finished_at,
        error=_optional(node.error),
        content_hash=content_hash(status, key, output),
        parts=to_json(dict(node.parts)),
        output=output,
        reused=node.reused,
    )


def attempt_row(attempt: AttemptRecord) -> AttemptRow:
    """An attempt as it is written. Raises ValueError for values that JSON cannot hold."""
    return AttemptRow(
        attempt_id=to_text(attempt.attempt_id),
        run_id=to_text(attempt.run_id),
        node_id=to_text(attempt.node_id),
        key=to_text(attempt.key),
        number=attempt.number,
        provider=to_text(attempt.provider),
        model=to_text(attempt.model),
        status=attempt.status.value,
        started_at=attempt.started_at,
        finished_at=attempt.finished_at,
        usage=_usage(attempt.usage),
        cost_usd=attempt.cost_usd,
        error=_optional(attempt.error),
        reserved_tokens=attempt.reserved_tokens,
        reserved_usd=attempt.reserved_usd,
    )


def memo_row(memo: MemoRecord) -> MemoRow:
    """An answer as the memo keeps it. Raises ValueError for values that JSON cannot hold."""
    answer = to_json(memo.answer)
    return MemoRow(
        key=to_text(memo.key),
        provider=to_text(memo.provider),
        model=to_text(memo.model),
        created_at=memo.created_at,
        size=len(answer),
        content_hash=content_hash(answer),
        answer=answer,
    )


def rate_row(account: str, rate: float, at: float) -> RateRow:
    """A learned rate as it is written. Raises ValueError for one that is not a positive number."""
    if not (math.isfinite(rate) and rate > 0 and math.isfinite(at)):
        raise ValueError(f"A rate must be a positive number of requests a second at some time: {rate}, {at}")
    return RateRow(account=to_text(account), requests_per_second=float(rate), learned_at=float(at))


# rows to records


def run_of(row: RunRow, *, seq: int, snapshot: str = "{}") -> RunRecord:
    """The run of a row; its snapshot is passed separately, since lists of runs do without. Outputs that do not
    match their hash are not given, an error stands in their place. Raises DatabaseCorrupt."""
    with _reading(f"Run {row.run_id}"):
        whole = outputs_hash(row.outputs) == row.outputs_hash
        owner = None
        if row.owner_pid is not None:
            owner = Owner(
                pid=row.owner_pid, host=from_text(row.owner_host or ""), since=row.owner_since or 0.0
            )
        return RunRecord(
            run_id=RunId(from_text(row.run_id)),
            workflow=from_text(row.workflow),
            path=from_text(row.path),
            status=RunStatus(row.status),
            started_at=row.started_at,
            seq=seq,
            finished_at=row.finished_at,
            provider=from_text(row.provider),
            inputs=from_json(row.inputs),
            options=from_json(row.options),
            snapshot=from_json(snapshot),
            outputs=_given(row.outputs) if whole else None,
            error=_given(row.error) if whole else _damage("outputs of this run"),
            stats=from_json(row.stats),
            tenant=from_text(row.tenant),
            epoch=row.epoch,
            owner=owner,
        )


def node_of(row: NodeRow) -> NodeRecord:
    """The node of a row. One whose output does not match its hash is given as failed, without key and output,
    so that nothing builds on it and a resume runs it again. Raises DatabaseCorrupt."""
    if content_hash(row.status, row.key, row.output) != row.content_hash:
        return _damaged(row)
    with _reading(f"Step {row.node_id} of run {row.run_id}"):
        return NodeRecord(
            run_id=RunId(from_text(row.run_id)),
            node_id=NodeId(from_text(row.node_id)),
            kind=StepKind(row.kind),
            status=NodeStatus(row.status),
            key=from_text(row.key),
            parts=from_json(row.parts),
            output=from_json(row.output),
            error=_given(row.error),
            model=from_text(row.model),
            provider=from_text(row.provider),
            cached=bool(row.cached),
            reused=bool(row.reused),
            attempts=row.attempts,
            truncated=bool(row.truncated),
            usage=_usage_of(row.usage),
            cost_usd=row.cost_usd,
            queue_s=row.queue_s,
            call_s=row.call_s,
            started_at=row.started_at,
            finished_at=row.finished_at,
            seq=row.seq,
        )


def attempt_of(row: AttemptRow) -> AttemptRecord:
    """The attempt of a row. Raises DatabaseCorrupt."""
    with _reading(f"An attempt at step {row.node_id} of run {row.run_id}"):
        return AttemptRecord(
            attempt_id=from_text(row.attempt_id),
            run_id=RunId(from_text(row.run_id)),
            node_id=NodeId(from_text(row.node_id)),
            key=from_text(row.key),
            number=row.number,
            provider=from_text(row.provider),
            model=from_text(row.model),
            status=AttemptStatus(row.status),
            started_at=row.started_at,
            finished_at=row.finished_at,
            usage=_usage_of(row.usage),
            cost_usd=row.cost_usd,
            error=_given(row.error),
            reserved_tokens=row.reserved_tokens,
            reserved_usd=row.reserved_usd,
        )


def memo_of(row: MemoRow) -> MemoRecord | None:
    """The answer of a row, None if its content does not match its hash or cannot be read."""
    try:
        if content_hash(row.answer) != row.content_hash:
            return None
        return MemoRecord(
            key=from_text(row.key),
            provider=from_text(row.provider),
            model=from_text(row.model),
            answer=from_json(row.answer),
            created_at=row.created_at,
        )
    except (ValueError, TypeError, AttributeError):
        return None


def _damaged(row: NodeRow) -> NodeRecord:
    with _reading(f"Step {row.node_id} of run {row.run_id}"):
        return NodeRecord(
            run_id=RunId(from_text(row.run_id)),
            node_id=NodeId(from_text(row.node_id)),
            kind=StepKind(row.kind),
            status=NodeStatus.FAILED,
            error=_damage("output of this step"),
            seq=row.seq,
        )


def outputs_hash(outputs: str | None) -> str | None:
    """What is kept beside a run's outputs, to find damage to them."""
    return None if outputs is None else content_hash(outputs)


def _damage(what: str) -> dict[str, Json]:
    return {
        "type": DatabaseCorrupt.__name__,
        "message": f"The stored {what} does not match its hash: the database was damaged.",
        "hint": "Resume the run, or run it again: what is still whole is not asked again.",
    }


@contextmanager
def _reading(what: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, AttributeError) as error:
        raise DatabaseCorrupt(
            f"{what} cannot be read from the database: {error}",
            hint="Restore the database from a backup, or delete that run: flowllm runs delete RUN",
        ) from error


def _usage(usage: Usage) -> str:
    return NO_USAGE_TEXT if usage == NO_USAGE else to_json(usage.as_dict())


def _usage_of(text: str) -> Usage:
    return Usage(**from_json(text))


def _optional(value: Mapping[str, Json] | None) -> str | None:
    return None if value is None else to_json(dict(value))


def _given(text: str | None) -> Json:
    return None if text is None else from_json(text)
