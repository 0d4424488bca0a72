"""Why a step of a run was carried out again, by what its request differs in from the one before; and why it waited."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from shlex import quote

from flowllm.core.clock import timestamp
from flowllm.core.errors import UsageError
from flowllm.core.fingerprint import differences
from flowllm.core.records import dataclass, field, replace
from flowllm.core.types import (
    ABANDONED,
    REQUEST_KINDS,
    RUN_RESUMABLE,
    Json,
    NodeId,
    NodeStatus,
    RunId,
    RunStatus,
    StepId,
    WaitReason,
    child_id,
    is_within,
    item_id,
)
from flowllm.storage.base import NodeRecord, RunRecord, Store
from flowllm.storage.monitoring import SUSPENDED

_NAME = re.compile(r"\.?[^.\[\]]+(\[\d+\])?$")
"""The last name in a node's id: what stands before it is the graph that the node is in."""
RUNS_LOOKED_AT = 50
"""The newest runs, among which the one that led an equal call is looked for."""
_STEPS = "its steps"
"""What differs where the graph of a workflow step does."""
_MESSAGE = re.compile(r"body\.(?:messages|input)(?:\.(\d+))?(?:\.(\w+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One part of a request that is not what it was."""

    path: str
    """In plain words, such as `prompt` or `model`."""
    before: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """The answer to `flowllm why`."""

    run_id: str
    step: str
    status: str
    text: str
    """One or two sentences."""
    compared_with: str | None = None
    """The earlier run that it was held against."""
    changes: tuple[Change, ...] = ()
    causes: tuple[str, ...] = ()
    """What made them: an edited step, another input, another output of a step before it."""
    waits: Mapping[str, float] = field(default_factory=dict)
    """Seconds that it waited, by reason."""
    equal_call: tuple[str, str] | None = None
    """Run and node whose equal request it waited for, where that is on record."""
    hedged: int = 0
    """So many of its requests were sent twice, and one of both was abandoned."""

    def as_dict(self) -> dict[str, Json]:
        """As JSON."""
        return {
            "run_id": self.run_id,
            "step": self.step,
            "status": self.status,
            "text": self.text,
            "compared_with": self.compared_with,
            "changes": [
                {"path": change.path, "before": change.before, "after": change.after} for change in self.changes
            ],
            "causes": list(self.causes),
            "waits": {reason: round(seconds, 3) for reason, seconds in self.waits.items()},
            "equal_call": None
            if self.equal_call is None
            else dict(zip(("run_id", "step"), self.equal_call, strict=True)),
            "hedged": self.hedged,
        }


def explain_parts(before: Mapping[str, Json], after: Mapping[str, Json]) -> list[str]:
    """The names of the parts that differ, in plain words and without repetition."""
    return list(dict.fromkeys(_name(path, after) for path, _, _ in _differences(before, after)))


async def explain(store: Store, run: RunRecord, step: str, edges: Iterable[str], *, known: bool = False) -> Why:
    """Hold a node against the same one in the newest earlier run in which it succeeded, and tell for what it waited.

    `edges` are the steps that it waits for; `known`: the run's workflow has the step. Raises UsageError for a step, or an
    item, that the run has no record of, but for a step that it has not come to.
    """
    node, going = await store.node(run.run_id, NodeId(step)), run.going
    if node is None and known and "[" not in step and run.status is not RunStatus.SUCCEEDED:
        text = f"{step} has not begun yet." if going else f"{step} never began, {_as_it_ended(run)}."
        status = NodeStatus.PENDING if going else NodeStatus.CANCELLED
        return Why(run_id=run.run_id, step=step, status=status.value, text=text)
    if node is None:
        names = ", ".join(one.node_id for one in await store.nodes(run.run_id)) or "none yet"
        raise UsageError(f"run {run.run_id} has no record of a step `{step}`", hint=f"it has: {names}")
    if node.status is NodeStatus.RUNNING and not going:
        node = replace(node, status=NodeStatus.CANCELLED)
    found = await _compared(store, run, node, step, edges)
    equal = await _equal_call(store, run, node) if WaitReason.EQUAL_CALL in node.waits else None
    hedged = 0
    if node.attempts > 1 and node.counts is None:
        attempts = await store.attempts(run.run_id, node.node_id)
        hedged = sum((attempt.error or {}).get("type") == ABANDONED for attempt in attempts)
    return replace(found, waits=node.waits, equal_call=equal, hedged=hedged)


async def _equal_call(store: Store, run: RunRecord, node: NodeRecord) -> tuple[str, str] | None:
    """The node that sent the request which this one waited for: of the same run, or of one that went on beside it."""
    others = [one for one in await store.runs(limit=RUNS_LOOKED_AT) if one.run_id != run.run_id]
    beside = [one for one in others if (one.finished_at or math.inf) >= (node.started_at or 0.0)]
    for one in (run, *beside):
        for attempt in await store.attempts(one.run_id, key=node.key):
            if one is not run or attempt.node_id != node.node_id:
                return one.run_id, attempt.node_id
    return None


async def _compared(store: Store, run: RunRecord, node: NodeRecord, step: str, edges: Iterable[str]) -> Why:
    if text := await _without_answer(store, run, node):
        return _why(run, node, f"{step} {text}.")
    before = await store.last_node(run.workflow, NodeId(step), before_seq=run.seq)
    if before is None:
        return _why(run, node, f"{step} {_did(node)}: no earlier run of {run.workflow} has an answer of it.")
    changes = _changes(before, node)
    if not changes:
        return _why(run, node, _unchanged(run, node, before), before)
    causes = await _causes(store, run, before, node, edges)
    names = ", ".join(dict.fromkeys(change.path for change in changes))
    text = f"{step} {_did(node)} because its request changed since run {before.run_id}: {names}."
    if any(change.path == _STEPS for change in changes):
        changes = tuple(change for change in changes if change.path != _STEPS)
        changes += await _changes_within(store, before, node)
    return _why(run, node, text, before, changes=changes, causes=causes)


def _changes(before: NodeRecord, node: NodeRecord) -> tuple[Change, ...]:
    return tuple(
        Change(path=_name(path, node.parts), before=_shown(old), after=_shown(new))
        for path, old, new in _differences(before.parts, node.parts)
    )


async def _changes_within(store: Store, before: NodeRecord, node: NodeRecord) -> tuple[Change, ...]:
    """What differs in the steps that both have within them."""
    old, new = [
        {
            one.node_id.removeprefix(f"{around.node_id}."): one
            for one in await store.nodes(RunId(around.run_id), parent=around.node_id)
            if one.parts
        }
        for around in (before, node)
    ]
    return tuple(
        replace(change, path=f"{name}: {change.path}")
        for name, one in new.items()
        if name in old
        for change in _changes(old[name], one)
    )


async def _without_answer(store: Store, run: RunRecord, node: NodeRecord) -> str:
    """What became of a node that has no request to be compared, or no outcome; empty for all others."""
    if node.counts is not None:
        asked = f"`flowllm why {run.run_id} {quote(item_id(node.node_id, 0))}` tells of its first one"
        return f"only goes through its items: {asked}"
    if node.status in {NodeStatus.SKIPPED, NodeStatus.BLOCKED, NodeStatus.WAITING}:
        return f"was {_not_run(node)}"
    if node.status is NodeStatus.RUNNING:
        return "is still running"
    if node.status is NodeStatus.CANCELLED:
        when = "before it was sent" if node.kind in REQUEST_KINDS else "before it ended"
        if sent := len(await store.attempts(run.run_id, node.node_id)):
            requests = "a request" if sent == 1 else f"{sent:,} requests"
            when = f"after {requests} and before an answer was on record"
        return f"was cancelled {when}, {_as_it_ended(run)}"
    if not node.key:
        return f"failed before its request was known: {(node.error or {}).get('message', 'no reason is on record')}"
    return ""


def _as_it_ended(run: RunRecord) -> str:
    """`as the run was interrupted; …`."""
    again = f"; `flowllm resume {run.run_id}` goes on with it" if run.status in RUN_RESUMABLE else ""
    return f"as the run {'' if run.status in {RunStatus.FAILED, RunStatus.SUCCEEDED} else 'was '}{run.status}{again}"


def _not_run(node: NodeRecord) -> str:
    """Why it was skipped, or blocked, or waits."""
    if node.status is not NodeStatus.WAITING:
        return f"{node.status}: {node.parts.get('reason') or 'its `when` was false'}"
    suspended = node.parts.get(SUSPENDED)
    if suspended is None:
        return f"suspended, as a step within it waits: `flowllm show {node.run_id} {quote(node.node_id)}` lists them"
    until = "" if suspended["due_at"] is None else f", or until {timestamp(suspended['due_at'])}"
    return (
        f"suspended: it waits for a value ({suspended['kind']}) under the token {suspended['token']}{until}; once that has "
        "come `flowllm resume` goes on with it"
    )


def _why(
    run: RunRecord,
    node: NodeRecord,
    text: str,
    before: NodeRecord | None = None,
    *,
    changes: tuple[Change, ...] = (),
    causes: tuple[str, ...] = (),
) -> Why:
    return Why(
        run_id=run.run_id,
        step=node.node_id,
        status=node.status.value,
        text=text,
        compared_with=None if before is None else before.run_id,
        changes=changes,
        causes=causes,
    )


def _did(node: NodeRecord) -> str:
    if node.cached:
        return "was answered from the cache"
    return "ran and failed" if node.status is NodeStatus.FAILED else "ran"


def _unchanged(run: RunRecord, node: NodeRecord, before: NodeRecord) -> str:
    same = f"its request is the same as in run {before.run_id}"
    if node.cached:
        return f"{node.node_id} was answered from the cache: {same}."
    if run.options.get("no_cache"):
        return f"{node.node_id} ran because of --no-cache; {same}."
    if is_within(node.node_id, run.options.get("refresh", ())):
        return f"{node.node_id} ran because of --refresh; {same}."
    return f"{node.node_id} {_did(node)} though {same}: that answer is not in the cache (cache: false, too old, or cleared)."


async def _causes(
    store: Store, run: RunRecord, before: NodeRecord, node: NodeRecord, edges: Iterable[str]
) -> tuple[str, ...]:
    earlier = await store.run(RunId(before.run_id))
    causes = [
        f"input {name} changed"
        for name in dict.fromkeys([*earlier.inputs, *run.inputs])
        if earlier.inputs.get(name) != run.inputs.get(name)
    ]
    if before.content != node.content:
        causes.append(f"{node.node_id} is another item")
    beside = _NAME.sub("", node.node_id)
    for need in edges:
        sibling = child_id(beside, StepId(need))
        old, new = await store.node(earlier.run_id, sibling), await store.node(run.run_id, sibling)
        if (None if old is None else old.output) != (None if new is None else new.output):
            causes.append(f"the output of {sibling} changed")
    edited = [path for path, text in run.snapshot.items() if earlier.snapshot.get(path) != text]
    causes += [f"{path} was edited" for path in edited]
    return tuple(causes)


def _differences(before: Mapping[str, Json], after: Mapping[str, Json]) -> list[tuple[str, Json, Json]]:
    return differences(dict(before), dict(after))


def _name(path: str, parts: Mapping[str, Json]) -> str:
    """`body.messages.1.content` is the prompt, `body.model` the model, and so on."""
    found = _MESSAGE.match(path)
    if found is None:
        known = {
            "provider.base_url": "provider",
            "provider.type": "provider",
            "provider.headers": "the provider's headers",
            "provider.query": "the query of the provider's base URL",
            "source": "the function's code",
            "graph": _STEPS,
        }
        if path.startswith("provider.headers."):
            return f"header {path.removeprefix('provider.headers.')} of the provider"
        if path.startswith("provider.query."):
            return f"query {path.removeprefix('provider.query.')} of the provider's base URL"
        return known.get(path, path.removeprefix("body."))
    messages = parts.get("body", {}).get("messages") or parts.get("body", {}).get("input")
    if found[1] is None or not isinstance(messages, list) or int(found[1]) >= len(messages):
        return "messages"
    message = messages[int(found[1])]
    role = message.get("role", "") if isinstance(message, dict) else ""
    return {"user": "prompt", "system": "system"}.get(role, f"messages[{found[1]}]")


def _shown(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
