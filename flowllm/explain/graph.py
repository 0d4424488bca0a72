"""The graph of a workflow's steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from graphlib import TopologicalSorter
from itertools import chain, pairwise

from flowllm.core.records import dataclass, field
from flowllm.core.types import StepId, StepKind, Tolerance
from flowllm.language.workflow import Subgraph, WorkflowBody

MOST_EDGES = 20_000_000
"""Edges that are gone along for the width, some seconds; what is found by then is an upper bound."""
LARGEST = 1000
"""Steps of graphs within a graph that are looked into; what is beyond stays one step each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """That `after` waits for `before`."""

    before: StepId
    after: StepId
    tolerance: Tolerance = Tolerance.REQUIRED

    @property
    def optional(self) -> bool:
        """`after` also runs if `before` did not succeed."""
        return self.tolerance is not Tolerance.REQUIRED


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """Steps and edges, acyclic. Every answer keeps the order of the workflow's file."""

    name: str
    kinds: Mapping[StepId, StepKind]
    """Every step with its kind."""
    edges: tuple[Edge, ...]

    foreach: frozenset[StepId] = frozenset()
    """The steps that run once an item."""
    asks: frozenset[StepId] = frozenset()
    """Python steps whose function asks models."""
    inner: Mapping[StepId, Graph] = field(default_factory=dict)
    """The graphs of `workflow` steps, as many as LARGEST lets in."""
    size: int = 0
    """Steps with all those within."""

    @classmethod
    def of(cls, workflow: Subgraph) -> Graph:
        """The graph of a checked workflow."""
        return _built(workflow, {})

    @property
    def steps(self) -> tuple[StepId, ...]:
        """All steps."""
        return tuple(self.kinds)

    def incoming(self) -> dict[StepId, list[Edge]]:
        """The edges into each step."""
        found: dict[StepId, list[Edge]] = {step: [] for step in self.kinds}
        for edge in self.edges:
            found[edge.after].append(edge)
        return found

    def generations(self) -> tuple[tuple[StepId, ...], ...]:
        """Steps by the length of the longest chain that leads to them: what could run at the same time."""
        order = {step: number for number, step in enumerate(self.kinds)}
        sorter = TopologicalSorter({step: [edge.before for edge in into] for step, into in self.incoming().items()})
        sorter.prepare()
        found: list[tuple[StepId, ...]] = []
        while sorter:
            ready = sorter.get_ready()
            found.append(tuple(sorted(ready, key=order.__getitem__)))
            sorter.done(*ready)
        return tuple(found)

    def width(self) -> int:
        """The most steps that can ever run at the same time: so many chains go through all steps (Dilworth 1950)."""
        numbers = {step: number for number, step in enumerate(chain.from_iterable(self.generations()))}
        after: list[list[int]] = [[] for _ in numbers]
        for edge in self.edges:
            after[numbers[edge.before]].append(numbers[edge.after])
        return fewest_chains(after)

    def critical_path(self, durations: Mapping[StepId, float]) -> tuple[StepId, ...]:
        """The chain of steps that takes longest: the run cannot be faster. Seconds; a missing step takes 0."""
        incoming = self.incoming()
        best: dict[StepId, tuple[float, int]] = {}
        came_from: dict[StepId, StepId | None] = {}
        for generation in self.generations():
            for step in generation:
                earlier = [edge.before for edge in incoming[step]]
                last = max(earlier, key=best.__getitem__, default=None)
                took, length = (0.0, 0) if last is None else best[last]
                best[step] = (took + durations.get(step, 0.0), length + 1)
                came_from[step] = last
        path: list[StepId] = []
        at = max(best, key=best.__getitem__, default=None)
        while at is not None:
            path.append(at)
            at = came_from[at]
        return tuple(reversed(path))


def _built(workflow: Subgraph, known: dict[int, Graph]) -> Graph:
    """The graph; one that several steps share is built once."""
    steps = workflow.steps.values()
    inner, size = {}, len(steps)
    for step in steps:
        if isinstance(step.body, WorkflowBody):
            graph = step.body.graph
            if id(graph) not in known:
                known[id(graph)] = _built(graph, known)
            if size + known[id(graph)].size <= LARGEST + len(steps):
                inner[step.id] = known[id(graph)]
                size += inner[step.id].size
    return Graph(
        name=workflow.name,
        kinds={step.id: step.kind for step in steps},
        edges=tuple(
            Edge(before=before, after=step.id, tolerance=tolerance)
            for step in steps
            for before, tolerance in step.edges.items()
        ),
        foreach=frozenset(step.id for step in steps if step.foreach is not None),
        asks=frozenset(step.id for step in steps if getattr(step.body, "asks", None) is not None),
        inner=inner,
        size=size,
    )


def fewest_chains(after: Sequence[Sequence[int]], *, most_edges: int = MOST_EDGES) -> int:
    """How many paths, which may cross, it takes to go through every node of an acyclic graph; `after` are the nodes that
    follow on each, by numbers that rise along every edge.

    A node that follows on another saves a path, once each: a matching of nodes with later ones. It is found as a flow
    through the edges themselves, without their transitive closure (Ntafos and Hakimi 1979). Each node is there twice: as
    one that is followed (`n`), and as one that follows (`size + n`), from which flow may go on as if it were followed.
    """
    size = len(after)
    onward = [[size + one for one in following] for following in after] + [[node] for node in range(size)]
    flows: list[dict[int, int]] = [{} for _ in onward]
    """What flows into each node, by where it comes from: it can be taken back."""
    free = set(range(size, 2 * size))
    """Nodes that follow on nothing yet."""
    looked = 0

    def edges_of(node: int) -> Iterator[int]:
        """Where flow can go from a node: first to a free node, then to the nearest."""
        nonlocal looked
        edges = [*onward[node], *(one for one, flow in flows[node].items() if flow)]
        looked += len(edges)
        return iter(sorted(edges, key=lambda one: (one not in free, one)))

    def saves_path(start: int, seen: bytearray) -> bool:
        """Send flow from a node that nothing follows to a free one, along what no search of this round has seen."""
        path, edges = [start], [edges_of(start)]
        while path:
            node = next((one for one in edges[-1] if not seen[one]), None)
            if node is None:
                path.pop()
                edges.pop()
                continue
            seen[node] = 1
            path.append(node)
            edges.append(edges_of(node))
            if node in free:
                free.remove(node)
                for here, there in pairwise(path):
                    if flows[here].get(there):
                        flows[here][there] -= 1
                    else:
                        flows[there][here] = flows[there].get(here, 0) + 1
                return True
        return False

    ends = list(range(size))
    while looked < most_edges:
        seen = bytearray(2 * size)
        left = [node for node in ends if not saves_path(node, seen)]
        if len(left) == len(ends):
            break
        ends = left
    return len(ends)
