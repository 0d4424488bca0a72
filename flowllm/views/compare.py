"""What differs between two runs: steps by name, items by content and occurrence.

A step or an item has changed when its output or its status has; what has not ended in a run that goes on is left out. What
it was asked, by which model, what it took and what an error says may differ besides, and is told; alone it is no change.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from flowllm.core.errors import UsageError
from flowllm.core.records import dataclass
from flowllm.core.types import NODE_TERMINAL, Json, NodeId, RunStatus
from flowllm.datasets.base import content_of
from flowllm.explain.why import explain_parts
from flowllm.language.problems import nearest
from flowllm.storage.base import NodeRecord, RunRecord, Store
from flowllm.storage.comparing import ItemOutcome, ItemPair
from flowllm.views.differences import (
    NO_CHANGE,
    FieldChange,
    Figures,
    ItemCounts,
    Means,
    NodeChange,
    StepComparison,
    Verdict,
    field_changes,
)
from flowllm.views.runs import RunSummary, summary_of
from flowllm.views.steps import step_kinds

SHOWN = 20
"""Changes that are told in full, unless more are wanted."""
MOST_FIELDS = 20
"""Places at which two outputs differ that are told; two vectors differ at thousands."""
_PAGE = 500
_SAMPLE = 5
"""Items whose requests are compared, where those of all would have to be read."""
_NOT_GIVEN = frozenset({"config", "given", "mended"})
"""Options on record that nobody gave as such."""

Nodes = tuple[NodeRecord | None, NodeRecord | None]
"""In the earlier run, and in the later one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two runs."""

    base: RunSummary
    run: RunSummary
    given: tuple[FieldChange, ...]
    """Where the workflow's name, provider, inputs and options differ."""
    edited: tuple[str, ...]
    """Files of the later run that are not what they were."""
    steps: tuple[StepComparison, ...]
    changes: tuple[NodeChange, ...]
    """As many as were asked for: other statuses first, then other outputs, then what was added or removed."""
    total: int
    """How many there are."""

    @property
    def changed(self) -> bool:
        """An output or a status differs, that of a run too."""
        statuses = {self.base.status, self.run.status}
        differ = len(statuses) > 1 and RunStatus.RUNNING not in statuses
        return differ or any(step.verdict not in NO_CHANGE for step in self.steps)

    def as_dict(self) -> dict[str, Json]:
        """As JSON."""
        return {
            "base": self.base.as_dict(),
            "run": self.run.as_dict(),
            "changed": self.changed,
            "given": [one.as_dict() for one in self.given],
            "edited": list(self.edited),
            "steps": [step.as_dict() for step in self.steps],
            "changes": [change.as_dict() for change in self.changes],
            "total_changes": self.total,
        }


async def compare(
    store: Store, base: RunRecord, run: RunRecord, step: str | None = None, *, limit: int = SHOWN, now: float
) -> Comparison:
    """Hold a run against an earlier one, or one step of it with its items or with the steps within; `limit` changes are
    told in full; `now` wall clock seconds. Raises UsageError for a step that neither has."""
    comparer = _Comparer(store, base, run, limit)
    for nodes in await _paired(store, base, run, step):
        await comparer.step(nodes)
    return Comparison(
        base=await summary_of(store, base, now=now),
        run=await summary_of(store, run, now=now),
        given=field_changes(_given(base), _given(run)),
        edited=tuple(path for path, text in run.snapshot.items() if _kept(base, run, path) != text),
        steps=tuple(comparer.steps),
        changes=await comparer.changes(),
        total=comparer.total,
    )


def _given(run: RunRecord) -> dict[str, Json]:
    options = {name: value for name, value in run.options.items() if name not in _NOT_GIVEN}
    names = {"workflow": run.workflow, "provider": run.provider}
    return {**names, **{f"input {name}": value for name, value in run.inputs.items()}, **options}


def _kept(base: RunRecord, run: RunRecord, path: str) -> str | None:
    return base.snapshot.get(base.path if path == run.path else path)


