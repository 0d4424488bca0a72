"""What a run would do, without doing it: what is in the cache already, what would be sent, and what it would cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from flowllm.core.types import Json, NodeId, StepId, StepKind
from flowllm.explain.estimate import Estimate, combined
from flowllm.explain.graph import Graph
from flowllm.explain.planner import Planner
from flowllm.language.workflow import Step, Workflow
from flowllm.runtime.graph_state import CompiledGraph


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastNode:
    """One step at the top, with all that is within it."""

    step: str
    estimate: Estimate
    generation: int
    """1 for the steps that start at once."""


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


async def forecast(planner: Planner, workflow: Workflow, steps: Mapping[NodeId, Step], provider: str) -> Forecast:
    """What a run of those steps would do, with `provider` as the default one."""
    chosen = {step.id: step for step in steps.values()}
    graph = Graph.of(replace(workflow, steps=chosen))
    generation = {step: number for number, some in enumerate(graph.generations(), start=1) for step in some}
    plan = await planner.graph(CompiledGraph(workflow.graph, chosen), planner.run.inputs)
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
