"""Runs one graph from its first node to its last: does what its state machine commands.

A chain of nodes goes on in one task; where several nodes become ready at once the others get tasks of their own. What only
computes a value needs none: it is over before the next command.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from flowllm.core.clock import timestamp
from flowllm.core.errors import StepError, StoreError
from flowllm.core.records import dataclass, replace
from flowllm.core.types import Json, NodeId, NodeStatus, RunStatus, StepId, StepKind, Tolerance, WaitReason, child_id
from flowllm.language.sandbox_limits import rendered, take_turn
from flowllm.language.workflow import Keep, Output
from flowllm.runtime.graph_state import (
    AllSuspended,
    Command,
    CompiledGraph,
    EndNode,
    EndRun,
    GraphState,
    NodeFinished,
    NodeWoken,
    NothingWoken,
    RunBegun,
    StartNode,
    StopAsked,
    StopSending,
)
from flowllm.runtime.invocation import Earlier, GraphScope, NodeInvocation
from flowllm.runtime.node_runner import compute
from flowllm.runtime.run_context import RunContext
from flowllm.steps.base import LAZY, ItemPosition, Lazy
from flowllm.storage.base import NodeRecord, RunRecord

_COMPUTING: Final = 1000
"""What computing a node takes besides its templates, as operations of templates: some 200 nodes in a turn of the loop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphOutcome:
    """What a graph has come to."""

    status: RunStatus
    complete: bool
    """Every node has come to an outcome of its own; else the run stopped before, or nodes are suspended."""
    paused: bool
    """Suspended nodes are left, and nothing else."""
    outputs: dict[str, Json]
    error: Mapping[str, Json] | None = None
    """Of an output that could not be rendered."""
    failed: NodeRecord | None = None
    """The first node that failed and was not tolerated."""
    nodes: Sequence[NodeRecord] | None = None
    """Those of a graph at the top that are over, as they are on record, where these are all and each has its output."""


