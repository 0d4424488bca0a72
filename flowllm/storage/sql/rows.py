"""Records as the rows that are written. A row's fields stand in the order of its table's columns.

JSON is written in plain ASCII: lone surrogates, NUL and integers of any size pass through it unharmed. Short
texts (names, models, paths) stay readable and are escaped only where a database would refuse or cut them.
"""

from __future__ import annotations

import binascii
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, Final, NamedTuple

from flowllm.core.encoding import EncodedObject, encoder
from flowllm.core.records import fields
from flowllm.core.types import USAGE_FIELDS, Json, NodeStatus, Usage
from flowllm.storage.base import AttemptRecord, MemoRecord, NodeRecord, RunRecord
from flowllm.storage.monitoring import Gauge, Learned, SuspensionRecord

_ENCODE = encoder()
_DECODER = json.JSONDecoder()
_IN_FULL: Final = 64
"""Hexadecimal digits of SHA-256."""


def to_json(value: Json) -> str:
    """ASCII JSON text, keys in their order. Raises ValueError for what JSON cannot hold."""
    if value is None:
        return "null"
    try:
        return _ENCODE(value)
    except (TypeError, RecursionError) as error:
        raise ValueError(f"This value cannot be stored as JSON: {error}") from error


def from_json(text: str) -> Json:
    """The value of a JSON text. Raises ValueError if it is none."""
    try:
        value, end = _DECODER.raw_decode(text)  # what stands here has no blanks around it
    except RecursionError as error:
        raise ValueError("This JSON is nested too deeply.") from error
    if end != len(text):
        raise ValueError(f"There is more behind the end of this JSON, at {end}.")
    return value


def to_text(text: str) -> str:
    """A short text in a form that a database column takes: itself, unless it has a backslash, a NUL or a lone
    surrogate; then as in a JSON string. Equal texts stay equal, so a query may compare them."""
    if text.isascii() and "\\" not in text and "\0" not in text:
        return text
    if "\\" in text or "\0" in text or not _encodable(text):
        return json.dumps(text)[1:-1]
    return text


def from_text(text: str) -> str:
    """The reverse of `to_text`. Raises ValueError for a broken escape."""
    return str(json.loads(f'"{text}"', strict=False)) if "\\" in text else text


def content_hash(*texts: str, like: str | None = None) -> str:
    """SHA-256 of texts, each ended by a newline: 128 bits in base64; in hexadecimal and full if `like` is (of before 0009)."""
    made = hashlib.sha256(("\n".join(texts) + "\n").encode(errors="surrogatepass"))
    if like is not None and len(like) == _IN_FULL:
        return made.hexdigest()
    return binascii.b2a_base64(made.digest()[:16], newline=False)[:22].decode()


def _encodable(text: str) -> bool:
    return text.encode(errors="replace").decode() == text


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
    output_offset: int | None
    inputs: str
    options: str
    stats: str
    error: str | None
    outputs_hash: str | None
    outputs: str | None
    snapshot: str
    snapshot_hash: str | None
    row_hash: str | None
    process: int | None = None


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
    parent: str
    place: int | None
    epoch: int
    content: str
    counts: str | None
    error: str | None
    content_hash: str
    parts: str
    item: str | None
    output: str
    reused: bool
    row_hash: str | None
    waits: str | None = None


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
    row_hash: str | None
    process: int | None = None


class MemoRow(NamedTuple):
    """A row of `memo`."""

    key: str
    provider: str
    model: str
    created_at: float
    size: int
    content_hash: str
    answer: str


class LearnedRow(NamedTuple):
    """A row of `learned`."""

    account: str
    name: str
    value: float
    learned_at: float


# records to rows: by position where it has to be quick


def run_row(run: RunRecord) -> RunRow:
    """A run as it is inserted. Raises ValueError for values that JSON cannot hold."""
    owner = run.owner
    outputs, snapshot = _optional(run.outputs), _mapping(run.snapshot)
    row = RunRow(
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
        output_offset=run.output_offset,
        inputs=_mapping(run.inputs),
        options=_mapping(run.options),
        stats=_mapping(run.stats),
        error=_optional(run.error),
        outputs_hash=outputs_hash(outputs),
        outputs=outputs,
        snapshot=snapshot,
        snapshot_hash=content_hash(snapshot),
        row_hash=None,
    )
    return row._replace(row_hash=run_hash(row))


