"""What one node would do and take, and many together. What cannot be known is None, never 0."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from flowllm.core.records import dataclass, field, replace
from flowllm.core.request import Answer
from flowllm.core.types import Counts, Json, NodeId, NodeStatus, RunId, StepKind, Usage
from flowllm.explain.load import IDLE, Load
from flowllm.explain.prompt_cache import CacheForecast, summed
from flowllm.explain.span import ANY, NONE, NOTHING, Span, Takes, all_of, rounded_up
from flowllm.explain.stand_in import Case, Cases
from flowllm.language.workflow import Step, WorkflowBody
from flowllm.storage.base import NodeRecord

EARLIER: Final = "earlier calls"
LONGEST: Final = "answers as long as max_tokens allows"
"""What expected figures are made of."""
_SINGULAR: Final = re.compile(r"(?<=call|swer)s")
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
    takes: Takes = NOTHING
    cached: int | None = 0
    """Nodes with a stored answer: itself, items, steps within."""
    evidence: Mapping[str, int] = field(default_factory=dict)
    """What the expected figures are made of, each with the number of its answers; 0: it has none."""
    prompt_cache: CacheForecast = CacheForecast()
    items: int | None = None
    """Of a foreach, where it is known."""
    per_item: Takes | None = None
    """What one item takes, of a foreach of which nobody knows how many there are."""
    within: Mapping[str, Estimate] = field(default_factory=dict)
    """The steps within, all items together."""
    cases: Cases | None = None
    """What stands for its output, where that is not known."""
    load: Load = IDLE
    """Its requests, for when they would be over."""
    list_price: str = ""
    """The model whose list price stands in for the server's own."""

    @property
    def idle(self) -> bool:
        """Nothing would be sent for it."""
        return self.takes.requests.is_zero

    @property
    def requests(self) -> int | None:
        """At most, if no answer has to be asked for again, as with all that follow; None: nobody knows."""
        return rounded_up(self.takes.requests.high_once)

    @property
    def input_tokens(self) -> int | None:
        """At most."""
        return rounded_up(self.takes.input_tokens.high_once)

    @property
    def output_tokens(self) -> int | None:
        """At most."""
        return rounded_up(self.takes.output_tokens.high_once)

    @property
    def cost_usd(self) -> float | None:
        """US dollars at most; None: nobody knows, or the price is unknown."""
        return None if self.takes.cost_usd is None else self.takes.cost_usd.high_once

    @property
    def basis(self) -> str:
        """What the expected figures are made of, in words; empty where nothing is sent."""
        if self.idle:
            return ""
        found = self.evidence.items()
        return ", ".join(
            f"{number:,} {_SINGULAR.sub('', what) if number == 1 else what}" if number else what
            for what, number in found
        )

    def output_in(self, case: Case) -> Json:
        """What it gives, or stands for that."""
        return self.output if self.cases is None else self.cases[case]

    def times(self, factor: Span, *, load: Load | None = None) -> Estimate:
        """The same of so many times as many items."""
        whole = factor.expected if factor.expected is not None else factor.low
        return replace(
            self,
            takes=self.takes.times(factor),
            cached=None if self.cached is None or factor.high is None else math.ceil(self.cached * factor.high),
            prompt_cache=self.prompt_cache.times(whole),
            within={name: one.times(factor) for name, one in self.within.items()},
            load=self.load if load is None else load,
        )

    def record(
        self, run_id: RunId, node_id: NodeId, *, place: int | None = None, item: Json = None, case: Case = Case.LIKELY
    ) -> NodeRecord:
        """The row that it would leave, as far as templates see it."""
        answer = self.answer
        return NodeRecord(
            run_id=run_id,
            node_id=node_id,
            kind=self.kind,
            status=self.status,
            output=self.output_in(case),
            error={"message": self.why} if self.status is NodeStatus.FAILED else None,
            cached=self.answer is not None,
            model="" if answer is None else answer.model,
            usage=Usage() if answer is None else answer.usage,
            cost_usd=None if answer is None else 0.0,
            counts=self.counts,
            place=place,
            item=item,
        )


def _total(numbers: Iterable[int | None]) -> int | None:
    found = list(numbers)
    return None if None in found else sum(number for number in found if number is not None)


def combined(kind: StepKind, parts: Sequence[Estimate], *, alike: bool = False) -> Estimate:
    """The sums of several, None as soon as a part is, in the state that says most; `alike`: of one step."""
    states = {part.state for part in parts}
    sending = [part for part in parts if not part.idle]
    return Estimate(
        kind=kind,
        state=next((state for state in _BY_WEIGHT if state in states), "compute"),
        known=all(part.known for part in parts),
        model=next((part.model for part in parts if part.model), ""),
        takes=all_of(part.takes for part in parts),
        cached=_total(part.cached for part in parts),
        evidence=_evidence(sending, alike=alike),
        prompt_cache=summed(part.prompt_cache for part in sending),
        list_price=next((part.list_price for part in parts if part.list_price), ""),
        within=_together(parts),
    )


def _evidence(parts: Sequence[Estimate], *, alike: bool) -> dict[str, int]:
    """Steps have earlier calls of their own; all else they may share."""
    found: dict[str, int] = {}
    for part in parts:
        for what, number in part.evidence.items():
            own = what.startswith(EARLIER) and not alike
            found[what] = found.get(what, 0) + number if own else max(found.get(what, 0), number)
    return found


def _together(parts: Sequence[Estimate]) -> dict[str, Estimate]:
    """The steps within several items, each step's as one."""
    names = dict.fromkeys(name for part in parts for name in part.within)
    found = {name: [part.within[name] for part in parts if name in part.within] for name in names}
    return {
        name: ones[0] if len(ones) == 1 else combined(ones[0].kind, ones, alike=True) for name, ones in found.items()
    }


def unknown(step: Step, why: str) -> Estimate:
    """Of a step of which no template can be rendered."""
    most = None if step.foreach is not None else _most_requests(step)
    requests = ANY if most is None else Span(expected=most, high_once=most, high=None if most else 0.0)
    some = ANY if most != 0 else NONE
    return Estimate(
        kind=step.kind,
        state="maybe",
        why=why,
        known=False,
        takes=Takes(requests=requests, input_tokens=some, output_tokens=some, cost_usd=some),
        cached=None,
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