class GraphRunner:
    """One run of one graph."""

    def __init__(
        self,
        context: RunContext,
        graph: CompiledGraph,
        *,
        name: str,
        values: Values,
        scope: GraphScope,
        before: Mapping[NodeId, NodeRecord],
    ) -> None:
        """`name` is the node that the graph is within, empty at the top; `before` is what earlier attempts left."""
        self._context = context
        self._graph = graph
        self._name = name
        self._values = values
        self._scope = scope
        self._before = before
        self._position = ItemPosition(parent=name)
        self._state = GraphState(graph.topology, fail_fast=scope.fail_fast)
        self._failed: NodeRecord | None = None
        self._nodes: list[NodeRecord] = []
        self._ended: RunStatus | None = None
        self._over = asyncio.Event()
        self._began = context.clock.monotonic()
        self._suspended: dict[NodeId, NodeRecord] = {}
        self._later: deque[NodeId] = deque()
        """Nodes that compute a value in one of the next turns of the loop,"""
        self._computing_later = False
        """and whether there is a task for them."""
        scope.total = len(graph.steps)
        scope.graph = graph

    @property
    def state(self) -> GraphState:
        """The states of its nodes."""
        return self._state

    async def run(self, *, inline: bool = True) -> GraphOutcome:
        """Until everything that can end has ended. Does not raise.

        `inline`: the first chain of nodes goes in the task of the caller.
        """
        self._scope.token.listen(self, self._stop)
        first = self._follow(self._state.handle(RunBegun()), inline=inline)
        if first is not None:
            await self._chain(first)
        while self._ended is None:
            try:
                await self._over.wait()
            except asyncio.CancelledError:
                continue  # all that is under way is cancelled too, and ends at once
        self._scope.token.forget(self)
        for node in self._suspended:
            self._context.suspended.forget(child_id(self._name, StepId(node)))
        outputs, error = await self._outputs()
        status = self._ended
        if status is RunStatus.SUCCEEDED and error is not None:
            status = RunStatus.FAILED
        return GraphOutcome(
            status=status,
            complete=self._state.complete,
            paused=self._state.paused,
            outputs=outputs,
            error=error,
            failed=self._failed,
            nodes=self._nodes if self._state.complete and len(self._nodes) == len(self._graph.steps) else None,
        )

    async def _outputs(self) -> tuple[dict[str, Json], dict[str, Json] | None]:
        while True:
            with suppress(asyncio.CancelledError):  # as above: all that is paid for is to be shown
                return await rendered(lambda: outputs_of(self._graph.outputs, self._state, self._values.mapping))

    def _stop(self) -> None:
        self._follow(self._state.handle(StopAsked(status=self._scope.token.status or RunStatus.INTERRUPTED)))

    def _follow(self, commands: list[Command], *, inline: bool = True) -> NodeId | None:
        """Executes commands; `inline`: the first node to start is left to the caller."""
        first: NodeId | None = None
        left = deque(commands)
        while left:
            match left.popleft():
                case StartNode(node=node) if self._only_computes(node):
                    left += self._compute(node)
                case StartNode(node=node):
                    if first is None and inline:
                        first = node
                    else:
                        self._spawn(node)
                case EndNode(node=node, status=status, cause=cause):
                    self._end_without_work(node, status, cause)
                case StopSending():
                    self._context.failed(self._scope)
                case AllSuspended():
                    if self._name:  # it is started again when one of them is woken
                        self._follow(self._state.handle(NothingWoken()))
                    else:
                        self._context.tasks.spawn(self._look_for_woken(), lambda: None)
                case EndRun(status=status):
                    self._ended = status
                    self._over.set()
        return first

    async def _look_for_woken(self) -> None:
        try:
            woken = await self._context.suspended.look()
        except StoreError as error:
            self._context.broke(error)
            return
        if not woken:
            self._follow(self._state.handle(NothingWoken()))

    def _restart(self, node: NodeId) -> None:
        self._follow(self._state.handle(NodeWoken(node=node)), inline=False)

    def _only_computes(self, node: NodeId) -> bool:
        step = self._graph.steps[StepId(node)]
        return step.kind is StepKind.VALUE and step.foreach is None and step.save is None

    def _compute(self, node: NodeId) -> list[Command]:
        """Computes a node's value, now or in a later turn; what is to be done then."""
        if self._later or not take_turn(_COMPUTING):
            self._later.append(node)
            if not self._computing_later:
                self._computing_later = True
                self._context.tasks.spawn(self._compute_later(), self._drop_later)
            return []
        return self._computed(node)

    def _computed(self, node: NodeId) -> list[Command]:
        try:
            record = compute(self._context, self._invocation(node))
            if record is None:
                self._spawn(node)
                return []
            self._note(node, record)
        except Exception as error:  # noqa: BLE001 - a bug of flowllm must not leave the graph waiting for this node
            self._context.broke(error)
            return self._state.handle(NodeFinished(node=node, status=NodeStatus.CANCELLED))
        return self._state.handle(NodeFinished(node=node, status=record.status))

    async def _compute_later(self) -> None:
        while self._later:
            await asyncio.sleep(0)
            await self._context.writes.wait()
            while self._later and take_turn(_COMPUTING):
                self._follow(self._computed(self._later.popleft()), inline=False)
        self._computing_later = False

    def _drop_later(self) -> None:
        self._computing_later = False
        while self._later:
            self._dropped(self._later.popleft())

    def _spawn(self, node: NodeId) -> None:
        self._context.tasks.spawn(self._chain(node), lambda: self._dropped(node))

    def _dropped(self, node: NodeId) -> None:
        """Its task was cancelled before its first step, or broke."""
        if self._state.status[node] is NodeStatus.RUNNING:
            self._finished(node, NodeStatus.CANCELLED)

    async def _chain(self, node: NodeId | None) -> None:
        while node is not None:
            try:
                record = await self._context.execute(self._context, self._invocation(node))
                if record is not None and record.status is NodeStatus.WAITING:
                    self._suspended[node] = record
                    self._context.suspended.add(record.node_id, partial(self._restart, node))
                elif record is not None:
                    self._note(node, record)
            except Exception:  # a bug of flowllm must not leave the graph waiting for this node
                self._dropped(node)
                raise
            node = self._finished(node, NodeStatus.CANCELLED if record is None else record.status)

    def _finished(self, node: NodeId, status: NodeStatus) -> NodeId | None:
        return self._follow(self._state.handle(NodeFinished(node=node, status=status)))

    def _invocation(self, node: NodeId) -> NodeInvocation:
        step = self._graph.steps[StepId(node)]
        needs = self._graph.topology.edges[node]
        waits: dict[str, float] | None = (
            {WaitReason.DEPENDENCY: self._context.clock.monotonic() - self._began} if needs else None
        )
        earlier = self._suspended.get(node) or self._before.get(node)
        return NodeInvocation(
            node_id=child_id(self._name, StepId(node)),
            step=step,
            values=self._values.mapping,
            position=self._position,
            scope=self._scope,
            totals=self._scope.totals,
            before=None if earlier is None else Earlier(record=earlier),
            waits=waits,
        )

    def _note(self, node: NodeId, record: NodeRecord) -> None:
        """Templates may see it."""
        step = StepId(node)
        if not self._name and record.counts is None:  # the output of a foreach is in its items
            self._nodes.append(record)
        result = self._scope.results.pop(record.node_id, None)
        if result is None:
            self._values.add(step, record, seen=step in self._graph.recorded)
        else:
            self._values.add(step, replace(record, output=result.output), rows=result.rows, lazy=result.lazy)
        if record.status is NodeStatus.FAILED and node not in self._graph.topology.forgiven:
            self._failed = self._failed or record

    def _end_without_work(self, node: NodeId, status: NodeStatus, cause: NodeId) -> None:
        verb = {NodeStatus.BLOCKED: "failed", NodeStatus.SKIPPED: "was skipped"}[status]
        why = self._state.status[cause]
        if status is NodeStatus.BLOCKED and why is NodeStatus.BLOCKED:
            verb = "is blocked"
        elif status is NodeStatus.SKIPPED and why is NodeStatus.FAILED:
            verb = "failed"
        reason = f"{cause} {verb}"
        invocation = self._invocation(node)
        record = self._context.record(invocation, status, parts={"reason": reason})
        self._context.writes.enqueue(record)
        self._note(node, record)
        self._context.ended(record, invocation, reason=reason)


