"""Drives the state machines of graphs and foreaches without doing anything: stored answers are the outcomes, what stands in for
others is as long as they may be, and the first items of a foreach stand for the rest."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Final

from flowllm.calls.stored_answer import usable_answer
from flowllm.core.errors import StepError
from flowllm.core.records import dataclass, field, replace
from flowllm.core.request import Answer
from flowllm.core.types import Json, NodeId, NodeStatus, RunStatus, StepId, StepKind, child_id, is_within
from flowllm.explain.asking import AskingNodes, Known
from flowllm.explain.estimate import Estimate, combined, failing, skipped, unknown
from flowllm.explain.load import IDLE, Calls, Parts
from flowllm.explain.past import Past
from flowllm.explain.plan_items import PlannedItems
from flowllm.explain.rendered import Shown
from flowllm.explain.seen_values import SeenValues
from flowllm.explain.span import Span
from flowllm.explain.stand_in import Case, StandIns
from flowllm.explain.why import explain_parts
from flowllm.language.workflow import Step, WorkflowBody
from flowllm.runtime.graph_runner import Values, outputs_of, run_values
from flowllm.runtime.graph_state import CompiledGraph, EndNode, EndRun, GraphState, NodeFinished, RunBegun, StartNode
from flowllm.runtime.options import RunOptions
from flowllm.runtime.resume_policy import refuses_truncated
from flowllm.steps.base import Bound, StepRunner, WorkEstimate
from flowllm.storage.base import RunRecord, Store

MOST_WITHIN = 30_000
"""Steps within steps, and items, that are looked into in all; the rest is estimated from them, or unknown."""
_FORGETS: Final = ContextVar("_FORGETS", default=False)
"""What is stored does not count for the nodes that are looked into here: others are at the same time."""


@dataclass(slots=True, kw_only=True)
class PlannedGraph:
    """One graph, as far as it can be told without doing anything."""

    compiled: CompiledGraph
    state: GraphState
    values: tuple[Values, Values, Values]
    """In each case."""
    after: tuple[str, ...] = ()
    """Steps outside of it that its inputs wait for."""
    nodes: dict[NodeId, Estimate] = field(default_factory=dict)
    """In the order in which they would start."""
    status: RunStatus = RunStatus.SUCCEEDED

    def seen(self, step: Step) -> SeenValues:
        """What the templates of a step see."""
        waits = [need for need in step.edges if not self.nodes[NodeId(need)].known]
        names = self.after if not waits else ()
        least, likely, most = (values.mapping for values in self.values)
        vague = frozenset({"inputs"} if self.after else ())
        return SeenValues(cases=(least, likely, most), waits=(*waits, *names), vague=vague)

    def failure(self) -> str | None:
        """Why the graph fails, if that is certain."""
        if self.status is not RunStatus.FAILED:
            return None
        forgiven = self.compiled.topology.forgiven
        failed = (one for one, found in self.nodes.items() if found.status is NodeStatus.FAILED and one not in forgiven)
        node = next(failed)
        return f"{node} fails: {self.nodes[node].why}"

    @property
    def load(self) -> Parts:
        """Its requests, as its edges have them."""
        return Parts(
            parts={name: node.load for name, node in self.nodes.items()},
            needs={name: list(self.compiled.steps[StepId(name)].edges) for name in self.nodes},
        )


class Planner:
    """What the nodes of one run would do."""

    def __init__(
        self,
        run: RunRecord,
        options: RunOptions,
        *,
        kinds: Mapping[StepKind, StepRunner],
        store: Store | None,
        known: Known | None = None,
        shown: Shown | None = None,
    ) -> None:
        """`store` is None where there is no database yet: then nothing is cached. `shown` gets the prompts of one step."""
        self._shown = shown
        self.run = run
        self._options = options
        self._kinds = kinds
        self._store = store
        self._asking = AskingNodes(known or Known(), None if store is None else Past(store, run.workflow))
        self._compiled: dict[int, CompiledGraph] = {}
        self._left = MOST_WITHIN

    async def graph(
        self,
        compiled: CompiledGraph,
        inputs: Sequence[Mapping[str, Json]],
        name: str = "",
        *,
        after: tuple[str, ...] = (),
    ) -> PlannedGraph:
        """Every node of a graph, which is within the node `name`; `inputs` in each case, which wait for the steps `after`."""
        run = run_values(self.run)
        least, likely, most = (Values(given, run) for given in inputs)
        state = GraphState(compiled.topology)
        plan = PlannedGraph(compiled=compiled, state=state, values=(least, likely, most), after=after)
        commands = deque(plan.state.handle(RunBegun()))
        while commands:
            match commands.popleft():
                case StartNode(node=node):
                    step = compiled.steps[StepId(node)]
                    found = await self.step(step, plan.seen(step), child_id(name, step.id))
                    self._add(plan, node, found)
                    commands += plan.state.handle(NodeFinished(node=node, status=found.status))
                case EndNode(node=node, status=status, cause=cause):
                    step, why = compiled.steps[StepId(node)], f"{cause} is {plan.state.status[cause]}"
                    found = skipped(step, why, status)
                    # what is skipped is blocked instead if another step that it needs fails
                    waits = plan.seen(step).waits
                    self._add(plan, node, replace(found, known=status is NodeStatus.BLOCKED or not waits))
                case EndRun(status=status):
                    plan.status = status
                case _:
                    pass
        return plan

    def _add(self, plan: PlannedGraph, node: NodeId, found: Estimate) -> None:
        plan.nodes[node] = found
        if found.known or found.cases is not None:
            for case, values in zip(Case, plan.values, strict=True):
                values.add(StepId(node), found.record(self.run.run_id, node, case=case), rows=found.rows)

    async def step(self, step: Step, seen: SeenValues, name: NodeId) -> Estimate:
        """One step, with all its items."""
        if step.foreach is not None:
            return await PlannedItems(step, seen, name, self).estimate(limit=self._options.limit)
        return await self.node(step, seen, name)

    def grant(self, wanted: int) -> int:
        """How many of so many items may still be looked at."""
        granted = max(0, min(wanted, self._left))
        self._left -= granted
        return granted

    @property
    def past(self) -> Past | None:
        """Earlier runs, where there is a database."""
        return self._asking.past

    @property
    def stand_ins(self) -> StandIns:
        """What stands for outputs that nobody knows."""
        return self._asking.stand_ins

    async def anew(self, step: Step, seen: SeenValues, name: NodeId) -> Estimate:
        """As `node`, as if nothing were stored."""
        before = _FORGETS.set(True)
        try:
            return await self.node(step, seen, name)
        finally:
            _FORGETS.reset(before)

    async def node(self, step: Step, seen: SeenValues, name: NodeId) -> Estimate:
        """One node; of a foreach, one item. All that it waits for has something that stands in for it."""
        unsure = step.when is not None and seen.unsure(step.when)
        try:
            if step.when is not None and not unsure and not step.when.condition(seen.likely):
                return replace(skipped(step, "its `when` is false"), known=not seen.waits)
            always = replace(step, when=None)
            if isinstance(step.body, WorkflowBody):
                found = await self._subgraph(always, step.body, seen, name)
            elif seen.waits:
                found = await self._bounded(always, seen, name)
            else:
                bound = self._kinds[step.kind].bind(step, seen.likely)
                if self._shown is not None:
                    self._shown.prompt(name, bound)
                found = await self._bound(bound, name)
        except StepError as error:
            found = failing(step, error.message)
        if seen.waits and found.status is NodeStatus.FAILED:  # if it comes to that
            found = unknown(step, f"after {', '.join(seen.waits)}; {found.why}")
        return await self._perhaps(found, name) if unsure else found

    async def _perhaps(self, found: Estimate, name: NodeId) -> Estimate:
        """Of a node whose `when` depends on what is not known: at least nothing, and as often as it was so before."""
        share = None if self.past is None else await self.past.share_run(name)
        likely = 1.0 if share is None else share
        load = found.load
        if isinstance(load, Calls):
            load = replace(load, count=load.count * likely)
        times = found.times(Span.between(0.0, likely, 1.0), load=load)
        return replace(times, state="maybe", known=False, why=found.why)

    async def _subgraph(self, step: Step, body: WorkflowBody, seen: SeenValues, name: NodeId) -> Estimate:
        if self._left <= 0:
            size = body.graph.size
            return unknown(step, f"its {size:,} steps are not looked into: {MOST_WITHIN:,} others within steps are")
        self._left -= len(body.graph.steps)
        after = seen.waits
        try:
            given = seen.inputs(step)
        except StepError:
            if not after:
                raise
            return unknown(step, f"after {', '.join(after)}")
        if id(body) not in self._compiled:
            self._compiled[id(body)] = CompiledGraph(body.graph)
        plan = await self.graph(self._compiled[id(body)], given, name, after=after)
        found = replace(
            combined(step.kind, list(plan.nodes.values())),
            within={str(node): one for node, one in plan.nodes.items()},
            load=plan.load,
        )
        if found.state in {"send", "maybe", "error"}:
            first = next(node for node, one in plan.nodes.items() if one.state == found.state)
            found = replace(found, why=f"{first}: {plan.nodes[first].why}")
        failure, outputs = self._outputs(plan, body, known=found.known)
        if failure is not None:
            return replace(found, state="error", why=failure, status=NodeStatus.FAILED)
        if found.known:
            return replace(found, output=outputs[Case.LIKELY])
        return replace(found, cases=outputs)

    @staticmethod
    def _outputs(plan: PlannedGraph, body: WorkflowBody, *, known: bool) -> tuple[str | None, tuple[Json, Json, Json]]:
        """Why the graph fails, if that is certain, and what it gives in each case."""
        failure = plan.failure()
        if failure is not None:
            return failure, (None, None, None)
        least, likely, most = (outputs_of(body.graph.outputs, plan.state, values.mapping) for values in plan.values)
        problem = likely[1]
        if known and problem is not None:
            failure = f"its output {problem['output']}: {problem['message']}"
        return failure, (least[0], likely[0], most[0])

    async def _bound(self, bound: Bound, name: NodeId) -> Estimate:
        """A node that does something itself, and whose inputs are known."""
        step, work = bound.step, self._kinds[bound.step.kind].work(bound)
        if work.known:
            return Estimate(kind=step.kind, state="compute", output=work.output)
        stored = await self._stored(name, step, work)
        answers = [stored[key] for key in work.memo_keys if key in stored]
        if answers and len(answers) == len(work.memo_keys):
            value = [answer.value for answer in answers]
            return Estimate(
                kind=step.kind,
                state="cached",
                known=step.kind is not StepKind.EMBED,  # vectors are kept packed
                output=value if "samples" in bound.parts else value[0],
                answer=answers[0],
                cached=1,
            )
        if work.requests is None:
            return await self._asking.function(step, name, "its function asks models, as often as it likes")
        why = await self._why_sent(name, bound, work) if work.requests else ""
        state = "send" if work.requests else "compute"
        instead = any([await self._stored(name, step, one) for one in work.fallbacks])
        return await self._asking.taking(name, state, why, [(bound, work)] * 3, stored=stored.keys(), instead=instead)

    async def _bounded(self, step: Step, seen: SeenValues, name: NodeId) -> Estimate:
        """A node whose prompt depends on what is not known yet: rendered with what stands in for that."""
        why = f"after {', '.join(seen.waits)}"
        if self._shown is not None:
            self._shown.waits(name, seen.waits)
        kind = self._kinds[step.kind]
        try:
            bounds = seen.rendered(lambda values: kind.bind(step, values))
        except StepError:  # it looks into what stands in, which has nothing of the kind
            return replace(unknown(step, why), cases=await self._asking.anything(name, step.kind))
        rendered = [(bound, kind.work(bound)) for bound in bounds]
        least, likely, most = (work for _, work in rendered)
        if least.known and likely.known and most.known:
            return Estimate(
                kind=step.kind, state="maybe", why=why, known=False, cases=(least.output, likely.output, most.output)
            )
        if likely.requests is None:
            return await self._asking.function(step, name, why)
        found = await self._asking.taking(name, "maybe", why, rendered, waits=True)
        stored = await self._stored(name, step, likely) if len({bound.key for bound in bounds}) == 1 else {}
        if stored and len(stored) == len(likely.memo_keys):
            times = Span.between(0.0, 0.0, 1.0)  # it waits, and does not look at what it waits for
            return found.times(times, load=IDLE)
        return found

    async def _stored(self, name: NodeId, step: Step, work: WorkEstimate) -> dict[str, Answer]:
        """Those of its answers that are in the cache and may be used, by key."""
        if self._store is None or self._options.no_cache or _FORGETS.get() or self._refreshes(name):
            return {}
        keep, answers = not refuses_truncated(step), {}
        for key in work.memo_keys:
            record = await self._store.memo(key)
            ttl, now = step.cache.ttl, self.run.started_at
            answer = None if record is None else usable_answer(record, ttl, now=now, keep_truncated=keep)
            if answer is not None:
                answers[key] = answer
        return answers

    def _refreshes(self, name: NodeId) -> bool:
        return is_within(name, self._options.refresh)

    async def _why_sent(self, name: NodeId, bound: Bound, work: WorkEstimate) -> str:
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
        changes = explain_parts(before.parts, dict(bound.parts))
        return f"changed: {', '.join(changes)}" if changes else "its answer is no longer in the cache"
