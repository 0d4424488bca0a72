"""The graph of one run, or of a `workflow` step within it, with where each node stands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from flowllm.core.errors import UsageError
from flowllm.core.records import dataclass, field
from flowllm.core.types import (
    NODE_TERMINAL,
    ROW,
    Json,
    NodeId,
    NodeStatus,
    RunId,
    StepId,
    StepKind,
    child_id,
    step_path,
)
from flowllm.explain.graph import Graph
from flowllm.storage.base import NodeRecord, RunRecord, Store
from flowllm.views.standing import standing_nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphNode:
    """One node of a drawn graph."""

    id: str
    """The node's; of a step within a foreach of graphs its path, such as `posts.headline`, which stands for all items."""
    title: str
    kind: str
    generation: int
    foreach: bool
    inner: bool
    """It is a graph itself, and can be opened."""
    status: str
    """As on record; `pending` where nothing is."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """How many items have each status, of a foreach and of a step within one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphView:
    """Nodes in the order of the file, edges as (before, after, whether it is optional), and the chain that took longest."""

    nodes: tuple[GraphNode, ...]
    edges: tuple[tuple[str, str, bool], ...]
    critical_path: tuple[str, ...]

    def as_dict(self) -> dict[str, Json]:
        """As JSON."""
        return {
            "nodes": [
                {**{name: getattr(node, name) for name in node.__slots__}, "counts": dict(node.counts)}
                for node in self.nodes
            ],
            "edges": [list(edge) for edge in self.edges],
            "critical_path": list(self.critical_path),
        }


def graph_of_run(graph: Graph, run: RunRecord) -> Graph:
    """The graph that the run executes: with `--over`, the one step `row`, which has the workflow's within it."""
    if run.options.get("over") is None:
        return graph
    return Graph(
        name=graph.name,
        kinds={ROW: StepKind.WORKFLOW},
        edges=(),
        foreach=frozenset({ROW}),
        inner={ROW: graph},
        size=graph.size + 1,
    )


def graph_within(graph: Graph, node: str) -> Graph:
    """The graph of a `workflow` step, or of an item of one. Raises UsageError for what has none."""
    found: Graph | None = graph
    for step in step_path(node).split(".") if node else ():
        found = None if found is None else found.inner.get(StepId(step))
    if found is None:
        raise UsageError(f"{node} has no graph within it", hint="only steps of kind `workflow` have one")
    return found


def durations(nodes: Iterable[NodeRecord], now: float) -> dict[str, float]:
    """Seconds that nodes have taken so far, by id; those that have not begun are left out."""
    found: dict[str, float] = {}
    for node in nodes:
        if node.started_at is not None:
            end = end_of(node)
            found[node.node_id] = max(0.0, (now if end is None else end) - node.started_at)
    return found


def end_of(node: NodeRecord) -> float | None:
    """When it ended; None for one that goes on, whose row may have been written before (a foreach's is, with counts)."""
    return node.finished_at if node.status in NODE_TERMINAL else None


def critical_path(graph: Graph, parent: str, took: Mapping[str, float]) -> tuple[str, ...]:
    """The chain of nodes within `parent` that has taken longest, of those that have begun; none of a single step."""
    if len(graph.kinds) == 1:
        return ()
    steps = {step: child_id(parent, step) for step in graph.steps}
    path = graph.critical_path({step: took.get(node, 0.0) for step, node in steps.items()})
    return tuple(steps[step] for step in path if steps[step] in took)


def graph_view(
    graph: Graph,
    parent: str,
    nodes: Sequence[NodeRecord],
    *,
    now: float,
    counts: Mapping[str, Mapping[NodeStatus, int]] | None = None,
) -> GraphView:
    """`nodes` are those within `parent` that are on record, `now` wall clock seconds; `counts` of items by the node's id."""
    known, ids = {node.node_id: node for node in nodes}, {step: child_id(parent, step) for step in graph.steps}
    generation = {step: number for number, steps in enumerate(graph.generations()) for step in steps}
    numbers = {node: {status.value: count for status, count in of.items()} for node, of in (counts or {}).items()}

    def drawn(step: StepId) -> GraphNode:
        node, found = ids[step], numbers.get(ids[step], {})
        return GraphNode(
            id=node,
            title=step,
            kind=graph.kinds[step].value,
            generation=generation[step],
            foreach=step in graph.foreach,
            inner=step in graph.inner,
            status=known[node].status.value if node in known else _status_of(found),
            counts=found,
        )

    return GraphView(
        nodes=tuple(drawn(step) for step in graph.steps),
        edges=tuple((ids[edge.before], ids[edge.after], edge.optional) for edge in graph.edges),
        critical_path=critical_path(graph, parent, durations(nodes, now)),
    )


_OF_MANY = ("running", "waiting", "failed", "cancelled", "blocked", "succeeded", "skipped")


def _status_of(counts: Mapping[str, int]) -> str:
    """One word for many nodes: that of those which need looking at most."""
    return next((status for status in _OF_MANY if counts.get(status)), NodeStatus.PENDING.value)


async def read_graph(store: Store, run: RunRecord, graph: Graph, within: str = "", *, now: float) -> GraphView:
    """The graph of `run`, of which `graph` is the workflow's, or of its node `within`. Raises UsageError for a node that has none."""
    inner = graph_within(graph_of_run(graph, run), within)
    if within and within == step_path(within) and _repeated(graph_of_run(graph, run), within):
        steps = await store.count_within(run.run_id, NodeId(within))
        return graph_view(inner, within, (), now=now, counts={child_id(within, step): of for step, of in steps.items()})
    nodes = standing_nodes(run, await store.nodes(run.run_id, within))
    counts = await foreach_counts(store, run.run_id, inner, nodes)
    return graph_view(inner, within, nodes, now=last_moment(run, nodes, now), counts=counts)


def last_moment(run: RunRecord, nodes: Iterable[NodeRecord], now: float) -> float:
    """Until when the run goes on: `now`, or when it ended; of one whose process died the last time on record of these nodes."""
    if run.going or run.finished_at is not None:
        return now if run.finished_at is None else run.finished_at
    return max(
        (time for node in nodes for time in (node.started_at, node.finished_at) if time is not None),
        default=run.started_at,
    )


def _repeated(graph: Graph, node: str) -> bool:
    """Whether a path without numbers leads through a foreach."""
    *above, last = node.split(".")
    return StepId(last) in graph_within(graph, ".".join(above)).foreach


async def foreach_counts(
    store: Store, run_id: RunId, graph: Graph, nodes: Iterable[NodeRecord]
) -> dict[str, dict[NodeStatus, int]]:
    """How many items of each foreach among these nodes have each status; `skipped` and so on only where there are any."""
    found: dict[str, dict[NodeStatus, int]] = {}
    for node in nodes:
        if node.counts is not None or _step_of(node) in graph.foreach:
            found[node.node_id] = dict(Counter(await store.count_items(run_id, node.node_id)))
    return found


def _step_of(node: NodeRecord) -> StepId:
    return StepId(node.node_id.rpartition(".")[2])
