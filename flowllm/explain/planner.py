"""Walks a graph through the same state machine that carries it, with the memo's answers for those it has."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from flowllm.core.errors import InvalidInputs, StepError
from flowllm.core.types import Json, NodeId, NodeStatus, OnError, StepId, StepKind, Usage, child_id, is_within
from flowllm.explain.estimate import Estimate, together, unknown, wrong
from flowllm.explain.planned_items import foresee_items
from flowllm.explain.why import explain_parts
from flowllm.language.inputs import with_inputs
from flowllm.language.workflow import Step, WorkflowBody
from flowllm.runtime.compiled_graph import CompiledGraph
from flowllm.runtime.graph_state import EndNode, GraphState, NodeFinished, RunBegun, StartNode
from flowllm.runtime.resume_policy import refuses_truncated
from flowllm.runtime.values import Values, outputs_of, run_values
from flowllm.steps.base import Bound, Kind, Work
from flowllm.storage.base import MemoRecord, NodeRecord, RunRecord, Store

MOST_WITHIN = 30_000
"""Steps within steps, and items, that are looked into in all; the rest is reckoned from them, or unknown."""


@dataclass(slots=True)
class PlannedGraph:
    """One graph, as far as it can be foreseen."""

    state: GraphState
    values: Values
    nodes: dict[NodeId, Estimate] = field(default_factory=dict)
    """In the order in which they would start."""

    def waits(self, step: Step) -> list[str]:
        """The steps that it needs and of which nobody knows what they give."""
        return [need for need in step.edges if not self.nodes[NodeId(need)].known]


class Planner:
    """What the nodes of one run would do."""

    def __init__(
        self,
        run: RunRecord,
        *,
        backend: Mapping[StepKind, Kind],
        store: Store | None,
        use_memo: bool,
        refresh: tuple[str, ...],
        limit: int | None,
        fresh: Callable[[MemoRecord, float | None], bool],
    ) -> None:
        """`store` is None where there is no database yet: then nothing is cached. `limit` cuts every foreach; `fresh`
        says whether a record is young enough, given the seconds that it may be old."""
        self.run = run
        self._backend = backend
        self._store = store
        self._use_memo = use_memo
        self._refresh = refresh
        self._limit = limit
        self._fresh = fresh
        self._blueprints: dict[int, CompiledGraph] = {}
        self._left = MOST_WITHIN

    async def graph(self, blueprint: CompiledGraph, inputs: Mapping[str, Json], name: str) -> PlannedGraph:
        """Every node of a graph, which is within the node `name`."""
        walked = PlannedGraph(GraphState(blueprint.topology), Values(inputs, run_values(self.run)))
        waiting = deque(walked.state.handle(RunBegun()))
        while waiting:
            match waiting.popleft():
                case StartNode(node=node):
                    step = blueprint.steps[StepId(node)]
                    found = await self._considered(walked, step, child_id(name, step.id))
                    self._note(walked, node, step, found)
                    waiting += walked.state.handle(NodeFinished(node=node, status=found.status))
                case EndNode(node=node, status=status, cause=cause):
                    step = blueprint.steps[StepId(node)]
                    why = f"{cause} is {walked.state.status[cause]}"
                    ended = Estimate(kind=step.kind.value, state="skipped", why=why, status=status)
                    self._note(walked, node, step, ended)
                case _:
                    pass
        return walked

    def _note(self, walked: PlannedGraph, node: NodeId, step: Step, found: Estimate) -> None:
        walked.nodes[node] = found
        if not found.known:
            return
        kept = {} if found.answer is None else found.answer.answer
        record = NodeRecord(
            run_id=self.run.run_id,
            node_id=node,
            kind=step.kind,
            status=found.status,
            output=found.output,
            cached=found.answer is not None,
            model=kept.get("model", ""),
            usage=Usage(**kept.get("usage", {})),
            cost_usd=0.0 if kept else None,
            counts=found.counts,
        )
        walked.values.add(StepId(node), record, rows=found.rows)

    async def _considered(self, walked: PlannedGraph, step: Step, name: str) -> Estimate:
        values, waits = walked.values.mapping, walked.waits(step)
        if step.foreach is not None:
            return await foresee_items(
                step, values, name, waits=waits, one=self._one, limit=self._limit, grant=self._grant
            )
        if waits:
            return unknown(step, f"after {', '.join(waits)}")
        return await self._one(step, values, name)

    async def _one(self, step: Step, values: Mapping[str, Json], name: str) -> Estimate:
        """One node whose inputs are known; of a foreach, one item."""
        try:
            if step.when is not None and not step.when.condition(values):
                return Estimate(
                    kind=step.kind.value, state="skipped", why="its `when` is false", status=NodeStatus.SKIPPED
                )
            if isinstance(step.body, WorkflowBody):
                return await self._within(step, step.body, values, name)
            bound = self._backend[step.kind].bind(step, values)
        except StepError as error:
            return wrong(step, error.message)
        return await self._bound(bound, NodeId(name))

    async def _within(self, step: Step, body: WorkflowBody, values: Mapping[str, Json], name: str) -> Estimate:
        """The sums of a graph within a node. Raises StepError."""
        if self._left <= 0:
            size = body.graph.size
            return unknown(step, f"its {size:,} steps are not looked into: {MOST_WITHIN:,} others within steps are")
        self._left -= len(body.graph.steps)
        given = {} if body.arguments is None else body.arguments.render(values)
        try:
            inputs = with_inputs(body.graph.inputs, given)
        except InvalidInputs as error:
            return wrong(step, error.message)
        walked = await self.graph(self._blueprint(body), inputs, name)
        found = together(step.kind, list(walked.nodes.values()))
        why = next((f"{node}: {one.why}" for node, one in walked.nodes.items() if one.state == found.state), "")
        found = replace(found, why=why if found.state in {"send", "maybe", "error"} else "")
        failed = next((node for node, one in walked.nodes.items() if _fails(body.graph.steps, node, one)), None)
        if failed is not None:
            why = f"{failed} fails: {walked.nodes[failed].why}"
            return replace(found, state="error", why=why, status=NodeStatus.FAILED)
        if not found.known:
            return found
        outputs, problem = outputs_of(body.graph.outputs, walked.state, walked.values.mapping)
        if problem is not None:
            why = f"its output {problem['output']}: {problem['message']}"
            return replace(found, state="error", why=why, status=NodeStatus.FAILED)
        return replace(found, output=outputs)

    def _grant(self, wanted: int) -> int:
        """How many of so many items may still be looked at."""
        granted = max(0, min(wanted, self._left))
        self._left -= granted
        return granted

    def _blueprint(self, body: WorkflowBody) -> CompiledGraph:
        found = self._blueprints.get(id(body))
        if found is None:
            found = self._blueprints[id(body)] = CompiledGraph(body.graph)
        return found

    async def _bound(self, bound: Bound, node: NodeId) -> Estimate:
        """A node that does something itself."""
        step, work = bound.step, self._backend[bound.step.kind].work(bound)
        kind = step.kind.value
        if work.known:
            return Estimate(kind=kind, state="compute", output=work.output)
        answers = await self._remembered(node, step, work)
        if answers is not None:
            value = [answer.answer["value"] for answer in answers]
            return Estimate(
                kind=kind,
                state="cached",
                known=step.kind is not StepKind.EMBED,  # vectors are kept packed
                output=value if "samples" in bound.parts else value[0],
                answer=answers[0],
                cached=1,
            )
        sends = work.requests is None or work.requests > 0
        if work.requests is None:
            return unknown(step, "its function asks models, as often as it likes")
        return Estimate(
            kind=kind,
            state="send" if sends else "compute",
            why=await self._why_not(node, bound, work) if sends else "",
            known=False,
            model=work.model,
            requests=work.requests,
            input_tokens=work.input_tokens,
            output_tokens=work.output_tokens,
            cost_usd=work.cost_usd,
        )

    async def _remembered(self, node: NodeId, step: Step, work: Work) -> list[MemoRecord] | None:
        if self._store is None or not self._use_memo or self._anew(node) or not work.memo_keys:
            return None
        found = [await self._store.memo(key) for key in work.memo_keys]
        usable = [record for record in found if record is not None and self._usable(record, step)]
        return usable if len(usable) == len(found) else None

    def _anew(self, node: NodeId) -> bool:
        return is_within(node, self._refresh)

    def _usable(self, record: MemoRecord, step: Step) -> bool:
        refused = bool(record.answer.get("truncated")) and refuses_truncated(step)
        return self._fresh(record, step.cache.ttl) and not refused

    async def _why_not(self, node: NodeId, bound: Bound, work: Work) -> str:
        if self._anew(node):
            return "asked anew: --refresh"
        if not self._use_memo:
            return "--no-cache"
        if not work.memo_keys:
            return "`cache: false`"
        if self._store is None:
            return "no earlier run"
        before = await self._store.last_node(self.run.workflow, node, before_seq=None)
        if before is None:
            return "never answered before"
        changes = explain_parts(before.parts, bound.parts)
        return f"changed: {', '.join(changes)}" if changes else "its answer is no longer in the memo"


def _fails(steps: Mapping[StepId, Step], node: NodeId, found: Estimate) -> bool:
    """It fails the graph that it is in."""
    forgiven = steps[StepId(node)].on_error is OnError.CONTINUE
    return found.status is NodeStatus.FAILED and not forgiven
