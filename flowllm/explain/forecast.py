"""What a run would do, without doing it: what is in the memo already, what would be sent, and what it would cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flowllm.calls.response_cache import fresh
from flowllm.core.types import Json, NodeId, StepId, StepKind
from flowllm.explain.estimate import Estimate, total
from flowllm.explain.graph import Graph
from flowllm.explain.planner import Planner
from flowllm.language.workflow import Step, Workflow
from flowllm.runtime.compiled_graph import CompiledGraph
from flowllm.steps.base import Kind
from flowllm.storage.base import RunRecord, Store


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastNode:
    """What would become of one step at the top, with all that is within it."""

    step: str
    outlook: Estimate
    generation: int = 0
    """1 for the steps that start at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a run would do. Sums are None where a part of them is not known yet."""

    workflow: Workflow
    provider: str
    nodes: tuple[ForecastNode, ...]
    """In the order in which they would start."""
    critical_path: tuple[str, ...] = ()
    max_parallel: int = 0

    @property
    def requests(self) -> int | None:
        """At most so many, those that may turn out to be cached included."""
        return total(node.outlook.requests for node in self.nodes)

    @property
    def at_least(self) -> dict[str, Json]:
        """The sums of what is known."""
        found = [node.outlook for node in self._sending]
        return {
            "requests": sum(one.requests or 0 for one in found),
            "input_tokens": sum(one.input_tokens or 0 for one in found),
            "output_tokens": sum(one.output_tokens or 0 for one in found),
            "cost_usd": sum(one.cost_usd or 0.0 for one in found),
        }

    @property
    def unknown(self) -> int:
        """Steps of which a figure is not known yet, as it depends on answers."""
        found = [node.outlook for node in self._sending]
        return sum(None in (one.requests, one.input_tokens, one.output_tokens) for one in found)

    @property
    def input_tokens(self) -> int | None:
        """None: some prompt is not known yet."""
        return total(node.outlook.input_tokens for node in self._sending)

    @property
    def output_tokens(self) -> int | None:
        """At most so many."""
        return total(node.outlook.output_tokens for node in self._sending)

    @property
    def cost_usd(self) -> float | None:
        """None: some price or prompt is not known."""
        costs = [node.outlook.cost_usd for node in self._sending]
        return None if None in costs else sum(cost for cost in costs if cost is not None)

    @property
    def _sending(self) -> list[ForecastNode]:
        return [node for node in self.nodes if not node.outlook.idle]


class Forecaster:
    """Looks ahead at one run."""

    def __init__(
        self,
        workflow: Workflow,
        run: RunRecord,
        steps: Mapping[NodeId, Step],
        *,
        backend: Mapping[StepKind, Kind],
        store: Store | None,
        use_memo: bool = True,
        refresh: tuple[str, ...] = (),
        limit: int | None = None,
    ) -> None:
        """`store` is None where there is no database yet: then nothing is cached. `limit` is of items of every
        foreach."""
        self._workflow = workflow
        self._inputs = run.inputs
        self._blueprint = CompiledGraph(workflow.graph, {StepId(name): step for name, step in steps.items()})
        self._foresight = Planner(
            run,
            backend=backend,
            store=store,
            use_memo=use_memo,
            refresh=refresh,
            limit=limit,
            fresh=lambda record, ttl: fresh(record, ttl, now=run.started_at),
        )

    async def forecast(self, provider: str, graph: Graph) -> Forecast:
        """What the run would do, with `provider` as the default one."""
        place = {step: number for number, steps in enumerate(graph.generations(), start=1) for step in steps}
        walked = await self._foresight.graph(self._blueprint, self._inputs, "")
        nodes = [
            ForecastNode(step=node, outlook=outlook, generation=place[StepId(node)])
            for node, outlook in walked.nodes.items()
        ]
        weights = {StepId(node.step): 0.0 if node.outlook.idle else 1.0 for node in nodes}
        return Forecast(
            workflow=self._workflow,
            provider=provider,
            nodes=tuple(sorted(nodes, key=lambda node: node.generation)),
            critical_path=graph.critical_path(weights),
            max_parallel=graph.width(),
        )