async def _paired(store: Store, base: RunRecord, run: RunRecord, step: str | None) -> list[Nodes]:
    """What is compared, in the order of the later run's file."""
    sides = [await _nodes(store, one, step) for one in (base, run)]
    if step is not None and not any(sides):
        known = {node.node_id: None for one in (base, run) for node in await store.nodes(one.run_id)}
        raise UsageError(f"neither run has a record of a step `{step}`", hint=nearest(step, known))
    order = {} if step else {**step_kinds(run), **step_kinds(base)}
    names = dict.fromkeys(name for name in (*order, *sides[1], *sides[0]) if name in sides[0] or name in sides[1])
    return [(sides[0].get(name), sides[1].get(name)) for name in names]


async def _nodes(store: Store, run: RunRecord, step: str | None) -> dict[str, NodeRecord]:
    if step is None:
        return {node.node_id: node for node in await store.nodes(run.run_id)}
    node = await store.node(run.run_id, NodeId(step))
    if node is None:
        return {}
    within = [] if node.counts is not None else await store.nodes(run.run_id, node.node_id)
    return {one.node_id: one for one in (node, *within)}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """A change that may be told; an item's rows are read only if it is."""

    rank: int
    step: str
    nodes: Nodes = (None, None)
    places: ItemPair = (None, None)


_STATUS, _OUTPUT, _ALONE, _OPEN = range(4)


