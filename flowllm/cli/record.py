"""What is on record of a run or of one node of it, read for `flowllm show`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from flowllm.app.result import RunResult, StepResult, all_nodes
from flowllm.cli.history import step_kinds
from flowllm.cli.options import Place
from flowllm.cli.session import find_run, open_to_read
from flowllm.core.clock import timestamp
from flowllm.core.errors import UsageError
from flowllm.core.money import Spend
from flowllm.core.types import AttemptStatus, Json, NodeId, RunStatus, StepKind, Usage, step_path
from flowllm.language.problems import nearest
from flowllm.runtime.recorded import counted, figures_of, whole_nodes, with_items
from flowllm.storage.base import AttemptRecord, NodeRecord, RunRecord, Store

PAGE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What is on record of one node, or of the run itself."""

    run: RunRecord
    nodes: list[NodeRecord]
    """The steps at the top, or within the node."""
    attempts: dict[str, list[AttemptRecord]]
    """The requests of nodes, by their ids."""
    node: NodeRecord | None = None
    items: list[NodeRecord] = field(default_factory=list)
    """The first ones of a foreach."""
    spends: dict[str, Spend] = field(default_factory=dict)
    """What was spent on those of them whose cost is unknown."""

    def run_dict(self) -> dict[str, Json]:
        """What `run --json` prints, and more."""
        run = self.run
        return {
            **RunResult.of(run, self.nodes).as_dict(),
            "path": run.path,
            "options": dict(run.options),
            "tenant": run.tenant,
            "started_at": timestamp(run.started_at),
            "finished_at": timestamp(run.finished_at),
            "steps": self.steps_dict(),
        }

    def steps_dict(self) -> dict[str, Json]:
        """The steps by their names."""
        return {node.node_id: self.step_dict(node) for node in self.nodes}

    def step_dict(self, node: NodeRecord) -> dict[str, Json]:
        """One step, with what was sent for it."""
        return {
            **StepResult.of(node).as_dict(),
            "reused": node.reused,
            "key": node.key or None,
            "request": dict(node.parts),
            "attempt_log": [_attempt_dict(attempt) for attempt in self.attempts.get(node.node_id, ())],
        }

    def node_dict(self, node: NodeRecord) -> dict[str, Json]:
        """One node with what is within it."""
        found = self.step_dict(node)
        if node.place is not None:
            found |= {"index": node.place, "item": node.item}
        if node.counts is not None:
            found["items"] = [_item_dict(item) for item in self.items]
        elif self.nodes:
            found["steps"] = self.steps_dict()
        return found


async def read(named: str, step: str | None, place: Place, *, full: bool, most: int) -> Kept:
    """A run, or one node of it, with so many items. `full`: with all of the outputs of its foreaches. Raises UsageError."""
    async with open_to_read(place) as app:
        store, run = app.store, await find_run(app.store, named)
        run = replace(run, stats=await figures_of(store, run))
        if step is None:
            steps = all_nodes(run, await whole_nodes(store, run, full=full), step_kinds(run))
            return await _kept(store, run, steps)
        node = await _node(store, run, step)
        within, items = [], []
        if node.counts is not None:
            items = all_nodes(run, await _first_items(store, node, most), {})
        elif node.kind in {StepKind.WORKFLOW, StepKind.PYTHON}:
            inner = await store.nodes(run.run_id, node.node_id)
            if node.kind is StepKind.PYTHON:  # what it asked, in the order of the calls: ask[2] before ask[10]
                inner.sort(key=lambda one: (len(one.node_id), one.node_id))
            within = all_nodes(run, [await with_items(store, one, full=full) for one in inner], {})
        return await _kept(store, run, within, await with_items(store, node, full=full), items)


async def _kept(
    store: Store,
    run: RunRecord,
    nodes: list[NodeRecord],
    node: NodeRecord | None = None,
    items: Sequence[NodeRecord] = (),
) -> Kept:
    nodes = await counted(store, nodes)
    node = None if node is None else (await counted(store, [node]))[0]
    every = nodes if node is None else [*nodes, node]
    attempts: dict[str, list[AttemptRecord]] = {
        one.node_id: [_seen(attempt, run) for attempt in await store.attempts(run.run_id, one.node_id)]
        for one in every
        if one.counts is None
    }

    return Kept(
        run=run,
        nodes=[*nodes],
        attempts=attempts,
        node=node,
        items=list(items),
        spends={one.node_id: await store.spend(run.run_id, one.node_id) for one in every if unsure(one)},
    )


def unsure(node: NodeRecord) -> bool:
    """It sent something, and its cost is unknown."""
    return node.cost_usd is None and node.attempts > 0


async def _node(store: Store, run: RunRecord, step: str) -> NodeRecord:
    """That node, also one that never ended. Raises UsageError."""
    found = await store.node(run.run_id, NodeId(step))
    if found is not None:
        return all_nodes(run, [found], {})[0]
    steps = {node.node_id: node for node in all_nodes(run, await store.nodes(run.run_id), step_kinds(run))}
    if step in steps:
        return steps[NodeId(step)]
    top = step_path(step).partition(".")[0]
    hint = nearest(step, steps)
    if top in steps:
        hint = f"`flowllm show {run.run_id} {top}` shows what is within {top}"
    raise UsageError(f"run {run.run_id} has no record of a step `{step}`", hint=hint)


async def _first_items(store: Store, node: NodeRecord, most: int) -> list[NodeRecord]:
    found: list[NodeRecord] = []
    while len(found) < most:
        after = found[-1].place if found else -1
        page = await store.items(
            node.run_id, node.node_id, after=-1 if after is None else after, limit=min(PAGE, most - len(found))
        )
        if not page:
            break
        found += page
    return found


def _seen(attempt: AttemptRecord, run: RunRecord) -> AttemptRecord:
    """One that was on its way when its process ended may have been paid for: nobody knows."""
    if attempt.status is AttemptStatus.SENT and run.status is not RunStatus.RUNNING:
        free = attempt.reserved_usd == 0
        return replace(attempt, status=AttemptStatus.UNKNOWN, usage=Usage.unknown(), cost_usd=0.0 if free else None)
    return attempt


def _item_dict(item: NodeRecord) -> dict[str, Json]:
    return {
        "node": item.node_id,
        "index": item.place,
        "item": item.item,
        "status": item.status.value,
        "output": item.output,
        "error": item.error,
    }


def _attempt_dict(attempt: AttemptRecord) -> dict[str, Json]:
    return {
        "number": attempt.number,
        "status": attempt.status.value,
        "provider": attempt.provider,
        "model": attempt.model,
        "key": attempt.key,
        "started_at": timestamp(attempt.started_at),
        "finished_at": timestamp(attempt.finished_at),
        "error": attempt.error,
        "usage": attempt.usage.as_dict(),
        "cost_usd": attempt.cost_usd,
        "reserved_tokens": attempt.reserved_tokens,
        "reserved_usd": attempt.reserved_usd,
    }
