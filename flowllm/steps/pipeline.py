"""How steps hand what they do to the pipeline of calls: requests to models with fallbacks, and work of their own.

WorkEstimate of their own is found in the cache, joined, admitted, put on record, timed out and tried again as requests are. What
differs: it costs nothing, no budget holds it back, and only equal work of the same run is done together.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, Generic, TypeVar

from flowllm.calls.base import Call
from flowllm.calls.single_flight import InFlightCalls
from flowllm.core.cancel import CallStopped
from flowllm.core.errors import (
    ImageFailed,
    NodeTimedOut,
    ProviderDown,
    RequestRejected,
    RequestTooLarge,
    StepError,
    TemplateFailed,
    Unauthorized,
    UnknownModel,
)
from flowllm.core.events import FallbackTaken
from flowllm.core.fingerprint import canonical
from flowllm.core.records import dataclass, replace
from flowllm.core.request import Answer, LocalRequest, Request
from flowllm.core.types import Json, NodeStatus, Usage, add
from flowllm.language.workflow import Step
from flowllm.providers.base import Provider
from flowllm.steps.base import Bound, NodeContext
from flowllm.storage.base import NodeRecord, NodeWrite

R = TypeVar("R", bound=Request)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTarget(Generic[R]):
    """One model that may be asked, and what would be sent to it."""

    provider: Provider
    request: R
    keys: tuple[str, ...]
    """One key an answer."""
    parts: Mapping[str, Json]


_UNKEYED = frozenset({"service_tier", "prompt_cache_key"})
"""How fast, and from whose cache; sent all the same."""


async def with_fallbacks(
    targets: Sequence[ModelTarget[R]], ask: Callable[[ModelTarget[R]], Awaitable[NodeRecord]], context: NodeContext
) -> NodeRecord:
    """Ask the first, then the others while that can help. Raises the error of the last one asked."""
    target, *rest = targets
    while True:
        try:
            return await ask(target)
        except (StepError, ProviderDown) as error:
            rest = _that_may_do(rest, target, error)
            if not rest:
                raise
            target, *rest = rest
            _tell_fallback(context, target.request.model, error)


def _that_may_do(
    rest: Sequence[ModelTarget[R]], asked: ModelTarget[R], error: StepError | ProviderDown
) -> list[ModelTarget[R]]:
    """Those of the other models that could answer what that one did not."""
    if isinstance(error, (Unauthorized, ProviderDown)):
        return [target for target in rest if target.provider.account != asked.provider.account]
    if isinstance(error, (UnknownModel, RequestTooLarge)):
        return list(rest)
    hopeless = isinstance(error, (RequestRejected, NodeTimedOut, TemplateFailed, ImageFailed))
    return [] if hopeless else list(rest)


def _tell_fallback(context: NodeContext, model: str, error: StepError | ProviderDown) -> None:
    context.caller.emit(
        FallbackTaken(
            run_id=context.caller.lease.run_id,
            node_id=context.caller.node_id,
            at=context.clock.now(),
            model=model,
            error=context.redactor.value(error.as_dict()),
        )
    )


class AnswerCollector:
    """Gathers the answers to one target; the last of them completes the node's row."""

    def __init__(
        self, count: int, bound: Bound, context: NodeContext, output: Callable[[Sequence[Answer]], Json]
    ) -> None:
        """`output` makes the step's output of all answers, in the order of their places."""
        self._count = count
        self._bound = bound
        self._context = context
        self._output = output
        self._answers: dict[int, Answer] = {}
        self._node: NodeRecord | None = None

    @property
    def node(self) -> NodeRecord:
        """The row that the last answer completed."""
        if self._node is None:
            raise AssertionError("an answer came without its row")
        return self._node

    def on_answer(self, place: int) -> Callable[[Answer], Sequence[NodeWrite]]:
        """What to do with the answer of that place."""

        def rows_for(answer: Answer) -> Sequence[NodeWrite]:
            self._answers[place] = answer
            if len(self._answers) < self._count:
                return ()
            self._node = self._row()
            return (self._context.write(self._node),)

        return rows_for

    def _row(self) -> NodeRecord:
        answers = [self._answers[place] for place in range(self._count)]
        if self._count == 1:  # as nearly always
            output, figures = self._output(answers), figures_of(answers[0])
            return self._context.record(self._bound, NodeStatus.SUCCEEDED, output=output, **figures)
        requests = {answer.batch or str(place): answer for place, answer in enumerate(answers)}.values()
        return self._context.record(
            self._bound,
            NodeStatus.SUCCEEDED,
            output=self._output(answers),
            model=answers[0].model,
            provider=answers[0].provider,
            cached=all(answer.cached for answer in answers),
            attempts=sum(answer.attempts for answer in requests if not answer.joined),
            saved_usd=_sum(answer.saved_usd for answer in answers),
            truncated=any(answer.truncated for answer in answers),
            usage=sum((answer.usage for answer in answers), Usage()),
            cost_usd=_sum(answer.cost_usd for answer in answers),
            queue_s=sum(answer.queue_s for answer in requests if not answer.cached),
            call_s=sum(answer.call_s for answer in requests if not answer.cached),
        )


def _sum(costs: Iterable[float | None]) -> float | None:
    """None as soon as one of them is unknown."""
    total: float | None = 0.0
    for cost in costs:
        total = add(total, cost)
    return total


