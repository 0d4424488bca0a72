"""Drives the state machine of a graph without doing anything: stored answers are its outcomes, others are unknown."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from flowllm.calls.response_cache import fresh
from flowllm.core.errors import StepError
from flowllm.core.types import Json, NodeId, NodeStatus, RunStatus, StepId, StepKind, child_id, is_within
from flowllm.explain.estimate import Estimate, combined, failing, skipped, unknown
from flowllm.explain.planned_items import estimate_items
from flowllm.explain.why import explain_parts
from flowllm.language.workflow import Step, WorkflowBody
from flowllm.runtime.compiled_graph import CompiledGraph
from flowllm.runtime.graph_state import EndNode, EndRun, GraphState, NodeFinished, RunBegun, StartNode
from flowllm.runtime.options import RunOptions
from flowllm.runtime.resume_policy import refuses_truncated
from flowllm.runtime.subgraph_runner import graph_inputs
from flowllm.runtime.values import Values, outputs_of, run_values
from flowllm.steps.base import Bound, StepRunner, Work
from flowllm.storage.base import MemoRecord, RunRecord, Store

MOST_WITHIN = 30_000
"""Steps within steps, and items, that are looked into in all; the rest is estimated from them, or unknown."""


@dataclass(slots=True)
class PlannedGraph:
    """One graph, as far as it can be told without doing anything."""

    compiled: CompiledGraph
    state: GraphState
    values: Values
    nodes: dict[NodeId, Estimate] = field(default_factory=dict)
    """In the order in which they would start."""
    status: RunStatus = RunStatus.SUCCEEDED

    def waits(self, step: Step) -> list[StepId]:
        """The steps that it needs and of which nobody knows what they give."""
        return [need for need in step.edges if not self.nodes[NodeId(need)].known]

    def failure(self) -> str | None:
        """Why the graph fails, if that is certain."""
        if self.status is not RunStatus.FAILED:
            return None
        forgiven = self.compiled.topology.forgiven
        failed = (one for one, found in self.nodes.items() if found.status is NodeStatus.FAILED and one not in forgiven)
        node = next(failed)
        return f"{node} fails: {self.nodes[node].why}"


class Planner:
    """What the nodes of one run would do."""

    def __init__(
        self, run: RunRecord, options: RunOptions, *, kinds: Mapping[StepKind, StepRunner], store: Store | None
    ) -> None:
        """`store` is None where there is no database yet: then nothing is cached."""
        self.run = run
        self._options = options
        self._kinds = kinds
        self._store = store
        self._compiled: dict[int, CompiledGraph] = {}
        self._left = MOST_WITHIN

    async def graph(self, compiled: CompiledGraph, inputs: Mapping[str, Json], name: str = "") -> PlannedGraph:
        """Every node of a graph, which is within the node `name`."""
        plan = PlannedGraph(compiled, GraphState(compiled.topology), Values(inputs, run_values(self.run)))
        commands = deque(plan.state.handle(RunBegun()))
        while commands:
            match commands.popleft():
                case StartNode(node=node):
                    step = compiled.steps[StepId(node)]
                    found = await self._step(plan, step, child_id(name, step.id))
                    self._add(plan, node, found)
                    commands += plan.state.handle(NodeFinished(node=node, status=found.status))
                case EndNode(node=node, status=status, cause=cause):
                    step, why = compiled.steps[StepId(node)], f"{cause} is {plan.state.status[cause]}"
                    found = skipped(step, why, status)
                    # what is skipped is blocked instead if another step that it needs fails
                    self._add(plan, node, replace(found, known=status is NodeStatus.BLOCKED or not plan.waits(step)))
                case EndRun(status=status):
                    plan.status = status
                case _:
                    pass
        return plan

    def _add(self, plan: PlannedGraph, node: NodeId, found: Estimate) -> None:
        plan.nodes[node] = found
        if found.known:
            plan.values.add(StepId(node), found.record(self.run.run_id, node), rows=found.rows)

    async def _step(self, plan: PlannedGraph, step: Step, name: NodeId) -> Estimate:
        values = plan.values.mapping
        waits = plan.waits(step)
        if step.foreach is not None:
            limit = self._options.limit
            return await estimate_items(
                step, values, name, waits=waits, estimate=self._node, limit=limit, grant=self._grant
            )
        if waits:
            return unknown(step, f"after {', '.join(waits)}")
        return await self._node(step, values, name)

    def _grant(self, wanted: int) -> int:
        """How many of so many items may still be looked at."""
        granted = max(0, min(wanted, self._left))
        self._left -= granted
        return granted

    async def _node(self, step: Step, values: Mapping[str, Json], name: NodeId) -> Estimate:
        """One node whose inputs are known; of a foreach, one item."""
        try:
            if isinstance(step.body, WorkflowBody):
                inputs = graph_inputs(step, values)
                if inputs is not None:
                    return await self._subgraph(step, step.body, inputs, name)
            elif step.when is None or step.when.condition(values):
                return await self._bound(self._kinds[step.kind].bind(step, values), name)
        except StepError as error:
            return failing(step, error.message)
        return skipped(step, "its `when` is false")

    async def _subgraph(self, step: Step, body: WorkflowBody, inputs: Mapping[str, Json], name: NodeId) -> Estimate:
        if self._left <= 0:
            size = body.graph.size
            return unknown(step, f"its {size:,} steps are not looked into: {MOST_WITHIN:,} others within steps are")
        self._left -= len(body.graph.steps)
        if id(body) not in self._compiled:
            self._compiled[id(body)] = CompiledGraph(body.graph)
        plan = await self.graph(self._compiled[id(body)], inputs, name)
        found = combined(step.kind, list(plan.nodes.values()))
        if found.state in {"send", "maybe", "error"}:
            first = next(node for node, one in plan.nodes.items() if one.state == found.state)
            found = replace(found, why=f"{first}: {plan.nodes[first].why}")
        failure = plan.failure()
        if failure is None and found.known:
            outputs, problem = outputs_of(body.graph.outputs, plan.state, plan.values.mapping)
            if problem is None:
                return replace(found, output=outputs)
            failure = f"its output {problem['output']}: {problem['message']}"
        return found if failure is None else replace(found, state="error", why=failure, status=NodeStatus.FAILED)

    async def _bound(self, bound: Bound, name: NodeId) -> Estimate:
        """A node that does something itself."""
        step, work = bound.step, self._kinds[bound.step.kind].work(bound)
        if work.known:
            return Estimate(kind=step.kind, state="compute", output=work.output)
        answers = await self._stored(name, step, work)
        if answers:
            value = [answer.answer["value"] for answer in answers]
            return Estimate(
                kind=step.kind,
                state="cached",
                known=step.kind is not StepKind.EMBED,  # vectors are kept packed
                output=value if "samples" in bound.parts else value[0],
                answer=answers[0],
                cached=1,
            )
        if work.requests is None:
            return unknown(step, "its function asks models, as often as it likes")
        return Estimate(
            kind=step.kind,
            state="send" if work.requests else "compute",
            why=await self._why_sent(name, bound, work) if work.requests else "",
            known=False,
            model=work.model,
            requests=work.requests,
            input_tokens=work.input_tokens,
            output_tokens=work.output_tokens,
            cost_usd=work.cost_usd,
        )

    async def _stored(self, name: NodeId, step: Step, work: Work) -> list[MemoRecord]:
        """Its answers, if all of them are in the cache and may be used."""
        if self._store is None or self._options.no_cache or self._refreshes(name):
            return []
        found = [await self._store.memo(key) for key in work.memo_keys]
        usable = [record for record in found if record is not None and self._usable(record, step)]
        return usable if len(usable) == len(found) else []

    def _refreshes(self, name: NodeId) -> bool:
        return is_within(name, self._options.refresh)

    def _usable(self, record: MemoRecord, step: Step) -> bool:
        refused = bool(record.answer.get("truncated")) and refuses_truncated(step)
        return fresh(record, step.cache.ttl, now=self.run.started_at) and not refused

    async def _why_sent(self, name: NodeId, bound: Bound, work: Work) -> str:
        if self._refreshes(name):
            return "asked anew: --refresh"
        if self._options.no_cache:
            return "--no-cache"
        if not work.memo_keys:
            return "`cache: false`"
        if self._store is None:
            return "no earlier run"
        before = await self._store.last_node(self.run.workflow, name, before_seq=None)
        if before is None:
            return "never answered before"
        changes = explain_parts(before.parts, bound.parts)
        return f"changed: {', '.join(changes)}" if changes else "its answer is no longer in the cache"
