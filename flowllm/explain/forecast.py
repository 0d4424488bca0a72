"""What a whole run would do, take and cost, and when it would be over."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from flowllm.core.records import dataclass, field, replace
from flowllm.core.types import Budget, Json, NodeId, StepId, StepKind
from flowllm.datasets.base import Rows
from flowllm.explain.estimate import Estimate, combined
from flowllm.explain.graph import Graph
from flowllm.explain.load import Lanes, Parts
from flowllm.explain.plan_items import PlannedItems
from flowllm.explain.planner import Planner
from flowllm.explain.rendered import ShownPrompt
from flowllm.explain.seen_values import SeenValues
from flowllm.explain.span import Span
from flowllm.explain.timing import Timetable, timetable
from flowllm.language.workflow import Step, Workflow
from flowllm.runtime.graph_state import CompiledGraph


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastNode:
    """One step at the top, with all that is within it."""

    step: str
    estimate: Estimate
    generation: int
    """1 for the steps that start at once."""
    begins: float | None = None
    """Seconds from the beginning of the run; None: nobody knows."""
    ends: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a run would do."""

    workflow: Workflow
    provider: str
    nodes: tuple[ForecastNode, ...]
    """By generation, then in the order in which they would start."""
    total: Estimate
    """The sums of all nodes, None where a part of them is not known yet."""
    critical_path: tuple[str, ...]
    max_parallel: int
    when: Timetable = Timetable(seconds=None)
    """How long it would take."""
    max_concurrent: Mapping[str, int] = field(default_factory=dict)
    """Requests in flight with which the default provider's models would begin, where earlier runs found that."""
    shown: tuple[ShownPrompt, ...] | None = None
    """The prompts of one step, where they were asked for,"""
    shown_of: int = 0
    """and how many it has that were looked at."""
    notices: tuple[str, ...] = ()
    """What is to be told of the data set."""

    @property
    def seconds(self) -> float | None:
        """How long it would take on average; None: nobody knows."""
        return self.when.seconds

    @property
    def at_least(self) -> dict[str, Json]:
        """The sums of what is known."""
        found = [node.estimate for node in self.nodes if not node.estimate.idle]
        names = ("requests", "input_tokens", "output_tokens", "cost_usd")
        return {name: sum(getattr(one, name) or 0 for one in found) for name in names}

    @property
    def unknown(self) -> int:
        """Steps of which a figure is not known yet, as it depends on answers."""
        found = [node.estimate for node in self.nodes if not node.estimate.idle]
        return sum(None in (one.requests, one.input_tokens, one.output_tokens) for one in found)

    @property
    def budget(self) -> tuple[BudgetForecast, ...]:
        """What is held against the amounts of the workflow's budget."""
        budget, takes = self.workflow.budget or Budget(), self.total.takes
        tokens = takes.input_tokens + takes.output_tokens
        found = [("tokens", budget.tokens, tokens), ("usd", budget.usd, takes.cost_usd)]
        return tuple(
            BudgetForecast(name=name, amount=float(amount), takes=some)
            for name, amount, some in found
            if amount is not None
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetForecast:
    """One amount of a budget, and what the run would take of it."""

    name: str
    """usd or tokens."""
    amount: float
    takes: Span | None
    """None: a price is unknown."""

    @property
    def verdict(self) -> str:
        """within; within_once: while answers need not be asked for again; over: it certainly is; expected_over, maybe_over: by the
        expected figures, or by the most if no answer has to be asked for again; unknown."""
        takes = self.takes
        if takes is None:
            return "unknown"
        if takes.low > self.amount:
            return "over"
        if takes.expected is not None and takes.expected > self.amount:
            return "expected_over"
        if takes.high_once is None:
            return "unknown"
        if takes.high_once > self.amount:
            return "maybe_over"
        return "within" if takes.high is not None and takes.high <= self.amount else "within_once"

    def as_dict(self) -> dict[str, Json]:
        """As JSON."""
        takes = None if self.takes is None else self.takes.as_dict(whole=self.name == "tokens")
        return {"amount": self.amount, "takes": takes, "verdict": self.verdict}


async def forecast(
    planner: Planner,
    workflow: Workflow,
    steps: Mapping[NodeId, Step],
    provider: str,
    *,
    lanes: Callable[[], Lanes] = Lanes,
) -> Forecast:
    """What a run of those steps would do, with `provider` as the default one; `lanes` gives what each provider allows, once it is
    known which are asked."""
    chosen = {step.id: step for step in steps.values()}
    graph = Graph.of(replace(workflow, steps=chosen))
    generation = {step: number for number, some in enumerate(graph.generations(), start=1) for step in some}
    plan = await planner.graph(CompiledGraph(workflow, chosen), [planner.run.inputs] * 3)
    when = timetable(plan.load, lanes())
    nodes = [
        ForecastNode(
            step=node,
            estimate=estimate,
            generation=generation[StepId(node)],
            begins=when.begins.get(node),
            ends=when.ends.get(node),
        )
        for node, estimate in plan.nodes.items()
    ]
    weights = {StepId(node.step): float(not node.estimate.idle) for node in nodes}
    path: Sequence[str] = graph.critical_path(weights) if not when.seconds else when.critical_path(plan.load)
    found = _of_nodes(workflow, provider, sorted(nodes, key=lambda node: node.generation), when)
    return replace(found, critical_path=tuple(path), max_parallel=graph.width())


async def forecast_rows(
    planner: Planner,
    workflow: Workflow,
    row: Step,
    rows: Rows | None,
    provider: str,
    *,
    lanes: Callable[[], Lanes] = Lanes,
) -> Forecast:
    """The same of a run over the rows of a data set, of which `row` is the step that stands for the whole graph; None: they
    are those of standard input, which is not read."""
    seen = SeenValues(cases=({}, {}, {}))
    items = PlannedItems(row, seen, NodeId(row.id), planner)
    found = await (items.unread("standard input") if rows is None else items.rows(rows))
    load = Parts(parts={row.id: found.load}, needs={})
    when = timetable(load, lanes())
    node = ForecastNode(
        step=row.id, estimate=found, generation=1, begins=when.begins.get(row.id), ends=when.ends.get(row.id)
    )
    return _of_nodes(workflow, provider, [node], when)


def _of_nodes(workflow: Workflow, provider: str, nodes: Sequence[ForecastNode], when: Timetable) -> Forecast:
    uncounted = any(one.estimate.takes.requests.expected is None for one in nodes)
    return Forecast(
        workflow=workflow,
        provider=provider,
        nodes=tuple(nodes),
        total=combined(StepKind.WORKFLOW, [node.estimate for node in nodes]),
        critical_path=tuple(node.step for node in nodes),
        max_parallel=1,
        when=Timetable(seconds=None) if uncounted else when,
    )
