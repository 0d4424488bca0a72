"""Rows as the records that they were; what was damaged on disk is found here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

from flowllm.core.errors import DatabaseCorrupt
from flowllm.core.money import Spend
from flowllm.core.types import (
    USAGE_FIELDS,
    AttemptStatus,
    Counts,
    Json,
    NodeId,
    NodeStatus,
    RunId,
    RunStatus,
    StepKind,
    Usage,
)
from flowllm.storage.base import AttemptRecord, MemoRecord, NodeRecord, Owner, RunRecord
from flowllm.storage.monitoring import RunTotals, SuspensionRecord
from flowllm.storage.sql.rows import (
    AttemptRow,
    MemoRow,
    NodeRow,
    RunRow,
    attempt_hash,
    content_hash,
    from_json,
    from_text,
    memo_hash,
    node_hash,
    outputs_hash,
    run_hash,
)
from flowllm.storage.sql.totals import STATUSES

_UNREADABLE: Final = (ValueError, TypeError, AttributeError, KeyError)
"""What the parts of a damaged row raise."""
_MISMATCH: Final = "it does not match its hash, so it was damaged"
_STATUSES: Final = {status.value: status for status in NodeStatus}


def run_of(row: RunRow, *, seq: int, snapshot: str | None = None) -> RunRecord:
    """The run of a row; its snapshot is passed separately, since lists of runs do without. Outputs that do not
    match their hash are not given, an error stands in their place. Raises DatabaseCorrupt."""
    with reading(f"Run {row.run_id}"):
        if row.row_hash not in {None, run_hash(row)} or (
            snapshot is not None and row.snapshot_hash not in {None, content_hash(snapshot, like=row.snapshot_hash)}
        ):
            raise ValueError(_MISMATCH)
        whole = outputs_hash(row.outputs, row.outputs_hash) == row.outputs_hash
        owner = None
        if row.owner_pid is not None:
            owner = Owner(pid=row.owner_pid, host=from_text(row.owner_host or ""), since=row.owner_since or 0.0)
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
            snapshot={} if snapshot is None else from_json(snapshot),
            outputs=_given(row.outputs) if whole else None,
            error=_given(row.error) if whole else _damage("outputs of this run"),
            stats=from_json(row.stats),
            tenant=from_text(row.tenant),
            epoch=row.epoch,
            owner=owner,
            output_offset=row.output_offset,
        )


def listed_run(row: RunRow, *, seq: int) -> RunRecord:
    """As `run_of`, for a list: a damaged run stands in it as failed. Raises DatabaseCorrupt if not even its id can be
    read."""
    try:
        return run_of(row, seq=seq)
    except DatabaseCorrupt:
        with reading("A run"):
            return RunRecord(
                run_id=RunId(from_text(row.run_id)),
                workflow=from_text(row.workflow),
                path=from_text(row.path),
                status=RunStatus.FAILED,
                started_at=row.started_at,
                seq=seq,
                error=_damage("record of this run"),
            )


def node_of(row: NodeRow, change_no: int = 0) -> NodeRecord:
    """The node of a row. One whose output does not match its hash is given as failed, without key and output,
    so that nothing builds on it and a resume runs it again. Raises DatabaseCorrupt."""
    try:
        if not has_its_output(row) or not is_whole(row):
            return replace(_damaged(row), change_no=change_no)
        return NodeRecord(
            run_id=RunId(from_text(row.run_id)),
            node_id=NodeId(from_text(row.node_id)),
            kind=StepKind(row.kind),
            status=_STATUSES[row.status],
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
            usage=usage_of(row.usage),
            cost_usd=row.cost_usd,
            queue_s=row.queue_s,
            call_s=row.call_s,
            started_at=row.started_at,
            finished_at=row.finished_at,
            seq=row.seq,
            parent=from_text(row.parent),
            place=row.place,
            item=_given(row.item),
            content=from_text(row.content),
            counts=None if row.counts is None else Counts(**from_json(row.counts)),
            epoch=row.epoch,
            waits={} if row.waits is None else from_json(row.waits),
            change_no=change_no,
        )
    except _UNREADABLE as error:
        raise _corrupt(f"Step {row.node_id} of run {row.run_id}", error) from error


def attempt_of(row: AttemptRow) -> AttemptRecord:
    """The attempt of a row. Raises DatabaseCorrupt."""
    with reading(f"An attempt at step {row.node_id} of run {row.run_id}"):
        if row.row_hash not in {None, attempt_hash(row)}:
            raise ValueError(_MISMATCH)
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
            usage=usage_of(row.usage),
            cost_usd=row.cost_usd,
            error=_given(row.error),
            reserved_tokens=row.reserved_tokens,
            reserved_usd=row.reserved_usd,
        )


def has_its_output(row: NodeRow) -> bool:
    """The output is that of this key, as it was written."""
    return content_hash(row.status, row.key, row.output, like=row.content_hash) == row.content_hash


def is_whole(row: NodeRow) -> bool:
    """The row is as it was written, as far as that is known; its output is not looked at."""
    return row.row_hash is None or row.row_hash == node_hash(row)


def wait_of(row: Any) -> SuspensionRecord:
    """The wait of a row of `waits`. Raises DatabaseCorrupt."""
    run_id, node_id, kind, token, due_at, payload, value = row
    with reading(f"What step {node_id} of run {run_id} waits for"):
        return SuspensionRecord(
            run_id=RunId(from_text(run_id)),
            node_id=NodeId(from_text(node_id)),
            kind=from_text(kind),
            token=from_text(token),
            due_at=due_at,
            payload=from_json(payload),
            woken=value is not None,
            value=_given(value),
        )


def spend_of(sums: Mapping[str, Any]) -> Spend:
    """The sums of totals.py as what they are."""
    in_doubt = int(sums["unknown"])
    return Spend(
        requests=int(sums["requests"]),
        usage=Usage(**{name: None if sums[f"no_{name}"] else int(sums[name]) for name in USAGE_FIELDS}),
        known_input=int(sums["input_tokens"]),
        known_output=int(sums["output_tokens"]),
        known_usd=sums["known_usd"],
        unpriced=int(sums["unpriced"]),
        unknown=in_doubt,
        reserved_tokens=sums["reserved_tokens"] if in_doubt else 0.0,
        reserved_usd=None if sums["unreserved"] else sums["reserved_usd"] if in_doubt else 0.0,
    )


def totals_of(sums: Mapping[str, Any]) -> RunTotals:
    """A row of `totals`."""
    return RunTotals(
        changes=sums["changes"],
        last_seq=sums["last_seq"],
        nodes={NodeStatus(name): sums[name] for name in STATUSES if sums[name]},
        spend=spend_of(sums),
    )


def memo_of(row: MemoRow) -> MemoRecord | None:
    """The answer of a row, None if its content does not match its hash or cannot be read."""
    try:
        if row.content_hash != memo_hash(row) and row.content_hash != content_hash(  # as it was hashed before 0005
            row.answer, like=row.content_hash
        ):
            return None
        return MemoRecord(
            key=from_text(row.key),
            provider=from_text(row.provider),
            model=from_text(row.model),
            answer=from_json(row.answer),
            created_at=row.created_at,
        )
    except _UNREADABLE:
        return None


def _damaged(row: NodeRow) -> NodeRecord:
    return NodeRecord(
        run_id=RunId(from_text(row.run_id)),
        node_id=NodeId(from_text(row.node_id)),
        kind=StepKind(row.kind),
        status=NodeStatus.FAILED,
        error=_damage("record of this step"),
        seq=row.seq,
        parent=from_text(row.parent),
        place=row.place,
        content=from_text(row.content),
        epoch=row.epoch,
    )


def _damage(what: str) -> dict[str, Json]:
    return {
        "type": DatabaseCorrupt.__name__,
        "message": f"The stored {what} does not match its hash: the database was damaged.",
        "hint": "Resume the run, or run it again: what is still whole is not asked again.",
    }


def damaged(what: str) -> DatabaseCorrupt:
    """The error for something of which a part is another than was written."""
    return DatabaseCorrupt(
        f"The record of {what} does not match its hash: the database was damaged.",
        hint="Resume the run, or run it again: what is still whole is not asked again.",
    )


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Raises DatabaseCorrupt for what in a row cannot be read."""
    try:
        yield
    except _UNREADABLE as error:
        raise _corrupt(what, error) from error


def _corrupt(what: str, error: Exception) -> DatabaseCorrupt:
    return DatabaseCorrupt(
        f"{what} cannot be read from the database: {error}",
        hint="Restore the database from a backup, or delete that run: flowllm runs delete RUN",
    )


@lru_cache(maxsize=1024)
def usage_of(text: str) -> Usage:
    """The tokens of a row."""
    counts = from_json(text)
    return Usage(**(dict(zip(USAGE_FIELDS, counts, strict=True)) if isinstance(counts, list) else counts))


def _given(text: str | None) -> Json:
    return None if text is None else from_json(text)