def figures_of(answer: Answer) -> dict[str, Json]:
    """What a row of one answer alone has of it, besides its output."""
    cached = answer.cached
    return {
        "model": answer.model,
        "provider": answer.provider,
        "cached": cached,
        "attempts": 0 if answer.joined else answer.attempts,
        "truncated": answer.truncated,
        "usage": answer.usage,
        "cost_usd": answer.cost_usd,
        "saved_usd": answer.saved_usd,
        "queue_s": 0.0 if cached else answer.queue_s,
        "call_s": 0.0 if cached else answer.call_s,
    }


async def gather_answers(asks: Sequence[Awaitable[Answer]]) -> None:
    """Wait for all, so that what is paid for is kept, then raise the first error."""
    outcomes = await asyncio.gather(*asks, return_exceptions=True)
    errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    for error in sorted(errors, key=lambda error: not isinstance(error, CallStopped)):
        raise error


def once(callback: Callable[[], None]) -> Callable[[], None]:
    """A callback that passes on the first call only."""
    called = False

    def call() -> None:
        nonlocal called
        if not called:
            called = True
            callback()

    return call


def keyed_body(body: Mapping[str, Json]) -> dict[str, Json]:
    """What of a body is part of its key: all but what cannot change an answer."""
    return {name: value for name, value in body.items() if name not in _UNKEYED}


def named(value: Json, what: str, step: Step) -> str:
    """A name that a template gave. Raises TemplateFailed if it is none."""
    if not isinstance(value, str) or not value.strip():
        raise TemplateFailed(f"{step.where}: `{what}` of step {step.id} must be a name, not {value!r}")
    return value.strip()


def mapping(value: Json, what: str, step: Step) -> Mapping[str, Json]:
    """A mapping that a template gave. Raises TemplateFailed if it is none."""
    if not isinstance(value, dict):
        raise TemplateFailed(f"{step.where}: `{what}` must be a mapping")
    return value


_MASKED: Final = re.compile(r"\*\*\*|%2A%2A%2A")
"""A secret in what a step was given, also in a URL."""


@dataclass(slots=True, kw_only=True)
class LocalWork:
    """How a bound step does its work: the performer of its call."""

    name: str
    """The kind."""
    account: str
    """Whose slots an attempt takes."""
    perform: Callable[[float, float], Awaitable[Json]]
    """One attempt, within so many seconds, of the so many that are left to all; gives the output. Raises StepError."""
    prepare: Callable[[], Awaitable[str]] | None = None
    """Gives the account, where that takes work. Raises StepError."""
    idle: Callable[[], float] = float
    """Seconds of all attempts so far that do not count against the timeout."""
    figures: Callable[[], Mapping[str, Json]] = dict
    """What it took, as fields of the node's record."""

    async def ready(self) -> None:
        """Find out whose slots it takes."""
        if self.prepare is not None:
            self.account = await self.prepare()

    def cost(self, model: str, usage: Usage, *, tier: str = "") -> float:  # noqa: ARG002 - the protocol's signature
        """Nothing is paid."""
        return 0.0


async def run_local(calls: InFlightCalls, work: LocalWork, bound: Bound, context: NodeContext) -> NodeRecord:
    """Do it, or take what was done before; the record is durable. Raises StepError, StoreError, CallStopped."""
    step, found = bound.step, list[NodeRecord]()
    use_cache = step.cache.enabled and context.write_memo
    given_secrets = _MASKED.search(canonical(bound.parts)) is not None

    async def perform(limit: float, left: float) -> Json:
        context.begun()
        value = await work.perform(limit, left)
        # What holds a secret that the step was not given itself is for this run alone: to others it may be a word
        return context.redactor.value(value) if given_secrets else value

    def rows_for(answer: Answer) -> Sequence[NodeWrite]:
        done = not (answer.cached or answer.joined)
        figures = {"cost_usd": 0.0, **work.figures()}
        figures["queue_s"] = figures.get("queue_s", 0.0) + (answer.queue_s if done else 0.0)
        if done:
            figures |= {"attempts": answer.attempts, "call_s": answer.call_s}
        found[:] = [context.record(bound, NodeStatus.SUCCEEDED, output=answer.value, cached=not done, **figures)]
        return [context.write(node) for node in found]

    await calls.answer(
        Call(
            caller=replace(context.caller, budget=None),
            request=LocalRequest(perform=perform),
            provider=work,
            key=bound.key,
            rows_for=rows_for,
            retry=step.retry,
            timeout=step.timeout,
            priority=step.priority,
            read_memo=use_cache and context.read_memo and not context.refresh,
            write_memo=use_cache,
            ttl=step.cache.ttl,
            join=use_cache and not context.refresh,
            missed=context.missed,
            scope=context.caller.lease.run_id,
            idle=work.idle,
        )
    )
    return found[0]


def too_late(what: str, limit: float, then: str, *, attempt: bool) -> NodeTimedOut:
    """The error of an attempt that took too long; `attempt` if it had a limit of its own, so that another may follow."""
    option = "`retry.attempt_timeout`" if attempt else "`timeout`"
    error = NodeTimedOut(f"{what} within {limit:g} s", hint=f"raise the step's {option}; {then}")
    error.retryable = attempt
    return error
