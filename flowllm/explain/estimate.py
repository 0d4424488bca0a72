"""What would become of a node, and of many together. What cannot be known is None, never 0."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from flowllm.core.types import Counts, Json, NodeStatus, StepKind
from flowllm.language.workflow import Step, WorkflowBody
from flowllm.storage.base import MemoRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What would become of one node: a step, an item, or all items of a foreach."""

    kind: str
    state: str
    """cached, send, compute, maybe (it depends on what is not known yet), skipped or error."""
    why: str = ""
    """Why it is not cached, or what it waits for."""
    status: NodeStatus = NodeStatus.SUCCEEDED
    known: bool = True
    """`output` is what it would give; else what needs it cannot be told either."""
    output: Json = None
    rows: Json = None
    counts: Counts | None = None
    """The other things that templates see of a foreach."""
    answer: MemoRecord | None = None
    """What the memo has of it."""
    model: str = ""
    requests: int | None = 0
    """At most; asking again not counted."""
    cached: int | None = 0
    """Nodes that the memo answers: itself, items, steps within."""
    input_tokens: int | None = 0
    output_tokens: int | None = 0
    """As many as the answers may have."""
    cost_usd: float | None = 0.0
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
        )


def _times(number: int | None, factor: float) -> int | None:
    return None if number is None else math.ceil(number * factor)


def total(numbers: Iterable[int | None]) -> int | None:
    """The sum; None as soon as one is unknown."""
    found = list(numbers)
    return None if None in found else sum(number for number in found if number is not None)


def together(kind: StepKind, parts: Sequence[Estimate]) -> Estimate:
    """The sums of several, in the state that says most: errors, then what is sent, then what may be."""
    costs = [part.cost_usd for part in parts if part.requests != 0]
    states = {part.state for part in parts}
    state = next((one for one in _ORDER if one in states), "compute")
    return Estimate(
        kind=kind.value,
        state=state,
        known=all(part.known for part in parts),
        model=next((part.model for part in parts if part.model), ""),
        requests=total(part.requests for part in parts),
        cached=total(part.cached for part in parts),
        input_tokens=total(part.input_tokens for part in parts if part.requests != 0),
        output_tokens=total(part.output_tokens for part in parts if part.requests != 0),
        cost_usd=None if None in costs else sum(cost for cost in costs if cost is not None),
    )


_ORDER = ("send", "maybe", "cached", "compute", "error", "skipped")


def unknown(step: Step, why: str, *, items: int | None = None) -> Estimate:
    """One whose inputs are not known yet. `items`: of its foreach, where that is known."""
    each = _most_requests(step)
    requests: int | None
    if each == 0:
        requests = 0
    elif step.foreach is None:
        requests = each
    else:
        requests = None if each is None or items is None else each * items
    asks = requests != 0
    return Estimate(
        kind=step.kind.value,
        state="maybe",
        why=why,
        known=False,
        requests=requests,
        cached=None,
        input_tokens=None if asks else 0,
        output_tokens=None if asks else 0,
        cost_usd=None if asks else 0.0,
        items=items,
    )


def wrong(step: Step, why: str) -> Estimate:
    """One that fails before anything is sent for it."""
    return Estimate(kind=step.kind.value, state="error", why=why, status=NodeStatus.FAILED)


def _most_requests(step: Step) -> int | None:
    """Of one item of the step, whatever its inputs; None: it depends on them."""
    if isinstance(step.body, WorkflowBody):
        inner = step.body.graph.steps.values()
        each = [_most_requests(one) for one in inner]
        unbounded = any(one.foreach is not None and most != 0 for one, most in zip(inner, each, strict=True))
        return None if unbounded else total(each)
    if step.kind is StepKind.EMBED:
        return None  # as many as its texts fill
    if getattr(step.body, "asks", None) is not None:
        return None  # as many as its function likes
    return getattr(step.body, "samples", None) or 1 if step.kind is StepKind.PROMPT else 0
