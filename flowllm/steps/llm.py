"""`prompt` and `messages`: one chat completion, or several independent ones, with other models to fall back on."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from flowllm.calls.base import Ask
from flowllm.calls.gate import CallStopped
from flowllm.calls.validation import Validator
from flowllm.errors import (
    NodeTimedOut,
    ProviderDown,
    RequestRejected,
    StepError,
    TemplateFailed,
    Unauthorized,
    UnknownModel,
)
from flowllm.events import FallbackTaken
from flowllm.fingerprint import canonical, fingerprint
from flowllm.request import ChatRequest
from flowllm.steps.base import Bound, Work
from flowllm.steps.lengths import UNKNOWN_LENGTH, Lengths
from flowllm.types import NodeStatus, OnTruncated, Usage, estimate_tokens

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from flowllm.calls.flight import Flights
    from flowllm.providers.base import Account, Provider
    from flowllm.request import Answer
    from flowllm.spec.workflow import LlmBody, Step
    from flowllm.steps.base import NodeContext
    from flowllm.store.base import NodeRecord, NodeWrite
    from flowllm.types import Json


_AROUND = 8
"""Tokens that a message has besides its text: its role, and what sets it apart from the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """One model to ask, and the key of what would be sent to it."""

    provider: Provider
    request: ChatRequest
    keys: tuple[str, ...]
    """One key a sample."""
    parts: Mapping[str, Json]


