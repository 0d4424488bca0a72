"""What one node would do and take, and many together. What cannot be known is None, never 0."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from flowllm.core.records import dataclass, field, replace
from flowllm.core.request import Answer
from flowllm.core.types import Counts, Json, NodeId, NodeStatus, RunId, StepKind, Usage
from flowllm.explain.prompt_cache import CacheForecast, summed
from flowllm.language.workflow import Step, Workflow, WorkflowBody
from flowllm.storage.base import NodeRecord

_BY_WEIGHT = ("send", "maybe", "cached", "compute", "error", "skipped")
"""States, those that say most of a sum first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Of one node: a step, an item, or all items of a foreach."""

    kind: StepKind
    state: str
    """One of cached, send, compute, maybe (it depends on what is not known yet), skipped and error."""
    why: str = ""
    """Why it is not cached, or what it waits for."""
    status: NodeStatus = NodeStatus.SUCCEEDED
    known: bool = True
    """`output` is what it would give; else nothing is known of what needs it either."""
    output: Json = None
    rows: Json = None
    counts: Counts | None = None
    """`rows` and `counts`: what templates see of a foreach, beside its output."""
    answer: Answer | None = None
    model: str = ""
    requests: int | None = 0
    """At most; retries not counted."""
    cached: int | None = 0
    """Nodes with a stored answer: itself, items, steps within."""
    input_tokens: int | None = 0
    output_tokens: int | None = 0
    """At most."""
    cost_usd: float | None = 0.0
    prompt_cache: CacheForecast = CacheForecast()
    items: int | None = None
    """Of a foreach, where it is known."""

    @property
    def idle(self) -> bool:
        """Nothing would be sent for it."""
        return self.requests == 0

    def times(self, factor: float) -> Estimate:
        """The same of so many times as many items."""
        return replace(
            self,
            requests=_times(self.requests, factor),
            cached=_times(self.cached, factor),
            input_tokens=_times(self.input_tokens, factor),
            output_tokens=_times(self.output_tokens, factor),
            cost_usd=None if self.cost_usd is None else self.cost_usd * factor,
            prompt_cache=self.prompt_cache.times(factor),
        )

    def record(self, run_id: RunId, node_id: NodeId, *, place: int | None = None, item: Json = None) -> NodeRecord:
        """The row that it would leave, as far as templates see it."""
        answer = self.answer
        return NodeRecord(
            run_id=run_id,
            node_id=node_id,
            kind=self.kind,
            status=self.status,
            output=self.output,
            error={"message": self.why} if self.status is NodeStatus.FAILED else None,
            cached=self.answer is not None,
            model="" if answer is None else answer.model,
            usage=Usage() if answer is None else answer.usage,
            cost_usd=None if answer is None else 0.0,
            counts=self.counts,
            place=place,
            item=item,
        )


def _times(number: int | None, factor: float) -> int | None:
    return None if number is None else math.ceil(number * factor)


def _total(numbers: Iterable[int | None]) -> int | None:
    found = list(numbers)
    return None if None in found else sum(number for number in found if number is not None)


def combined(kind: StepKind, parts: Sequence[Estimate]) -> Estimate:
    """The sums of several, None as soon as a part is, in the state that says most."""
    states = {part.state for part in parts}
    sending = [part for part in parts if not part.idle]
    costs = [part.cost_usd for part in sending]
    return Estimate(
        kind=kind,
        state=next((state for state in _BY_WEIGHT if state in states), "compute"),
        known=all(part.known for part in parts),
        model=next((part.model for part in parts if part.model), ""),
        requests=_total(part.requests for part in parts),
        cached=_total(part.cached for part in parts),
        input_tokens=_total(part.input_tokens for part in sending),
        output_tokens=_total(part.output_tokens for part in sending),
        cost_usd=None if None in costs else sum(cost for cost in costs if cost is not None),
        prompt_cache=summed(part.prompt_cache for part in sending),
    )


def unknown(step: Step, why: str, *, items: int | None = None) -> Estimate:
    """Of a step whose inputs are not known yet. `items`: of its foreach, where that is known."""
    requests = _most_requests(step)
    if requests and step.foreach is not None:
        requests = None if items is None else requests * items
    sends = requests != 0
    return Estimate(
        kind=step.kind,
        state="maybe",
        why=why,
        known=False,
        requests=requests,
        cached=None,
        input_tokens=None if sends else 0,
        output_tokens=None if sends else 0,
        cost_usd=None if sends else 0.0,
        items=items,
    )


def failing(step: Step, why: str) -> Estimate:
    """Of a step that fails before anything is sent for it."""
    return Estimate(kind=step.kind, state="error", why=why, status=NodeStatus.FAILED)


def skipped(step: Step, why: str, status: NodeStatus = NodeStatus.SKIPPED) -> Estimate:
    """Of a step that is not carried out; `status` may be blocked too."""
    return Estimate(kind=step.kind, state="skipped", why=why, status=status)


def _most_requests(step: Step) -> int | None:
    """Of one item of the step, whatever its inputs; None: it depends on them."""
    if isinstance(step.body, WorkflowBody):
        inner = step.body.graph.steps.values()
        each = [_most_requests(one) for one in inner]
        unbounded = any(one.foreach is not None and most != 0 for one, most in zip(inner, each, strict=True))
        return None if unbounded else _total(each)
    if step.kind is StepKind.EMBED or getattr(step.body, "asks", None) is not None:
        return None  # as many as its texts fill, or as its function likes
    return getattr(step.body, "samples", None) or 1 if step.kind is StepKind.PROMPT else 0


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
    max_concurrent: Mapping[str, int] = field(default_factory=dict)
    """Requests in flight with which the default provider's models would begin, where earlier runs found that."""

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
