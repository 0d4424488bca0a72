"""Drives the state machines of graphs and foreaches without doing anything: stored answers are the outcomes, others are
unknown, and the first items of a foreach stand for the rest."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeAlias

from flowllm.calls.stored_answer import usable_answer
from flowllm.core.errors import StepError
from flowllm.core.records import dataclass, field, replace
from flowllm.core.request import Answer
from flowllm.core.types import (
    Json,
    NodeId,
    NodeStatus,
    RunId,
    RunStatus,
    StepId,
    StepKind,
    child_id,
    is_within,
    item_id,
)
from flowllm.datasets.base import Row, Rows
from flowllm.datasets.files import STDIN
from flowllm.explain.estimate import Estimate, Forecast, ForecastNode, combined, failing, skipped, unknown
from flowllm.explain.graph import Graph
from flowllm.explain.prompt_cache import ExpectedCache
from flowllm.explain.why import explain_parts
from flowllm.language.template import Template, ValueTemplate
from flowllm.language.workflow import DataFile, Foreach, Step, Workflow, WorkflowBody
from flowllm.runtime.execute import graph_inputs
from flowllm.runtime.foreach_results import item_row
from flowllm.runtime.foreach_state import Ended, ForeachState, foreach_state
from flowllm.runtime.graph_runner import Values, outputs_of, run_values
from flowllm.runtime.graph_state import CompiledGraph, EndNode, EndRun, GraphState, NodeFinished, RunBegun, StartNode
from flowllm.runtime.item_reader import open_rows
from flowllm.runtime.options import RunOptions
from flowllm.runtime.resume_policy import refuses_truncated
from flowllm.steps.base import Bound, StepRunner, WorkEstimate
from flowllm.storage.base import RunRecord, Store

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
        self,
        run: RunRecord,
        options: RunOptions,
        *,
        kinds: Mapping[StepKind, StepRunner],
        store: Store | None,
        keeps: Callable[[str, str], bool] = lambda _provider, _model: False,
    ) -> None:
        """`store` is None where there is no database yet: then nothing is cached. `keeps` says of which models requests
        wait for those whose prompts begin the same, by provider and model."""
        self._prompts = ExpectedCache(keeps)
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
            prompt_cache=self._prompts.add(work),
        )

    async def _stored(self, name: NodeId, step: Step, work: WorkEstimate) -> list[Answer]:
        """Its answers, if all of them are in the cache and may be used."""
        if self._store is None or self._options.no_cache or self._refreshes(name):
            return []
        keep, answers = not refuses_truncated(step), []
        for key in work.memo_keys:
            record = await self._store.memo(key)
            ttl, now = step.cache.ttl, self.run.started_at
            answer = None if record is None else usable_answer(record, ttl, now=now, keep_truncated=keep)
            if answer is None:
                return []
            answers.append(answer)
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


EstimateNode: TypeAlias = "Callable[[Step, Mapping[str, Json], NodeId], Awaitable[Estimate]]"
"""Estimates a node by its step, the values of its templates and its name."""
LOOKED_AT = 1000
"""Items that are bound and looked up in the cache."""
COUNTED = 200_000
"""Rows of a stream that are counted; of a longer one nobody knows how many there are."""
AT_ONCE = 50
PAGE = 500


async def estimate_items(
    step: Step,
    values: Mapping[str, Json],
    name: NodeId,
    *,
    waits: Sequence[str],
    estimate: EstimateNode,
    limit: int | None,
    grant: Callable[[int], int],
) -> Estimate:
    """All items of a step with a foreach, as one. Standard input is never read.

    `waits` are the steps that it needs and whose outputs nobody knows, `estimate` is for one item. `grant` says how many
    of so many items may still be looked at.
    """
    foreach = step.foreach
    assert foreach is not None  # noqa: S101 - called only then
    sources, files = _sources(foreach)
    named = {reference.step for source in sources for reference in source.references}
    needed = [need for need in waits if need in named]
    if needed:
        return unknown(step, f"once for each item of {', '.join(needed)}")
    try:
        if any(file.path.text(values) == STDIN for file in files):
            return unknown(step, "once for each item of standard input")
        rows, count = await _read(open_rows(foreach, values, spool=None, limit=limit))
        if waits:
            return unknown(step, f"after {', '.join(waits)}", items=count)
        found: list[Estimate] = []
        while len(found) < len(rows):
            granted = grant(min(AT_ONCE, len(rows) - len(found)))
            if found and not granted:
                break
            batch = rows[len(found) : len(found) + max(1, granted)]
            found += await asyncio.gather(*(_item(step, values, name, row, estimate) for row in batch))
        state = foreach_state(step, values, window=LOOKED_AT, total=count)
        pulled = _drive(state, step, rows[: len(found)], found, whole=count == len(found))
    except StepError as error:
        return failing(step, error.message)
    return _summed(step, name, state, list(zip(rows, found, strict=False)), pulled=pulled, count=count)


def _sources(foreach: Foreach) -> tuple[list[Template | ValueTemplate], list[DataFile]]:
    """The templates from which the items come, and the files."""
    sources = [one for one in (foreach.items, foreach.file, *(foreach.matrix or {}).values()) if one is not None]
    files = [source for source in sources if isinstance(source, DataFile)]
    return [source.path if isinstance(source, DataFile) else source for source in sources], files


async def _read(rows: Rows) -> tuple[list[Row], int | None]:
    """The first rows, and how many there are; None: more than anyone would count. Raises DataFailed."""
    first: list[Row] = []
    try:
        while len(first) < LOOKED_AT and (page := await rows.take(LOOKED_AT - len(first))):
            first += page
        count = rows.total
        if count is None:
            count = len(first)
            while len(first) == LOOKED_AT and count <= COUNTED and (page := await rows.take(PAGE)):
                count += len(page)
        return first, count if rows.total is not None or count <= COUNTED else None
    finally:
        await rows.close()


async def _item(step: Step, values: Mapping[str, Json], name: NodeId, row: Row, estimate: EstimateNode) -> Estimate:
    if row.error is not None:
        return failing(step, row.error.message)
    assert step.foreach is not None  # noqa: S101 - it has items
    scope = {**values, step.foreach.name: row.value, "index": row.index}
    return await estimate(replace(step, foreach=None), scope, item_id(name, row.index))


def _drive(state: ForeachState, step: Step, rows: Sequence[Row], found: list[Estimate], *, whole: bool) -> int:
    """Pull items as the state allows and end those of which everything is known; the others stay in flight. Gives how
    many were pulled. `whole`: there are no more items. An item whose `accept.when` fails is made a failing one."""
    pulled = 0
    while not state.over and (more := min(state.may_pull(), len(rows) - pulled)):
        batch = range(pulled, pulled + more)
        pulled += more
        for at in batch:
            state.pulled(at)
        for at in batch:
            one = found[at]
            if not one.known:
                state.missed(at)
                continue
            ended = Ended(index=at, number=at, status=one.status, item=rows[at].value, output=one.output)
            for refused, error in state.ended(ended, one.why):
                found[refused.index] = failing(step, error.message)
    if whole and pulled == len(rows):
        state.drained()
    return pulled


def _summed(
    step: Step, name: NodeId, state: ForeachState, items: list[tuple[Row, Estimate]], *, pulled: int, count: int | None
) -> Estimate:
    """All items as one."""
    accepting = step.foreach is not None and step.foreach.accept is not None
    decided = accepting and (state.enough or state.over)  # no other items are pulled, whatever the open ones come to
    looked = len(items)
    items = items[:pulled] if decided else items
    found = [one for _, one in items]
    total = replace(combined(step.kind, found), items=count, known=state.over and count is not None)
    if not decided and count is None:
        total = replace(total, requests=None, cached=None, input_tokens=None, output_tokens=None, cost_usd=None)
    elif not decided and count is not None and count > looked:
        total = total.times(count / looked)
    counts = state.counts(not_pulled=max(0, (count or 0) - pulled))
    failure = state.verdict(name) if state.over or not accepting else None
    if failure is not None:
        return replace(total, state="error", why=failure.message, status=NodeStatus.FAILED, counts=counts)
    if decided and items:
        total = replace(total, why=f"{counts.accepted:,} accepted of the first {pulled:,} items")
    else:
        total = replace(total, why=_why(step, total, found, complete=count == looked))
    if not total.known:
        return total
    outputs = [one.output if one.status is NodeStatus.SUCCEEDED else None for one in found]
    records = [one.record(RunId(""), item_id(name, row.index), place=row.index, item=row.value) for row, one in items]
    return replace(
        total,
        output=state.chosen_outputs() if accepting else outputs,
        rows=[item_row(record) for record in records],
        counts=counts,
    )


def _why(step: Step, total: Estimate, found: Sequence[Estimate], *, complete: bool) -> str:
    """How many there are, how many of them are cached, and why the first other one is sent."""
    looked = len(found)
    if total.items == 0:
        return "no items"
    if total.items is None:
        text = f"more than {COUNTED:,} items"
    else:
        text = f"{total.items:,} {'item' if total.items == 1 else 'items'}"
    if step.foreach is not None and step.foreach.accept is not None:
        text = f"up to {text}, until enough are accepted"
    among = "" if complete else f" of the first {looked:,}"
    cached = sum(one.state == "cached" for one in found)
    if cached == looked and not isinstance(step.body, WorkflowBody):
        cached = 0  # its own state says so
    ended = Counter(one.status for one in found)
    numbers = ((cached, "cached"), (ended[NodeStatus.SKIPPED], "skipped"), (ended[NodeStatus.FAILED], "in error"))
    parts = [text, *(f"{number:,}{among} {word}" for number, word in numbers if number)]
    first = next((one.why for one in found if one.state in {"send", "maybe"} and one.why), "")
    return "; ".join([", ".join(parts), *([first] if first else [])])


async def forecast(planner: Planner, workflow: Workflow, steps: Mapping[NodeId, Step], provider: str) -> Forecast:
    """What a run of those steps would do, with `provider` as the default one."""
    chosen = {step.id: step for step in steps.values()}
    graph = Graph.of(replace(workflow, steps=chosen))
    generation = {step: number for number, some in enumerate(graph.generations(), start=1) for step in some}
    plan = await planner.graph(CompiledGraph(workflow, chosen), planner.run.inputs)
    nodes = [
        ForecastNode(step=node, estimate=estimate, generation=generation[StepId(node)])
        for node, estimate in plan.nodes.items()
    ]
    return Forecast(
        workflow=workflow,
        provider=provider,
        nodes=tuple(sorted(nodes, key=lambda node: node.generation)),
        total=combined(StepKind.WORKFLOW, list(plan.nodes.values())),
        critical_path=graph.critical_path({StepId(node.step): float(not node.estimate.idle) for node in nodes}),
        max_parallel=graph.width(),
    )