class LlmKind:
    """Steps that ask a model. One of these serves a whole run."""

    def __init__(self, provider: Callable[[str], Provider], flights: Flights) -> None:
        """`provider` finds one by the name that a step gives; it raises StepError for an unknown name."""
        self._provider = provider
        self._flights = flights
        self._validators: dict[str, Validator] = {}
        self._lengths: defaultdict[str, Lengths] = defaultdict(Lengths)

    def bind(self, step: Step, values: Mapping[str, Json]) -> Bound:
        """The requests that the step would send: its own model's first, then its fallbacks'."""
        body = cast("LlmBody", step.body)
        samples = _samples(body, values)
        request = ChatRequest(
            model=_text(body.model.render(values), "model", step),
            messages=_messages(body, values, step),
            params=_params(body, values, step),
            output=body.output,
        )
        named = _text(body.provider.render(values), "provider", step)
        questions = [self._question(named, request, samples)]
        for target in body.fallback:
            other = (
                named if target.provider is None else _text(target.provider.render(values), "provider", step)
            )
            model = _text(target.model.render(values), "model", step)
            questions.append(self._question(other, replace(request, model=model), samples))
        first = questions[0]
        key = first.keys[0] if body.samples is None else fingerprint({"samples": list(first.keys)})
        parts = first.parts if body.samples is None else {**first.parts, "samples": body.samples}
        return Bound(step=step, key=key, parts=parts, work=tuple(questions))

    def _question(self, name: str, request: ChatRequest, samples: Sequence[int]) -> _Question:
        provider = self._provider(name)
        account = provider.account
        parts: dict[str, Json] = {
            "kind": "chat",
            "provider": {"type": account.type, "base_url": account.base_url},
            "body": provider.encode(request),
            "schema": None if request.output is None else request.output.schema,
            "json": request.output is not None,
        }
        keys = tuple(fingerprint({**parts, "sample": sample}) for sample in samples)
        return _Question(provider=provider, request=request, keys=keys, parts={**parts, "sample": samples[0]})

    def work(self, bound: Bound) -> Work:
        """The requests of the step's own model, were every one of them sent once."""
        question = cast("tuple[_Question, ...]", bound.work)[0]
        count, request = len(question.keys), question.request
        usage = Usage(
            input_tokens=estimate_tokens(canonical(question.parts["body"])) * count,
            output_tokens=(_most(request) or UNKNOWN_LENGTH) * count,
        )
        return Work(
            memo_keys=question.keys if bound.step.cache.enabled else (),
            requests=count,
            model=request.model,
            provider=question.provider.name,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cost_usd=question.provider.cost(request.model, usage),
        )

    async def run(self, bound: Bound, context: NodeContext) -> NodeRecord:
        """Ask the step's model, then its fallbacks while that can help. Raises the error of the last one asked."""
        question, *rest = cast("tuple[_Question, ...]", bound.work)
        while True:
            try:
                return await self._ask_all(question, bound, context)
            except (StepError, ProviderDown) as error:
                rest = _that_may_do(rest, question.provider.account, error)
                if not rest:
                    raise
                question, *rest = rest
                _tell_fallback(context, question.request.model, error)

    async def _ask_all(self, question: _Question, bound: Bound, context: NodeContext) -> NodeRecord:
        gathered = _Samples(question, bound, context, self._lengths[bound.step.id])
        asks = [
            self._ask(question, key, bound, context, gathered.settler(place))
            for place, key in enumerate(question.keys)
        ]
        if len(asks) == 1:
            await self._flights.ask(asks[0])
        else:
            await _all([self._flights.ask(ask) for ask in asks])
        return gathered.node

    def _ask(
        self,
        question: _Question,
        key: str,
        bound: Bound,
        context: NodeContext,
        settle: Callable[[Answer], Sequence[NodeWrite]],
    ) -> Ask:
        step = bound.step
        body = cast("LlmBody", step.body)
        use_memo = step.cache.enabled and context.write_memo
        return Ask(
            asker=context.asker,
            request=question.request,
            provider=question.provider,
            key=key,
            settle=settle,
            validator=self._validator(step),
            keep_truncated=body.on_truncated is OnTruncated.WARN,
            retry=step.retry,
            timeout=step.timeout,
            priority=step.priority,
            expected=self._expected(question.request, step),
            read_memo=use_memo and context.read_memo and not context.refresh,
            write_memo=use_memo,
            ttl=step.cache.ttl,
            join=use_memo and not context.refresh,
        )

    def _expected(self, request: ChatRequest, step: Step) -> Usage:
        """The prompt's estimate, and max_tokens or what nearly all of the step's earlier answers took.

        A schema and tools are part of the prompt: the provider reads and charges them.
        """
        prompt = sum(
            estimate_tokens(str(message.get("content", ""))) + _AROUND for message in request.messages
        )
        schema = None if request.output is None else request.output.schema
        prompt += sum(
            estimate_tokens(canonical(part)) for part in (schema, request.params.get("tools")) if part
        )
        return Usage(input_tokens=prompt, output_tokens=_most(request) or self._lengths[step.id].p95())

    def _validator(self, step: Step) -> Validator | None:
        output = cast("LlmBody", step.body).output
        if output is None:
            return None
        if step.id not in self._validators:
            self._validators[step.id] = Validator(output)
        return self._validators[step.id]


class _Samples:
    """Gathers the answers of one question; the last of them completes the node's row."""

    def __init__(self, question: _Question, bound: Bound, context: NodeContext, lengths: Lengths) -> None:
        self._lengths = lengths
        self._question = question
        self._bound = bound
        self._context = context
        self._answers: dict[int, Answer] = {}
        self._node: NodeRecord | None = None

    @property
    def node(self) -> NodeRecord:
        """The row that the last answer completed."""
        if self._node is None:
            raise AssertionError("an answer came without its row")
        return self._node

    def settler(self, place: int) -> Callable[[Answer], Sequence[NodeWrite]]:
        """What to do with the answer of that sample."""

        def settle(answer: Answer) -> Sequence[NodeWrite]:
            self._answers[place] = answer
            self._lengths.add(answer.usage.output_tokens)
            if len(self._answers) < len(self._question.keys):
                return ()
            self._node = self._row()
            return (self._context.write(self._node),)

        return settle

    def _row(self) -> NodeRecord:
        answers = [self._answers[place] for place in range(len(self._question.keys))]
        several = cast("LlmBody", self._bound.step.body).samples is not None
        costs = [answer.cost_usd for answer in answers]
        return self._context.record(
            self._bound,
            NodeStatus.SUCCEEDED,
            output=[answer.value for answer in answers] if several else answers[0].value,
            model=answers[0].model,
            provider=answers[0].provider,
            cached=all(answer.cached for answer in answers),
            attempts=sum(answer.attempts for answer in answers if not answer.joined),
            truncated=any(answer.truncated for answer in answers),
            usage=sum((answer.usage for answer in answers), Usage()),
            cost_usd=None if None in costs else sum(cost for cost in costs if cost is not None),
            queue_s=sum(answer.queue_s for answer in answers if not answer.cached),
            call_s=sum(answer.call_s for answer in answers if not answer.cached),
        )


