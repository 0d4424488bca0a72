"""What is on record of a run, or of one node, as `show` has it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from flowllm.app.result import RunResult, StepResult
from flowllm.core.clock import timestamp
from flowllm.core.errors import UsageError
from flowllm.core.money import Spend
from flowllm.core.records import dataclass, field, replace
from flowllm.core.types import Json, NodeId, NodeStatus, StepKind, step_path
from flowllm.language.problems import nearest
from flowllm.storage.base import AttemptRecord, NodeRecord, RunRecord, Store
from flowllm.views.models import models_of
from flowllm.views.nodes import all_nodes, counted, whole_nodes, with_items
from flowllm.views.standing import as_seen
from flowllm.views.steps import step_kinds

ITEMS_SHOWN = 20
"""Items of a foreach that are listed."""
_PAGE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is on record of one node, or of the run itself."""

    run: RunRecord
    nodes: Sequence[NodeRecord]
    """The steps at the top, or within the node."""
    attempts: Mapping[NodeId, Sequence[AttemptRecord]]
    """The requests of nodes, by their ids."""
    spends: Mapping[NodeId, Spend]
    """What those nodes have taken so far whose tokens or cost are unknown."""
    node: NodeRecord | None = None
    items: Sequence[NodeRecord] = field(default_factory=list)
    """The first ones of a foreach."""
    models: Sequence[Mapping[str, Json]] = field(default_factory=list)
    """What the run took of each model."""

    def as_dict(self) -> dict[str, Json]:
        """What --json prints: of a run what `run --json` prints, and more."""
        run, node = self.run, self.node
        steps = {one.node_id: self._step_dict(one) for one in self.nodes}
        if node is None:
            more = {"path": run.path, "options": dict(run.options), "tenant": run.tenant}
            times = {"started_at": timestamp(run.started_at), "finished_at": timestamp(run.finished_at)}
            return {
                **RunResult.of(run, self.nodes).as_dict(),
                **more,
                **times,
                "steps": steps,
                "models": list(self.models),
            }
        found = self._step_dict(node)
        if node.place is not None:
            found |= {"index": node.place, "item": node.item}
        if node.counts is not None:
            found["items"] = [_item_dict(item) for item in self.items]
        elif steps:
            found["steps"] = steps
        return found

    def _step_dict(self, node: NodeRecord) -> dict[str, Json]:
        """One step, with what was sent for it."""
        spend = self.spends[node.node_id].as_dict() if node.node_id in self.spends else {}
        return {
            **StepResult.of(node).as_dict(),
            **{name: spend[name] for name in ("at_least", "unknown") if spend},
            "reused": node.reused,
            "key": node.key or None,
            "request": dict(node.parts),
            "waits": {reason: round(seconds, 3) for reason, seconds in node.waits.items()},
            "attempt_log": [_attempt_dict(attempt) for attempt in self.attempts.get(node.node_id, ())],
        }


def _item_dict(item: NodeRecord) -> dict[str, Json]:
    where = {"node": item.node_id, "index": item.place, "item": item.item}
    return where | {"status": item.status.value, "output": item.output, "error": item.error}


_ATTEMPT = (
    *("number", "status", "provider", "model", "key", "started_at", "finished_at", "error", "usage", "cost_usd"),
    *("reserved_tokens", "reserved_usd"),
)


def _attempt_dict(attempt: AttemptRecord) -> dict[str, Json]:
    return {name: getattr(attempt, name) for name in _ATTEMPT} | {
        "status": attempt.status.value,
        "started_at": timestamp(attempt.started_at),
        "finished_at": timestamp(attempt.finished_at),
        "usage": attempt.usage.as_dict(),
    }


async def read_run(store: Store, run: RunRecord, outputs: int | None, *, requests: bool) -> Record:
    """A run with its steps, and the `requests` of each; of foreaches with so many outputs (None: all)."""
    nodes = all_nodes(run, await whole_nodes(store, run, outputs), step_kinds(run))
    record = await _record(store, run, nodes, attempts_of=nodes if requests else ())
    return replace(record, models=await models_of(store, run))


async def read_node(store: Store, run: RunRecord, step: str, outputs: int | None, *, as_json: bool) -> Record:
    """One node, with so many outputs of foreaches (None: all). Raises UsageError for a step that the run does not have."""
    node = await _find_node(store, run, step)
    within, items = [], []
    if node.counts is not None:
        items = all_nodes(
            run, await (_first_items(store, node, outputs) if as_json else _telling_items(store, node)), {}
        )
    elif node.kind in {StepKind.WORKFLOW, StepKind.PYTHON}:
        inner = await store.nodes(run.run_id, node.node_id)
        if node.kind is StepKind.PYTHON:  # what it asked, in the order of the calls: ask[2] before ask[10]
            inner.sort(key=lambda one: (len(one.node_id), one.node_id))
        within = all_nodes(run, [await with_items(store, one, outputs) for one in inner], {})
    node = all_nodes(run, [await with_items(store, node, outputs)], {})[0]
    return await _record(store, run, within, node, items, attempts_of=[*within, node] if as_json else [node])


async def _record(
    store: Store,
    run: RunRecord,
    nodes: Sequence[NodeRecord],
    node: NodeRecord | None = None,
    items: Sequence[NodeRecord] = (),
    *,
    attempts_of: Sequence[NodeRecord],
) -> Record:
    nodes = await counted(store, nodes)
    node = None if node is None else (await counted(store, [node]))[0]
    attempts = {
        one.node_id: [as_seen(attempt, run) for attempt in await store.attempts(run.run_id, one.node_id)]
        for one in attempts_of
        if one.counts is None
    }
    spends = {
        one.node_id: await store.spend(run.run_id, one.node_id)
        for one in (nodes if node is None else [*nodes, node])
        if (one.cost_usd is None or one.usage.total is None) and one.attempts > 0
    }
    return Record(run=run, nodes=nodes, node=node, items=items, attempts=attempts, spends=spends)


async def _find_node(store: Store, run: RunRecord, step: str) -> NodeRecord:
    """That node as it is on record, even if it never ended. Raises UsageError."""
    found = await store.node(run.run_id, NodeId(step))
    if found is not None:
        return found
    steps = {node.node_id: node for node in all_nodes(run, await store.nodes(run.run_id), step_kinds(run))}
    if step in steps:
        return steps[NodeId(step)]
    top = step_path(step).partition(".")[0]
    hint = nearest(step, steps)
    if top in steps:
        hint = f"`flowllm show {run.run_id} {shlex.quote(top)}` shows what is within {top}"
    raise UsageError(f"run {run.run_id} has no record of a step `{step}`", hint=hint)


async def _telling_items(store: Store, node: NodeRecord) -> list[NodeRecord]:
    """So many as are shown: those that failed, those that have not ended, and the first ones."""
    found: dict[str, NodeRecord] = {}
    for status in (NodeStatus.FAILED, NodeStatus.RUNNING, None):
        page = await store.items(node.run_id, node.node_id, limit=ITEMS_SHOWN, status=status)
        found |= {one.node_id: one for one in page if one.node_id not in found}
    return [*found.values()][:ITEMS_SHOWN]


async def _first_items(store: Store, node: NodeRecord, most: int | None) -> list[NodeRecord]:
    found: list[NodeRecord] = []
    while most is None or len(found) < most:
        after = (found[-1].place or 0) if found else -1
        limit = _PAGE if most is None else min(_PAGE, most - len(found))
        page = await store.items(node.run_id, node.node_id, after=after, limit=limit)
        if not page:
            break
        found += page
    return found
