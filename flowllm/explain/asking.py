"""Nodes that ask, or do their work themselves, and whose answers nobody knows: what they take, and what stands in for what they give."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from flowllm.core.records import dataclass, replace
from flowllm.core.types import Json, NodeId, StepKind, step_path
from flowllm.explain.estimate import EARLIER, LONGEST, Estimate, unknown
from flowllm.explain.load import Calls
from flowllm.explain.past import Past
from flowllm.explain.prices import Prices
from flowllm.explain.prompt_cache import ExpectedCache
from flowllm.explain.sizes import RESERVED, Asked, PastCalls, Rendered, takes_of
from flowllm.explain.span import ANY, NONE, Span, Takes
from flowllm.explain.stand_in import Case, StandIns, least_and_likely, templates_of
from flowllm.language.workflow import LlmBody, Step
from flowllm.steps.base import Bound, WorkEstimate


async def _no_latencies(_provider: str, _model: str) -> tuple[Sequence[float], str]:
    return (), ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of models and accounts."""

    keeps: Callable[[str, str], bool] = lambda _provider, _model: False
    """Of which models requests wait for those whose prompts begin the same, by provider and model."""
    latencies: Callable[[str, str], Awaitable[tuple[Sequence[float], str]]] = _no_latencies
    """Seconds that requests take where the step has no earlier one, by provider and model, and the model that they were sent to."""
    list_price: Callable[[str, str], str] = lambda _provider, _model: ""
    """The model whose list price stands in for the server's own, by provider and model."""


