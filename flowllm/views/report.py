"""A run for somebody who was not there: what failed, what was asked and answered, what it took."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from flowllm.core.records import dataclass
from flowllm.core.types import Budget, Json, NodeId, NodeStatus, StepId
from flowllm.explain.graph import Graph
from flowllm.language.workflow import Workflow
from flowllm.storage.base import NodeRecord, RunRecord, Store
from flowllm.storage.browsing import ItemOrder, ItemQuery
from flowllm.views.graph import graph_of_run
from flowllm.views.models import models_of
from flowllm.views.node import node_detail
from flowllm.views.runs import RunSummary, summary_of
from flowllm.views.shown import Shown, shown
from flowllm.views.timeline import Timeline, read_timeline

ITEMS_SHOWN: Final = 100
"""Items of a foreach that are told in full, unless others are wanted."""
MOST_NODES: Final = 2000
"""Nodes that are told in full, as long as they are small:"""
MOST_TEXT: Final = 20_000_000
"""of nodes that have more characters than this together, fewer are."""
_DEEPEST: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A node, and what of the nodes within it is told."""

    node: Mapping[str, Json]
    """As `NodeDetail.as_dict` gives it."""
    within: tuple[Section, ...] = ()
    """Steps within it, or items: failed ones first."""
    omitted: int = 0
    """Nodes within it that are left out."""
    failed_omitted: int = 0
    """Those of them that are items and failed."""

    @property
    def failed(self) -> bool:
        """It has an error of its own."""
        return self.node["status"] == NodeStatus.FAILED and self.node["error"] is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A run."""

    summary: RunSummary
    error: Mapping[str, Json] | None
    budget: Budget | None
    inputs: Mapping[str, Shown]
    outputs: Mapping[str, Shown]
    graph: Graph | None
    """None: this version cannot read its workflow."""
    timeline: Timeline | None
    models: Sequence[Mapping[str, Json]]
    """As `models_of` gives them."""
    sections: tuple[Section, ...]

    def all(self) -> Iterator[Section]:
        """Every node that is told, those within it behind it."""
        left = list(reversed(self.sections))
        while left:
            section = left.pop()
            yield section
            left += reversed(section.within)

    def failures(self) -> list[list[Section]]:
        """What failed, but for what failed as something within it did; together where the error is the same."""
        found: dict[tuple[Json, ...], list[Section]] = {}
        for section in self.all():
            if section.failed and not any(one.failed for one in section.within):
                error = section.node["error"]
                found.setdefault(tuple(error[name] for name in ("type", "message", "hint")), []).append(section)
        return list(found.values())


async def report(
    store: Store, run: RunRecord, workflow: Workflow | None, *, items: int = ITEMS_SHOWN, now: float
) -> Report:
    """All that is told of a run; of each foreach so many items. `workflow` is the one on record, None where it cannot be
    read; `now` wall clock seconds."""
    graph = None if workflow is None else Graph.of(workflow)
    gatherer = _Gatherer(store, run, items)
    return Report(
        summary=await summary_of(store, run, now=now),
        error=run.error,
        budget=None if workflow is None else workflow.budget,
        inputs={name: shown(value) for name, value in run.inputs.items()},
        outputs={name: shown(value) for name, value in (run.outputs or {}).items() if value is not None},
        graph=None if graph is None else graph_of_run(graph, run),
        timeline=None if graph is None else await read_timeline(store, run, graph, now=now),
        models=await models_of(store, run),
        sections=await gatherer.within("", graph),
    )


class _Gatherer:
    def __init__(self, store: Store, run: RunRecord, items: int) -> None:
        self._store = store
        self._run = run
        self._items = items
        self._left = MOST_NODES
        self._text = 0

    async def within(self, parent: str, graph: Graph | None = None) -> tuple[Section, ...]:
        """The steps at the top, in the order of the file, or within a node, in the order in which they began."""
        nodes = await self._store.nodes(self._run.run_id, parent)
        order = {step: number for number, step in enumerate(() if graph is None else graph.steps)}

        def rank(node: NodeRecord) -> tuple[int, float, int]:
            began = math.inf if node.started_at is None else node.started_at
            return order.get(StepId(node.node_id), len(order)), began, node.seq

        nodes.sort(key=rank)
        return tuple([await self._section(node, depth=parent.count(".")) for node in nodes])

    async def _section(self, node: NodeRecord, *, depth: int) -> Section:
        detail = (await node_detail(self._store, self._run, node)).as_dict()
        self._text += sum(map(len, _texts(detail)))
        self._left = 0 if self._text > MOST_TEXT else self._left - 1
        if node.counts is None:
            inner = detail["within"] and depth < _DEEPEST and self._left > 0
            within = await self.within(node.node_id) if inner else ()
            return Section(node=detail, within=within, omitted=len(detail["within"]) - len(within))
        counts = await self._store.count_items(self._run.run_id, node.node_id)
        query = ItemQuery(order=ItemOrder.FAILED, limit=max(0, min(self._items, self._left)))
        page = (await self._store.browse(self._run.run_id, NodeId(node.node_id), query)).items if query.limit else []
        items = [await self._section(item, depth=depth + 1) for item in page if self._left > 0]
        failed = counts.get(NodeStatus.FAILED, 0) - sum(item.node["status"] == NodeStatus.FAILED for item in items)
        return Section(
            node=detail, within=tuple(items), omitted=sum(counts.values()) - len(items), failed_omitted=failed
        )


def _texts(value: Json) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _texts(one)