async def _all(asks: Sequence[Awaitable[Answer]]) -> None:
    """Wait for all, so that what is paid for is kept, then raise the first error."""
    outcomes = await asyncio.gather(*asks, return_exceptions=True)
    errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    for error in sorted(errors, key=lambda error: not isinstance(error, CallStopped)):
        raise error


def _samples(body: LlmBody, values: Mapping[str, Json]) -> Sequence[int]:
    """The numbers of the answers to ask for: `samples` of them, from `sample` on."""
    first = 0 if body.sample is None else body.sample.render(values)
    if isinstance(first, str) and first.strip().isdecimal():
        first = int(first)
    if isinstance(first, bool) or not isinstance(first, int) or first < 0:
        raise TemplateFailed(f"`sample` must be a whole number from 0, not {first!r}")
    return range(first, first + (1 if body.samples is None else body.samples))


def _messages(body: LlmBody, values: Mapping[str, Json], step: Step) -> tuple[Mapping[str, Json], ...]:
    if body.messages is not None:
        messages = body.messages.render(values)
        if not isinstance(messages, list) or not messages or not all(map(_is_message, messages)):
            raise TemplateFailed(
                f"{step.where}: `messages` must give a list of messages, each {{role: …, content: …}}"
            )
        return tuple(messages)
    system = () if body.system is None else ({"role": "system", "content": body.system.text(values)},)
    prompt = "" if body.prompt is None else body.prompt.text(values)
    return (*system, {"role": "user", "content": prompt})


def _params(body: LlmBody, values: Mapping[str, Json], step: Step) -> Mapping[str, Json]:
    params = {} if body.params is None else body.params.render(values)
    if not isinstance(params, dict):
        raise TemplateFailed(f"{step.where}: `params` must be a mapping")
    return params


def _text(value: Json, what: str, step: Step) -> str:
    if not isinstance(value, str) or not value.strip():
        raise TemplateFailed(f"{step.where}: `{what}` of step {step.id} must be a name, not {value!r}")
    return value.strip()


def _is_message(message: Json) -> bool:
    return isinstance(message, dict) and isinstance(message.get("role"), str)


def _that_may_do(
    rest: Sequence[_Question], account: Account, error: StepError | ProviderDown
) -> list[_Question]:
    """Those of the other models that could answer what one on that account did not."""
    if isinstance(error, (Unauthorized, ProviderDown)):
        return [question for question in rest if question.provider.account != account]
    if isinstance(error, UnknownModel):
        return list(rest)
    return [] if isinstance(error, (RequestRejected, NodeTimedOut, TemplateFailed)) else list(rest)


def _tell_fallback(context: NodeContext, model: str, error: StepError | ProviderDown) -> None:
    context.asker.emit(
        FallbackTaken(
            run_id=context.asker.fence.run_id,
            node_id=context.asker.node_id,
            at=context.clock.now(),
            model=model,
            error=error.as_dict(),
        )
    )


def _most(request: ChatRequest) -> int | None:
    """The longest answer that the request allows, by either of the names that Chat Completions has for it."""
    found = [request.params.get(name) for name in ("max_tokens", "max_completion_tokens")]
    return max((most for most in found if isinstance(most, int) and not isinstance(most, bool)), default=None)