def node_row(node: NodeRecord) -> NodeRow:
    """A node as it is written. Raises ValueError for values that JSON cannot hold."""
    output, key, status = to_json(node.output), to_text(node.key), node.status._value_
    waits = waits_text(node.waits)
    row = (
        to_text(node.run_id),
        to_text(node.node_id),
        node.seq,
        node.kind.value,
        status,
        key,
        to_text(node.model),
        to_text(node.provider),
        int(node.cached),  # the driver takes much longer to bind a bool
        node.attempts,
        int(node.truncated),
        _usage(node.usage),
        node.cost_usd,
        node.queue_s,
        node.call_s,
        node.started_at,
        node.finished_at,
        to_text(node.parent),
        node.place,
        node.epoch,
        to_text(node.content),
        None if node.counts is None else to_json(node.counts.as_dict()),
        _optional(node.error),
        content_hash(status, key, output),
        _mapping(node.parts),
        None if node.item is None else to_json(node.item),
        output,
        int(node.reused),
    )
    return NodeRow._make((*row, _node_hash(row, waits), waits))  # by name it takes four times as long


class RunningRow(NamedTuple):
    """The columns of `nodes` that one has that has begun."""

    run_id: str
    node_id: str
    kind: str
    started_at: float | None
    parent: str
    place: int | None
    epoch: int
    content: str
    content_hash: str
    parts: str = "{}"
    output: str = "null"


NOT_ENDED: Final = content_hash(NodeStatus.RUNNING.value, "", "null")


def waits_text(waits: Mapping[str, float]) -> str | None:
    """What a node has waited, as it is written."""
    return to_json({why: round(seconds, 6) for why, seconds in waits.items()}) if waits else None


def running_row(node: NodeRecord) -> RunningRow:
    """A node that has begun."""
    return RunningRow(
        to_text(node.run_id),
        to_text(node.node_id),
        node.kind.value,
        node.started_at,
        to_text(node.parent),
        node.place,
        node.epoch,
        to_text(node.content),
        NOT_ENDED,
    )


def gauge_row(gauge: Gauge) -> tuple[Any, ...]:
    """A gauge as it is written."""
    return (
        to_text(gauge.process),
        to_text(gauge.account),
        *_OF_GAUGE(gauge),
        to_json({why: dict(counts) for why, counts in gauge.waits.items()}),
    )


GAUGE_FIELDS: Final = tuple(one.name for one in fields(Gauge))
WAIT_FIELDS: Final = ("run_id", "node_id", "kind", "token", "due_at", "payload", "value")
_OF_GAUGE: Final = attrgetter(*GAUGE_FIELDS[2:-1])


def wait_row(wait: SuspensionRecord) -> tuple[Any, ...]:
    """A wait as it is written. Raises ValueError for values that JSON cannot hold."""
    return (
        to_text(wait.run_id),
        to_text(wait.node_id),
        to_text(wait.kind),
        to_text(wait.token),
        wait.due_at,
        to_json(wait.payload),
        to_json(wait.value) if wait.woken else None,
    )


def attempt_row(attempt: AttemptRecord, process: int | None = None) -> AttemptRow:
    """An attempt of a process as it is written. Raises ValueError for values that JSON cannot hold."""
    row = AttemptRow(
        to_text(attempt.attempt_id),
        to_text(attempt.run_id),
        to_text(attempt.node_id),
        to_text(attempt.key),
        attempt.number,
        to_text(attempt.provider),
        to_text(attempt.model),
        attempt.status.value,
        attempt.started_at,
        attempt.finished_at,
        _usage(attempt.usage),
        attempt.cost_usd,
        _optional(attempt.error),
        attempt.reserved_tokens,
        attempt.reserved_usd,
        None,
    )
    return AttemptRow._make((*row[:-2], attempt_hash(row), process))


