"""Nodes that ask, or do their work themselves, and whose answers nobody knows: what they take, and what stands in for what they give."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from flowllm.core.records import dataclass
from flowllm.core.types import Json, NodeId, StepKind, step_path
from flowllm.explain.estimate import Estimate
from flowllm.explain.past import Past
from flowllm.explain.prompt_cache import ExpectedCache
from flowllm.explain.sizes import RESERVED, PastCalls, Rendered, prompt_of, takes_of
from flowllm.explain.span import ANY, NONE, Span, Takes
from flowllm.explain.stand_in import Case, StandIns, templates_of
from flowllm.explain.timing import Calls
from flowllm.language.workflow import LlmBody, Step
from flowllm.steps.base import Bound, WorkEstimate


async def _no_latency(_provider: str, _model: str) -> float | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of models and accounts."""

    keeps: Callable[[str, str], bool] = lambda _provider, _model: False
    """Of which models requests wait for those whose prompts begin the same, by provider and model."""
    latency: Callable[[str, str], Awaitable[float | None]] = _no_latency
    """Seconds that a request takes, where the step has no earlier one, by provider and model."""
    list_price: Callable[[str, str], str] = lambda _provider, _model: ""
    """The model whose list price stands in for the server's own, by provider and model."""


class AskingNodes:
    """Those of one plan."""

    def __init__(self, known: Known, past: Past | None) -> None:
        """`past` are earlier runs, where there is a database."""
        self.past = past
        self.stand_ins = StandIns()
        self._known = known
        self._prompts = ExpectedCache(known.keeps)
        self._sending: set[str] = set()
        """Keys of what would be sent: an equal request is sent once."""
        self._alike: dict[str, bool] = {}
        """Prompts without the answers in them, and whether one of each waits for answers."""

    async def taking(
        self, name: NodeId, state: str, why: str, rendered: Sequence[Rendered], *, waits: bool = False
    ) -> Estimate:
        """One node, rendered in each case. `waits`: its prompt depends on what is not known. Raises StoreError."""
        bound, work = rendered[Case.LIKELY]
        floor = self._floor(bound.step, rendered[Case.MOST]) if waits else NONE
        step = bound.step
        past = None if self.past is None else await self.past.calls(name, work.model)
        takes = takes_of(rendered, self.stand_ins, past if work.requests else None, waits=waits, floor=floor)
        takes = self._equal(takes, rendered[Case.LIKELY], waits=waits, before=past is not None)
        tokens = takes.output_tokens
        each = Takes(output_tokens=tokens).times(Span.of(1 / work.requests)) if work.requests else Takes()
        answer = await self._answer(name, bound, each.output_tokens)
        return Estimate(
            kind=step.kind,
            state=state,
            why=why,
            known=False,
            cases=answer,
            model=work.model,
            takes=takes,
            cached=None if waits else 0,
            past_calls=0 if past is None or not work.requests else past.calls,
            guessed=past is None and bool(work.requests),
            prompt_cache=self._prompts.add(work),
            load=await self._load(work, takes, past),
            list_price=self._known.list_price(work.provider, work.model) if work.requests else "",
        )

    def _equal(self, takes: Takes, rendered: Rendered, *, waits: bool, before: bool) -> Takes:
        """Less, where an equal request is or may be sent besides, or answered already."""
        bound, work = rendered
        if not bound.step.cache.enabled or not work.requests:
            return takes
        keys = set(work.memo_keys)
        alike = f"{work.model} {self.stand_ins.measured(prompt_of(bound.parts).text).text}"
        share = 1.0 if waits or not keys else len(keys - self._sending) / len(keys)
        # answers may make two prompts equal that differ in them alone, or in nothing; or one that was answered before
        waited = alike in self._alike and (waits or self._alike[alike])
        self._alike[alike] = waits or self._alike.get(alike, False)
        self._sending |= set() if waits else keys
        least = 0.0 if waited or (waits and before) else share
        return takes if least == 1.0 else takes.times(Span(low=least, expected=share, high=1.0))

    async def _load(self, work: WorkEstimate, takes: Takes, past: PastCalls | None) -> Calls:
        requests = takes.requests.expected or 0.0
        if not work.requests:
            return Calls(count=1, seconds=0.0 if past is None else past.seconds or 0.0)
        seconds = None if past is None else past.seconds
        if seconds is None:
            seconds = await self._known.latency(work.provider, work.model)
        if not requests:
            return Calls(count=0, seconds=seconds, provider=work.provider)
        before, after = takes.input_tokens.expected or 0.0, takes.output_tokens
        most = after.high if after.high is not None else after.expected or 0.0
        return Calls(
            count=requests,
            seconds=seconds,
            provider=work.provider,
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
        return Span(expected=0.0, high=float(max(0, raw - shown)))
