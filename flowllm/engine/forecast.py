"""What a run would do, without doing it: what is in the memo already, what would be sent, and what it would cost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from flowllm.calls.memo import fresh
from flowllm.engine.resume import refuses_truncated
from flowllm.engine.state import EndNode, NodeFinished, RunBegun, RunState, StartNode
from flowllm.engine.values import Values
from flowllm.engine.why import explain_parts
from flowllm.errors import StepError
from flowllm.store.base import NodeRecord
from flowllm.types import NodeId, NodeStatus, OnError, StepId, Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from flowllm.engine.backend import Backend
    from flowllm.plan.graph import Graph
    from flowllm.spec.workflow import Step, Workflow
    from flowllm.steps.base import Bound, Work
    from flowllm.store.base import MemoRecord, RunRecord, Store
    from flowllm.types import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastNode:
    """What would become of one step."""

    step: str
    kind: str
    state: str
    """cached, send, compute, maybe (it depends on an answer that is not known yet), skipped or error."""
    why: str
    """Why it is not cached, or what it waits for."""
    generation: int = 0
    """1 for the steps that start at once."""
    model: str = ""
    requests: int = 0
    """At most; asking again not counted."""
    input_tokens: int | None = None
    output_tokens: int | None = None
    """As many as the answer may have."""
    cost_usd: float | None = 0.0
    """None: unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a run would do."""

    workflow: Workflow
    provider: str
    nodes: tuple[ForecastNode, ...]
    """In the order in which they would start."""
    critical_path: tuple[str, ...] = ()
    max_parallel: int = 0

    @property
    def requests(self) -> int:
        """At most so many, those that may turn out to be cached included."""
        return sum(node.requests for node in self.nodes)

    @property
    def input_tokens(self) -> int | None:
        """None: some prompt is not known yet."""
        return _sum(node.input_tokens for node in self.nodes if node.requests)

    @property
    def output_tokens(self) -> int | None:
        """At most so many."""
        return _sum(node.output_tokens for node in self.nodes if node.requests)

    @property
    def cost_usd(self) -> float | None:
        """None: some price or prompt is not known."""
        costs = [node.cost_usd for node in self.nodes if node.requests]
        return None if None in costs else sum(cost for cost in costs if cost is not None)


def _sum(numbers: Iterable[int | None]) -> int | None:
    found = list(numbers)
    return None if None in found else sum(number for number in found if number is not None)


class Forecaster:
    """Walks a run through the same state machine that carries it, with the memo's answers for those it has."""

    def __init__(
        self,
        workflow: Workflow,
        run: RunRecord,
        steps: Mapping[NodeId, Step],
        *,
        backend: Backend,
        store: Store | None,
        use_memo: bool = True,
        refresh: tuple[str, ...] = (),
    ) -> None:
        """`store` is None where there is no database yet: then nothing is cached."""
        self._workflow = workflow
        self._steps = steps
        self._backend = backend
        self._store = store
        self._use_memo = use_memo
        self._refresh = refresh
        self._values = Values(run)
        self._now = run.started_at
        self._unknown: set[NodeId] = set()
        self._found: dict[NodeId, ForecastNode] = {}
        self._state = RunState(
            {node: {NodeId(need): how for need, how in step.edges.items()} for node, step in steps.items()},
            forgiven=[node for node, step in steps.items() if step.on_error is OnError.CONTINUE],
        )

    async def forecast(self, provider: str, graph: Graph) -> Forecast:
        """What the run would do, with `provider` as the default one."""
        place = {step: number for number, steps in enumerate(graph.generations(), start=1) for step in steps}
        nodes = [replace(node, generation=place[StepId(node.step)]) for node in await self.nodes()]
        weights = {StepId(node.step): float(node.requests) for node in nodes}
        return Forecast(
            workflow=self._workflow,
            provider=provider,
            nodes=tuple(sorted(nodes, key=lambda node: node.generation)),
            critical_path=graph.critical_path(weights),
            max_parallel=graph.width(),
        )

    async def nodes(self) -> list[ForecastNode]:
        """Every node, in the order in which they would start."""
        waiting = list(self._state.handle(RunBegun()))
        while waiting:
            match waiting.pop(0):
                case StartNode(node=node):
                    status = await self._consider(node, self._steps[node])
                    waiting += self._state.handle(NodeFinished(node=node, status=status))
                case EndNode(node=node, status=status, cause=cause):
                    self._end(node, status, state="skipped", why=f"{cause} is {self._state.status[cause]}")
                case _:
                    pass
        return list(self._found.values())

    async def _consider(self, node: NodeId, step: Step) -> NodeStatus:
        waits_for = [need for need in step.edges if NodeId(need) in self._unknown]
        if waits_for:
            return self._later(node, step, waits_for)
        try:
            values = self._values.mapping
            if step.when is not None and not step.when.condition(values):
                return self._end(node, NodeStatus.SKIPPED, state="skipped", why="its `when` is false")
            bound = self._backend.bind(step, values)
        except StepError as error:
            return self._end(node, NodeStatus.FAILED, state="error", why=error.message)
        work = self._backend.work(bound)
        if work.known:
            return self._end(node, NodeStatus.SUCCEEDED, state="compute", why="", output=work.output)
        answers = await self._remembered(node, step, work)
        if answers is not None:
            several = "samples" in bound.parts
            value = [answer.answer["value"] for answer in answers]
            return self._end(
                node,
                NodeStatus.SUCCEEDED,
                state="cached",
                why="",
                output=value if several else value[0],
                answer=answers[0],
            )
        return self._send(node, bound, work, await self._why_not(node, bound, work))

    async def _remembered(self, node: NodeId, step: Step, work: Work) -> list[MemoRecord] | None:
        if self._store is None or not self._use_memo or node in self._refresh or not work.memo_keys:
            return None
        found = [await self._store.memo(key) for key in work.memo_keys]
        usable = [record for record in found if record is not None and self._usable(record, step)]
        return usable if len(usable) == len(found) else None

    def _usable(self, record: MemoRecord, step: Step) -> bool:
        refused = bool(record.answer["truncated"]) and refuses_truncated(step)
        return fresh(record, step.cache.ttl, now=self._now) and not refused

    async def _why_not(self, node: NodeId, bound: Bound, work: Work) -> str:
        if node in self._refresh:
            return "asked anew: --refresh"
        if not self._use_memo:
            return "--no-cache"
        if work.requests and not work.memo_keys:
            return "`cache: false`"
        if self._store is None:
            return "no earlier run"
        before = await self._store.last_node(self._workflow.name, node, before_seq=None)
        if before is None:
            return "never answered before"
        changes = explain_parts(before.parts, bound.parts)
        return f"changed: {', '.join(changes)}" if changes else "its answer is no longer in the memo"

    def _send(self, node: NodeId, bound: Bound, work: Work, why: str) -> NodeStatus:
        """It would be carried out; nobody knows with what outcome, so what needs it is unknown too."""
        self._unknown.add(node)
        sends = work.requests > 0
        self._found[node] = ForecastNode(
            step=node,
            kind=bound.step.kind.value,
            state="send" if sends else "compute",
            why=why if sends else "",
            model=work.model,
            requests=work.requests,
            input_tokens=work.input_tokens,
            output_tokens=work.output_tokens,
            cost_usd=work.cost_usd,
        )
        return NodeStatus.SUCCEEDED

    def _later(self, node: NodeId, step: Step, waits_for: Sequence[str]) -> NodeStatus:
        self._unknown.add(node)
        asks = step.kind.value == "prompt"
        samples = getattr(step.body, "samples", None) or 1
        self._found[node] = ForecastNode(
            step=node,
            kind=step.kind.value,
            state="maybe",
            why=f"after {', '.join(waits_for)}",
            requests=samples if asks else 0,
            input_tokens=None if asks else 0,
            output_tokens=None if asks else 0,
            cost_usd=None if asks else 0.0,
        )
        return NodeStatus.SUCCEEDED

    def _end(
        self,
        node: NodeId,
        status: NodeStatus,
        *,
        state: str,
        why: str,
        output: Json = None,
        answer: MemoRecord | None = None,
    ) -> NodeStatus:
        kind = self._steps[node].kind
        self._found[node] = ForecastNode(step=node, kind=kind.value, state=state, why=why)
        kept = {} if answer is None else answer.answer
        self._values.add(
            NodeRecord(
                run_id=self._values.run_id,
                node_id=node,
                kind=kind,
                status=status,
                output=output,
                cached=answer is not None,
                model=kept.get("model", ""),
                usage=Usage(**kept.get("usage", {})),
                cost_usd=kept.get("cost_usd"),
            )
        )
        return status