class AskingNodes:
    """Those of one plan."""

    def __init__(self, known: Known, past: Past | None) -> None:
        """`past` are earlier runs, where there is a database."""
        self.past = past
        self.stand_ins = StandIns()
        self._known = known
        self._prices = Prices()
        self._prompts = ExpectedCache(known.keeps)
        self._sending: set[str] = set()
        """Keys of what would be sent: an equal request is sent once."""
        self._alike: dict[str, bool] = {}
        """Prompts without the answers in them, and whether one of each waits for answers."""

    async def taking(
        self,
        name: NodeId,
        state: str,
        why: str,
        rendered: Sequence[Rendered],
        *,
        stored: Collection[str] = (),
        instead: bool = False,
        waits: bool = False,
    ) -> Estimate:
        """One node, rendered in each case. `stored` are keys that the cache answers, and `instead` says that it has an answer of
        a fallback; `waits`: its prompt depends on what is not known. Raises StoreError."""
        bound, work = rendered[Case.LIKELY]
        step = bound.step
        floor = self._floor(step, rendered[Case.MOST]) if waits else NONE
        models = [work.model, *(one.model for one in work.fallbacks)]
        past = [None if self.past is None else await self.past.calls(name, model) for model in models]
        length, evidence = await self._length(name, step, work, past[0])
        asked = Asked.of(rendered, self.stand_ins, waits=waits, floor=floor)
        takes = takes_of(asked, past, length, self._prices, waits=waits)
        if step.cache.enabled and work.requests:
            alike = f"{work.model} {asked.shown[Case.LIKELY].text}"
            before = instead or (waits and past[0] is not None)
            takes = self._equal(takes, work, alike, stored, waits=waits, before=before)
        cache = self._prompts.add(work)
        if past[0] is None:
            takes = _cheaper(takes, cache.saved_usd)
        return Estimate(
            kind=step.kind,
            state=state,
            why=why,
            known=False,
            cases=await self._answer(name, bound, length),
            model=work.model,
            takes=takes,
            cached=None if waits else 0,
            evidence=evidence if work.requests else {},
            prompt_cache=cache,
            load=await self._load(work, takes, past[0]),
            list_price=self._known.list_price(work.provider, work.model) if work.requests else "",
        )

    async def _length(
        self, name: NodeId, step: Step, work: WorkEstimate, past: PastCalls | None
    ) -> tuple[Span, Mapping[str, int]]:
        """Tokens of one answer, and what that is made of."""
        most = None if work.output_tokens is None or not work.requests else work.output_tokens / work.requests
        body, earlier = step.body, self.past
        if not isinstance(body, LlmBody):
            return Span.between(0.0, 0.0, most), {"the texts": 0}
        least, likely = (1.0, None)
        if body.output is not None and body.output.schema is not None:
            least, likely = least_and_likely(body.output.schema)

        def span(expected: float | None) -> Span:
            expected = expected if most is None or expected is None else min(expected, most)
            return Span.between(max(1.0, least), expected, most)

        if past is not None and past.output_tokens is not None:
            return span(past.output_tokens / past.answers), {EARLIER: past.calls}
        if earlier is not None and (other := await earlier.length(name)) is not None:
            return span(other.tokens), {f"{EARLIER} to {other.model}": other.answers}
        if likely is not None:
            return span(likely), {"the schema": 0}
        if earlier is not None:
            answers = await earlier.answers(work.provider, work.model, as_json=body.output is not None)
            if answers is not None and (most is None or answers.share is not None):
                tokens = answers.tokens if most is None else most * (answers.share or 0.0)
                return span(tokens), {f"other answers of {work.model}": answers.answers}
        return span(most), {} if most is None else {LONGEST: 0}

    def _equal(
        self, takes: Takes, work: WorkEstimate, alike: str, stored: Collection[str], *, waits: bool, before: bool
    ) -> Takes:
        """Less, where an equal request is or may be sent besides, or answered `before`; `alike` is what is known of the prompt."""
        keys = set(work.memo_keys)
        missing = keys.difference(stored)
        share = 1.0 if waits or not keys else len(missing - self._sending) / len(keys)
        # answers may make two prompts equal that differ in them alone, or in nothing; or one that was answered before
        waited = alike in self._alike and (waits or self._alike[alike])
        self._alike[alike] = waits or self._alike.get(alike, False)
        self._sending |= set() if waits else missing
        least = 0.0 if waited or before else share
        if work.shared_requests is not None and share < 1.0:
            least = 0.0  # texts are of any length
        most = 1.0 if waits or work.shared_requests is not None else len(missing) / len(keys) if keys else 1.0
        return takes if least == 1.0 else takes.times(Span.between(least, share, most))

    async def _load(self, work: WorkEstimate, takes: Takes, past: PastCalls | None) -> Calls:
        seconds: Sequence[float] = () if past is None else past.seconds
        if not work.requests:
            return Calls(count=1, seconds=tuple(seconds) or (0.0,))
        requests, timed_by = takes.requests.expected or 0.0, ""
        if not seconds:
            seconds, timed_by = await self._known.latencies(work.provider, work.model)
        if not requests:
            return Calls(count=0)
        before, after = takes.input_tokens.expected or 0.0, takes.output_tokens
        most = after.expected or 0.0 if after.high_once is None else after.high_once
        return Calls(
            count=requests,
            seconds=tuple(seconds),
            timed_by=timed_by if timed_by != work.model else "",
            provider=work.provider,
            model=work.model,
            tokens=(before + (after.expected or 0.0)) / requests,
            reserved=(before * RESERVED + most) / requests,
        )

    async def _answer(self, name: NodeId, bound: Bound, tokens: Span) -> tuple[Json, Json, Json]:
        """What stands in for the answer."""
        body, stand_ins = bound.step.body, self.stand_ins
        if not isinstance(body, LlmBody) or (body.output is not None and body.output.schema is None):
            return await self.anything(name, bound.step.kind, tokens if isinstance(body, LlmBody) else ANY)
        path, schema = step_path(name), None if body.output is None else body.output.schema
        answer = stand_ins.text(path, tokens) if schema is None else stand_ins.answer(path, schema, tokens)
        if body.samples is None:
            return answer
        least, likely, most = ([one] * body.samples for one in answer)
        return least, likely, most

    async def function(self, step: Step, name: NodeId, why: str) -> Estimate:
        """A function that asks models as often as it likes: what it did before is all that is known. Raises StoreError."""
        found = replace(unknown(step, why), cases=await self.anything(name, step.kind))
        past = None if self.past is None else await self.past.asked(name)
        if self.past is None or past is None:
            return found
        work = await self.past.calls(name, "")
        return replace(
            found,
            takes=past.takes,
            evidence={f"{EARLIER} by functions": past.calls},
            load=Calls(count=1, seconds=() if work is None else work.seconds),
        )

    async def anything(self, name: NodeId, kind: StepKind, tokens: Span = ANY) -> tuple[Json, Json, Json]:
        """What stands in for an output of which not even the shape is known: the last one of an earlier run, else a text."""
        path = step_path(name)
        before = None if self.past is None else await self.past.output(name)
        if before is not None:
            return self.stand_ins.like(path, before, tokens)
        text = self.stand_ins.text(path, tokens)
        if kind is not StepKind.HTTP:
            return text
        least, likely, most = ({"status": 200, "headers": {}, "body": body} for body in text)
        return least, likely, most

    def _floor(self, step: Step, most: Rendered) -> Span:
        """Tokens that may be in a prompt though they were not rendered, as they stand behind conditions."""
        templates = [one for one in templates_of(step) if "{%" in one.raw or " if " in one.raw]
        if not templates:
            return NONE
        shown = most[1].input_tokens
        raw = sum(len(one.raw.encode()) for one in templates)
        return Span.between(0.0, 0.0, float(max(0, raw - shown)))


def _cheaper(takes: Takes, saved_usd: float | None) -> Takes:
    """By what is expected to be read from the provider's cache."""
    cost = takes.cost_usd
    if cost is None or cost.expected is None or not saved_usd:
        return takes
    return replace(takes, cost_usd=replace(cost, expected=max(cost.low, cost.expected - saved_usd)))
