"""What happens next in a graph: a pure state machine. Events in, commands out; no I/O, no time, no waiting.

One of these serves one graph: that of a run, or the inner one of a `workflow` step or of one item of it. Whoever drives it
may do what it commands, or may only say what would come of that: so `plan` finds what a run would do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import cast

from flowllm.core.records import dataclass
from flowllm.core.types import (
    NODE_TRANSITIONS,
    NodeId,
    NodeStatus,
    OnError,
    Part,
    RunStatus,
    StepId,
    StepKind,
    Tolerance,
)
from flowllm.language.workflow import EmbedBody, Output, PythonBody, Step, Subgraph, WorkflowBody


@dataclass(frozen=True, slots=True, kw_only=True)
class RunBegun:
    """The run is owned and recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFinished:
    """A node that was started reached a terminal status, durably, or was suspended."""

    node: NodeId
    status: NodeStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeWoken:
    """What a suspended node waits for has come."""

    node: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class NothingWoken:
    """The answer to AllSuspended: the graph ends for now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StopAsked:
    """A person, a limit or a failure of the database wants the run to end; `status` is what it becomes."""

    status: RunStatus


Stimulus = RunBegun | NodeFinished | NodeWoken | NothingWoken | StopAsked


@dataclass(frozen=True, slots=True, kw_only=True)
class StartNode:
    """Its inputs are there: execute it."""

    node: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class EndNode:
    """It is not executed: record it as skipped or blocked, because of `cause`."""

    node: NodeId
    status: NodeStatus
    cause: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class StopSending:
    """Nothing new goes out; what is under way may finish."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AllSuspended:
    """Only suspended nodes are left: see whether one of them is woken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndRun:
    """Everything that could end has ended."""

    status: RunStatus


Command = StartNode | EndNode | StopSending | AllSuspended | EndRun


class GraphTopology:
    """What the graphs of all items have in common: who waits for whom."""

    def __init__(self, edges: Mapping[NodeId, Mapping[NodeId, Tolerance]], *, forgiven: Iterable[NodeId] = ()) -> None:
        """`edges` is node → what it waits for, acyclic; `forgiven` are the nodes under `on_error: continue`."""
        self.edges = edges
        self.forgiven = frozenset(forgiven)
        self.missing = {node: len(needs) for node, needs in edges.items()}
        self.pending = dict.fromkeys(edges, NodeStatus.PENDING)
        self.ready = [node for node, missing in self.missing.items() if missing == 0]
        self.dependents: dict[NodeId, list[NodeId]] = {}
        for node, needs in edges.items():
            for need in needs:
                self.dependents.setdefault(need, []).append(node)


class GraphState:
    """The nodes of one graph, and the outcome of each by its dependencies."""

    def __init__(self, topology: GraphTopology, *, fail_fast: bool = False) -> None:
        self.status = dict(topology.pending)
        self._ready = topology.ready
        self._edges = topology.edges
        self._forgiven = topology.forgiven
        self._fail_fast = fail_fast
        self._missing = dict(topology.missing)
        self._dependents = topology.dependents
        self._running = 0
        self._suspended = 0
        self._pending = len(self.status)
        self._cancelled = 0
        self._stop: RunStatus | None = None
        self._failed = False
        self._ended = False

    @property
    def paused(self) -> bool:
        """It has ended for now, with suspended nodes and for no other reason."""
        return self._ended and self._suspended > 0 and self._stop is RunStatus.PAUSED

    @property
    def complete(self) -> bool:
        """Every node has come to an outcome of its own."""
        return self._ended and not (self._pending or self._cancelled or self._suspended)

    def tolerated(self, node: NodeId) -> bool:
        """It failed, and its step says that the run goes on as if it had been skipped."""
        return self.status[node] is NodeStatus.FAILED and node in self._forgiven

    def handle(self, stimulus: Stimulus) -> list[Command]:
        """Take note of what happened; what is to be done about it, in order.

        Raises ValueError for a transition that the table does not have.
        """
        commands: list[Command] = []
        match stimulus:
            case RunBegun():
                for node in self._ready:
                    self._start(node, commands)
            case NodeFinished(node=node, status=status):
                self._running -= 1
                self._end(node, status, commands)
            case NodeWoken(node=node):
                self._start(node, commands)
            case NothingWoken():
                self._stop = self._stop or (None if self._running else RunStatus.PAUSED)
            case StopAsked(status=status):
                self._ask_stop(status, commands)
        self._end_run(commands)
        return commands

    def _verdict(self, node: NodeId) -> tuple[NodeStatus, NodeId] | None:
        skipped: NodeId | None = None
        for need, tolerance in self._edges[node].items():
            if tolerance is Tolerance.ANY:
                continue
            status = self.status[need]
            if status is NodeStatus.BLOCKED or (status is NodeStatus.FAILED and need not in self._forgiven):
                return NodeStatus.BLOCKED, need
            if status is not NodeStatus.SUCCEEDED and tolerance is Tolerance.REQUIRED and skipped is None:
                skipped = need
        return None if skipped is None else (NodeStatus.SKIPPED, skipped)

    def _end(self, node: NodeId, status: NodeStatus, commands: list[Command]) -> None:
        """The node is terminal; so may be, in turn, what waits for it."""
        ended = deque([(node, status)])
        while ended:
            node, status = ended.popleft()
            self._move(node, status)
            if status is NodeStatus.FAILED and node not in self._forgiven:
                self._failed = True
                if self._fail_fast:
                    self._ask_stop(RunStatus.FAILED, commands)
            if status in {NodeStatus.CANCELLED, NodeStatus.WAITING}:
                continue
            for dependent in self._dependents.get(node, ()):
                self._missing[dependent] -= 1
                if self._missing[dependent] == 0:
                    self._decide(dependent, ended, commands)

    def _decide(self, node: NodeId, ended: deque[tuple[NodeId, NodeStatus]], commands: list[Command]) -> None:
        """All that the node waits for is terminal: run it, skip it or block it."""
        if self._stop is not None:
            return
        verdict = self._verdict(node)
        if verdict is None:
            self._start(node, commands)
            return
        status, cause = verdict
        commands.append(EndNode(node=node, status=status, cause=cause))
        ended.append((node, status))

    def _start(self, node: NodeId, commands: list[Command]) -> None:
        if self._stop is not None:
            return
        self._move(node, NodeStatus.RUNNING)
        self._running += 1
        commands.append(StartNode(node=node))

    def _move(self, node: NodeId, status: NodeStatus) -> None:
        before = self.status[node]
        if status not in NODE_TRANSITIONS[before]:
            raise ValueError(f"node {node} cannot go from {before} to {status}")
        self._pending -= before is NodeStatus.PENDING
        self._suspended += (status is NodeStatus.WAITING) - (before is NodeStatus.WAITING)
        self._cancelled += status is NodeStatus.CANCELLED
        self.status[node] = status

    def _ask_stop(self, status: RunStatus, commands: list[Command]) -> None:
        if self._stop is None:
            self._stop = status
            commands.append(StopSending())

    def _end_run(self, commands: list[Command]) -> None:
        if self._ended or self._running:
            return
        if self._stop is None and self._suspended and not self._cancelled:
            commands.append(AllSuspended())
            return
        if self._stop is None and self._pending and not self._cancelled:
            return
        self._ended = True
        if self._pending:
            for node, status in self.status.items():
                if status is NodeStatus.PENDING:
                    self.status[node] = NodeStatus.CANCELLED
        if not self.complete:
            commands.append(EndRun(status=self._stop or RunStatus.INTERRUPTED))
        else:
            commands.append(EndRun(status=RunStatus.FAILED if self._failed else RunStatus.SUCCEEDED))


class CompiledGraph:
    """One graph, ready to be run any number of times."""

    def __init__(self, graph: Subgraph, steps: Mapping[StepId, Step] | None = None) -> None:
        """`steps` are those to run, where that is not all of them."""
        self.source = graph
        self.steps = graph.steps if steps is None else steps
        self.outputs: Mapping[str, Output] = graph.outputs
        self.topology = GraphTopology(
            {NodeId(name): cast("Mapping[NodeId, Tolerance]", step.edges) for name, step in self.steps.items()},
            forgiven=[
                NodeId(name)
                for name, step in self.steps.items()
                if step.on_error is OnError.CONTINUE and step.foreach is None
            ],
        )
        self.costly = any(step.kind is not StepKind.VALUE or step.foreach for step in self.steps.values())
        """Something in it is worth to be found again by a resume."""
        self._uses: dict[str, set[Part]] = {}
        uses = [one.uses for one in self.steps.values()] + [one.uses for one in self.outputs.values()]
        if graph.keep is not None:
            uses.append(graph.keep.uses)
        for used in uses:
            for step, parts in used.items():
                self._uses.setdefault(step, set()).update(parts)
        self._streamed = set(self._handed_on())
        self.recorded = frozenset(step for step, parts in self._uses.items() if not parts <= {Part.OUTPUT})
        """Steps of which some template looks at more than the output."""

    def looks_at(self, step: StepId, part: Part) -> bool:
        """Whether some template looks at that part of a step."""
        return part in self._uses.get(step, ())

    def streams(self, step: StepId) -> bool:
        """Whether something goes through the output of a foreach without holding it."""
        return step in self._streamed

    def _handed_on(self) -> Iterator[str]:
        for step in self.steps.values():
            yield from handed_on(step).values()
            items = None if step.foreach is None else step.foreach.items
            bare = getattr(None if items is None else items.tree, "bare", None)
            if bare is not None:
                yield bare


def handed_on(step: Step) -> dict[str, StepId]:
    """The arguments of a python step that are whole outputs of other steps, as they are."""
    if not isinstance(step.body, PythonBody) or step.body.arguments is None:
        return {}
    tree = step.body.arguments.tree
    if not isinstance(tree, dict):
        return {}
    return {name: leaf.bare for name, leaf in tree.items() if getattr(leaf, "bare", None) is not None}


def texts_together(step: Step) -> int:
    """How many texts of a step, or of one within it, share a request; 0 where none is embedded."""
    if isinstance(step.body, WorkflowBody):
        return max(map(texts_together, step.body.graph.steps.values()), default=0)
    return step.body.batch_size if isinstance(step.body, EmbedBody) else 0