def memo_row(memo: MemoRecord) -> MemoRow:
    """An answer as the memo keeps it. Raises ValueError for values that JSON cannot hold."""
    answer = to_json(memo.answer)
    row = MemoRow(
        to_text(memo.key),
        to_text(memo.provider),
        to_text(memo.model),
        memo.created_at,
        len(answer),
        content_hash(answer),
        answer,
    )
    return row._replace(content_hash=memo_hash(row))


def learned_row(one: Learned) -> LearnedRow:
    """What was learned as it is written. Raises ValueError for a value or a time that is not a number from 0."""
    if not (math.isfinite(one.value) and one.value >= 0 and math.isfinite(one.at)):
        raise ValueError(f"What is learned must be a number from 0 at some time: {one}")
    return LearnedRow(to_text(one.account), to_text(one.name), float(one.value), float(one.at))


# hashes of rows, which find what was damaged on disk; texts that are hashed by themselves are in them by their hashes


def _hashed(fields: tuple[str, ...], *without: str) -> Callable[[Any], tuple[Any, ...]]:
    return attrgetter(*(name for name in fields if name not in without))


# A damaged status is no status; where the output file ends is checked against its lines; whose a run is passes.
_OF_RUN: Final = _hashed(RunRow._fields, "snapshot", "outputs", "row_hash", "status", "output_offset", "process")
_OUTPUT: Final = NodeRow._fields.index("output")
_OF_ATTEMPT: Final = _hashed(AttemptRow._fields, "row_hash", "process")
_CONTENT_HASH: Final = MemoRow._fields.index("content_hash")


def run_hash(row: RunRow) -> str:
    """Of a run's row; its snapshot need not be there."""
    return _row_hash(_OF_RUN(row), row.row_hash)


def node_hash(row: NodeRow) -> str:
    """Of a node's row; what it waited for came later than the hash, and is in it only where there is any."""
    return _node_hash(row, row.waits, row.row_hash)


def _node_hash(row: tuple[Any, ...], waits: str | None, like: str | None = None) -> str:
    """Of its columns up to `reused`, but for the output."""
    values = (*row[:_OUTPUT], row[_OUTPUT + 1])
    return _row_hash(values if waits is None else (*values, waits), like)


def attempt_hash(row: AttemptRow) -> str:
    """Of an attempt's row."""
    return _row_hash(_OF_ATTEMPT(row), row.row_hash)


def memo_hash(row: MemoRow) -> str:
    """Of a stored answer, with the key that it answers and what else is known of it."""
    return _row_hash((*row[:_CONTENT_HASH], *row[_CONTENT_HASH + 1 :]), row.content_hash)


def _row_hash(values: tuple[Any, ...], like: str | None) -> str:
    """A number counts as a database gives it back: an integer may come as a float, a NaN as NULL, and no zero is negative."""
    texts = [value if value.__class__ is str else _USUAL.get(value) or _number(value) for value in values]
    return content_hash(*texts, like=like)


_USUAL: Final = {None: "\0", 0: "0.0", 1: "1.0"}
"""What most numbers of a row are, as `_number` gives them."""


def _number(value: object) -> str:
    if value.__class__ is int:
        return repr(float(value))
    if value is None or value != value:  # noqa: PLR0124 - a NaN
        return "\0"
    return repr(float(value)) if isinstance(value, (int, float)) else repr(value)


def outputs_hash(outputs: str | None, like: str | None = None) -> str | None:
    """What is kept beside a run's outputs, to find damage to them."""
    return None if outputs is None else content_hash(outputs, like=like)


_COUNTS: Final = attrgetter(*USAGE_FIELDS)


def _usage(usage: Usage) -> str:
    """Its counts, in the order of USAGE_FIELDS. Raises ValueError for what is no integer."""
    return f"[{','.join([repr(count) if count.__class__ is int else _n(count) for count in _COUNTS(usage)])}]"


def _n(count: int | None) -> str:
    return "null" if count is None else f"{count:d}"


def _mapping(value: Mapping[str, Json]) -> str:
    if value.__class__ is EncodedObject:
        return value.text
    return to_json(value if type(value) is dict else dict(value))


def _optional(value: Mapping[str, Json] | None) -> str | None:
    return None if value is None else _mapping(value)