def run_values(run: RunRecord) -> dict[str, str]:
    """What `run` is in templates."""
    started = timestamp(run.started_at) or ""
    return {"id": run.run_id, "date": started[:10], "started_at": started}


class Values:
    """Grows as nodes end. A step that did not succeed has a record, but no output: it is undefined."""

    def __init__(self, inputs: Mapping[str, Json], run: Mapping[str, str]) -> None:
        self._steps: dict[str, Json] = {}
        self._all: dict[str, Json] = {"inputs": inputs, "run": run, "steps": self._steps}

    @property
    def mapping(self) -> Mapping[str, Json]:
        """As it is handed to templates; it must not be changed by them."""
        return self._all

    def add(
        self, step: StepId, node: NodeRecord, *, rows: Json = None, lazy: Lazy | None = None, seen: bool = True
    ) -> None:
        """A node ended. Of a foreach `rows` are its items, where a template looks at them; `seen`: a template looks at
        its record, which is kept else only of one that has no output, to say why."""
        succeeded = node.status is NodeStatus.SUCCEEDED
        if seen or not succeeded:
            record = self._steps[step] = _record(node)
            record["rows"] = rows
        if succeeded:
            self._all[step] = node.output
            if lazy is not None:
                self._all.setdefault(LAZY, {})[step] = lazy


def _record(node: NodeRecord) -> dict[str, Json]:
    ran = node.status is NodeStatus.SUCCEEDED
    return {
        "status": node.status.value,
        "error": node.error,
        "usage": node.usage.as_dict() if ran else None,
        "model": node.model or None,
        "cached": node.cached if ran else None,
        "cost_usd": node.cost_usd,
        "rows": None,
        "counts": None if node.counts is None else node.counts.as_dict(),
    }


def outputs_of(
    declared: Mapping[str, Output], state: GraphState, values: Mapping[str, Json]
) -> tuple[dict[str, Json], dict[str, Json] | None]:
    """Every output, null where a step that it needs has none; and the error of the last that could not be rendered."""
    outputs: dict[str, Json] = {}
    error: dict[str, Json] | None = None
    for name, output in declared.items():
        there = all(_there(state, NodeId(need), how) for need, how in output.edges.items())
        try:
            outputs[name] = output.value.render(values) if there else None
        except StepError as failure:
            outputs[name] = None
            error = {**failure.as_dict(), "output": name}
    return outputs, error


def keeps(keep: Keep, state: GraphState, values: Mapping[str, Json], outputs: Json) -> bool:
    """Whether a row whose graph has succeeded has a line in the output; not where a step that `keep` needs has no
    output. Raises TemplateFailed."""
    if not all(_there(state, need, how) for need, how in keep.edges.items()):
        return False
    return keep.when.condition({**values, "outputs": outputs})


def _there(state: GraphState, need: StepId | NodeId, tolerance: Tolerance) -> bool:
    """The step has come to what this reference to it puts up with."""
    node = NodeId(need)
    status = state.status.get(node)
    if status in {None, NodeStatus.CANCELLED, NodeStatus.WAITING}:
        return False
    if tolerance is Tolerance.REQUIRED:
        return status is NodeStatus.SUCCEEDED
    if tolerance is Tolerance.OPTIONAL:
        return status in {NodeStatus.SUCCEEDED, NodeStatus.SKIPPED} or state.tolerated(node)
    return True