class _Comparer:
    """Two runs while they are gone through, step by step."""

    def __init__(self, store: Store, base: RunRecord, run: RunRecord, limit: int) -> None:
        self._store = store
        self._runs = (base, run)
        self._limit = limit
        self._found: list[_Found] = []
        self.steps: list[StepComparison] = []
        self.total = 0

    async def step(self, nodes: Nodes) -> None:
        """Compare a step."""
        before, after = nodes
        node = after or before
        assert node is not None  # noqa: S101 - a pair is of one that at least one run has
        items, means, why = None, Means(), _why(nodes)
        if before is not None and after is not None and before.counts is not None and after.counts is not None:
            verdict, items, why = await self._items(after.node_id, means)
            if before.status is not after.status and not self._open(nodes):
                verdict = Verdict.CHANGED
        else:
            verdict = Verdict.OPEN if self._open(nodes) else _verdict(nodes)
            if verdict not in NO_CHANGE:
                self.total += 1
                self._found.append(_Found(rank=_rank(nodes), step=node.node_id, nodes=nodes))
        figures = self._figures(nodes)
        self.steps.append(
            StepComparison(
                step=node.node_id,
                kind=node.kind,
                verdict=verdict,
                before=figures[0],
                after=figures[1],
                items=items,
                means=means.found(),
                why=why,
            )
        )

    def _open(self, nodes: Sequence[NodeRecord | ItemOutcome | None]) -> bool:
        """It has not ended in a run that goes on, or is not there yet."""
        return any(
            run.status is RunStatus.RUNNING and (node is None or node.status not in NODE_TERMINAL)
            for run, node in zip(self._runs, nodes, strict=True)
        )

    async def _items(self, parent: NodeId, means: Means) -> tuple[Verdict, ItemCounts, tuple[str, ...]]:
        base, run = self._runs
        mended = (_mended(base, parent), _mended(run, parent))
        unequal = await self._store.unequal_items(base.run_id, run.run_id, parent, mended)
        both = [pair for pair in unequal if None not in pair]
        found: dict[int, list[ItemPair]] = {rank: [] for rank in (_STATUS, _OUTPUT, _ALONE, _OPEN)}
        for first in range(0, len(both), _PAGE):
            pairs = both[first : first + _PAGE]
            for pair, rank in zip(pairs, await self._ranks(parent, pairs, means), strict=True):
                if rank is not None:
                    found[rank].append(pair)
            await asyncio.sleep(0)
        for pair in unequal:
            if None in pair:
                going = self._runs[pair.index(None)].status is RunStatus.RUNNING
                found[_OPEN if going else _ALONE].append(pair)
        for rank in (_STATUS, _OUTPUT, _ALONE):
            self.total += len(found[rank])
            self._found += [_Found(rank=rank, step=parent, places=pair) for pair in found[rank][: self._limit]]
        changed, added = len(found[_STATUS]) + len(found[_OUTPUT]), sum(pair[0] is None for pair in found[_ALONE])
        opened = sum(pair[1] is not None for pair in found[_OPEN])
        in_run = sum((await self._store.count_items(run.run_id, parent)).values())
        counts = ItemCounts(
            same=in_run - added - changed - opened, changed=changed, added=added, removed=len(found[_ALONE]) - added
        )
        samples = [_why(await self._read(parent, pair)) for pair in both[:_SAMPLE]]
        why = tuple(dict.fromkeys(word for words in samples for word in words))
        return (Verdict.CHANGED if counts.differ else Verdict.SAME), counts, why

    async def _ranks(self, parent: NodeId, pairs: Sequence[ItemPair], means: Means) -> list[int | None]:
        """How each pair differs; None: in its key alone."""
        sides = []
        for run, places in zip(self._runs, zip(*pairs, strict=True), strict=True):
            outcomes = await self._store.item_outcomes(run.run_id, parent, [place or 0 for place in places])
            sides.append({one.place: one for one in outcomes})
        ranks: list[int | None] = []
        for pair in pairs:
            before, after = (side.get(place or 0) for side, place in zip(sides, pair, strict=True))
            if self._open((before, after)):
                ranks.append(_OPEN)
                continue
            if before is None or after is None:  # it has gone since
                ranks.append(None)
                continue
            if before.output != after.output:
                means.see(before.output, after.output)
            differ = before.output != after.output and bool(field_changes(before.output, after.output))
            ranks.append(_STATUS if before.status is not after.status else _OUTPUT if differ else None)
        return ranks

    async def changes(self) -> tuple[NodeChange, ...]:
        """The first ones, in full."""
        first = sorted(self._found, key=lambda one: one.rank)[: self._limit]
        return tuple([await self._change(one) for one in first])

    async def _change(self, found: _Found) -> NodeChange:
        nodes = found.nodes if any(found.nodes) else await self._read(NodeId(found.step), found.places)
        before, after = nodes
        node = after or before
        assert node is not None  # noqa: S101 - as above
        fields = field_changes(*(None if one is None else one.output for one in nodes))
        figures = self._figures(nodes)
        return NodeChange(
            node=node.node_id,
            base_node=None if before is None else before.node_id,
            step=found.step,
            verdict=_verdict(nodes),
            item=node.item,
            before=figures[0],
            after=figures[1],
            fields=fields[:MOST_FIELDS],
            more_fields=max(0, len(fields) - MOST_FIELDS),
            why=_why(nodes),
        )

    async def _read(self, parent: NodeId, places: ItemPair) -> Nodes:
        found: list[NodeRecord | None] = []
        for run, place in zip(self._runs, places, strict=True):
            rows = [] if place is None else await self._store.items(run.run_id, parent, after=place - 1, limit=1)
            found.append(rows[0] if rows else None)
        return found[0], found[1]

    def _figures(self, nodes: Nodes) -> tuple[Figures | None, Figures | None]:
        before, after = (Figures.of(node, going=run.going) for node, run in zip(nodes, self._runs, strict=True))
        return before, after


def _rank(nodes: Nodes) -> int:
    before, after = nodes
    if before is None or after is None:
        return _ALONE
    return _OUTPUT if before.status is after.status else _STATUS


def _verdict(nodes: Nodes) -> Verdict:
    before, after = nodes
    if before is None or after is None:
        return Verdict.REMOVED if after is None else Verdict.ADDED
    same = before.status is after.status and not field_changes(before.output, after.output)
    return Verdict.SAME if same else Verdict.CHANGED


def _why(nodes: Nodes) -> tuple[str, ...]:
    before, after = nodes
    if before is None or after is None or before.key == after.key or not (before.parts and after.parts):
        return ()
    return tuple(word for word in explain_parts(before.parts, after.parts) if word != "reason")


def _mended(run: RunRecord, parent: NodeId) -> dict[str, str]:
    """Contents of the items that were mended, which are on record under those of what they took the place of; by place."""
    items: Mapping[str, tuple[str, Json]] = run.options.get("mended", {}).get(parent, {})
    return {place: content_of(item) for place, (_, item) in items.items()}
