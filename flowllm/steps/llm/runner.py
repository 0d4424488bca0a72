"""`prompt` and `messages`: one chat completion, or several independent ones, with other models to fall back on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias, cast

from flowllm.calls.base import Call
from flowllm.calls.single_flight import InFlightCalls
from flowllm.calls.validation import Validator
from flowllm.core.errors import TemplateFailed
from flowllm.core.fingerprint import canonical, fingerprint
from flowllm.core.images import TOKENS
from flowllm.core.request import Answer, ChatRequest, ImageFile
from flowllm.core.types import Json, OnTruncated, Usage, estimate_tokens
from flowllm.language.sandbox_text import kind_of
from flowllm.language.template import Template, ValueTemplate
from flowllm.language.workflow import LlmBody, Step
from flowllm.providers.base import Provider
from flowllm.steps.base import Bound, NodeContext, Work
from flowllm.steps.llm.answer_lengths import UNKNOWN_LENGTH, Lengths
from flowllm.steps.llm.images import Pictures, by_content, illustrated, prompt_tokens
from flowllm.steps.llm.per_body import PerBody
from flowllm.steps.model_calls import (
    AnswerCollector,
    ModelTarget,
    gather_answers,
    keyed_body,
    mapping,
    named,
    once,
    with_fallbacks,
)
from flowllm.storage.base import NodeRecord, NodeWrite

_CONTENTS = frozenset({"content", "tool_calls", "refusal", "audio", "function_call"})
"""Of a message, what there must be one of."""


_Target: TypeAlias = ModelTarget[ChatRequest]


class LlmRunner:
    """Steps that ask a model. One of these serves a whole run."""

    def __init__(self, provider: Callable[[str], Provider], calls: InFlightCalls) -> None:
        """`provider` finds one by the name that a step gives; it raises StepError for an unknown name."""
        self._provider = provider
        self._calls = calls
        self._validators = PerBody(_validator)
        self._lengths = PerBody(lambda _: Lengths())
        self._pictures = Pictures()

    def bind(self, step: Step, values: Mapping[str, Json]) -> Bound:
        """The requests that the step would send: its own model's first, then its fallbacks'."""
        body = cast("LlmBody", step.body)
        samples = _samples(body, values)
        images = self._pictures.of(body, values, step)
        request = ChatRequest(
            model=named(body.model.render(values), "model", step),
            messages=_messages(body, values, step, images),
            params=mapping({} if body.params is None else body.params.render(values), "params", step),
            output=body.output,
            images=tuple(image for image in images if isinstance(image, ImageFile)),
        )
        own = named(body.provider.render(values), "provider", step)
        targets = [self._target(body.aliases.get(own, own), request, samples)]
        for target in body.fallback:
            other = own if target.provider is None else named(target.provider.render(values), "provider", step)
            model = named(target.model.render(values), "model", step)
            there = body.aliases.get(other, other)
            targets.append(self._target(there, replace(request, model=model), samples))
        first = targets[0]
        key = first.keys[0] if body.samples is None else fingerprint({"samples": list(first.keys)})
        parts = first.parts if body.samples is None else {**first.parts, "samples": body.samples}
        return Bound(step=step, key=key, parts=parts, work=tuple(targets))

    def _target(self, name: str, request: ChatRequest, samples: Sequence[int]) -> _Target:
        provider = self._provider(name)
        account = provider.account
        parts: dict[str, Json] = {
            "kind": "chat",
            "provider": account.keyed,
            "body": keyed_body(provider.encode(request)),
            "schema": None if request.output is None else request.output.schema,
            "json": request.output is not None,
        }
        keyed = {**parts, "body": by_content(parts["body"], request.images)} if request.images else parts
        keys = tuple(fingerprint({**keyed, "sample": sample}) for sample in samples)
        return ModelTarget(provider=provider, request=request, keys=keys, parts={**parts, "sample": samples[0]})

    def work(self, bound: Bound) -> Work:
        """The requests of the step's own model, were every one of them sent once."""
        target = cast("tuple[_Target, ...]", bound.work)[0]
        count, request = len(target.keys), target.request
        prompt = estimate_tokens(canonical(target.parts["body"])) + TOKENS * len(request.images)
        tokens_in, tokens_out = prompt * count, (_most(request) or UNKNOWN_LENGTH) * count
        usage = Usage(input_tokens=tokens_in, output_tokens=tokens_out)
        return Work(
            memo_keys=target.keys if bound.step.cache.enabled else (),
            requests=count,
            model=request.model,
            provider=target.provider.name,
            input_tokens=tokens_in,
            output_tokens=tokens_out,
            cost_usd=target.provider.cost(request.model, usage),
        )

    async def run(self, bound: Bound, context: NodeContext) -> NodeRecord:
        """Ask the step's model, then its fallbacks while that can help. Raises the error of the last one asked."""
        targets = cast("tuple[_Target, ...]", bound.work)
        if len(targets) > 1 or len(targets[0].keys) > 1:
            context = replace(context, missed=once(context.missed))
        return await with_fallbacks(targets, lambda one: self._ask_all(one, bound, context), context)

    async def _ask_all(self, target: _Target, bound: Bound, context: NodeContext) -> NodeRecord:
        several = cast("LlmBody", bound.step.body).samples is not None
        lengths = self._lengths.of(cast("LlmBody", bound.step.body))

        def output(answers: Sequence[Answer]) -> Json:
            for answer in answers:
                if answer.usage.output_tokens is not None:
                    lengths.add(answer.usage.output_tokens)
            return [answer.value for answer in answers] if several else answers[0].value

        collector = AnswerCollector(len(target.keys), bound, context, output)
        asks = [
            self._ask(target, key, bound, context, collector.on_answer(place)) for place, key in enumerate(target.keys)
        ]
        if len(asks) == 1:
            await self._calls.answer(asks[0])
        else:
            await gather_answers([self._calls.answer(ask) for ask in asks])
        return collector.node

    def _ask(
        self,
        target: _Target,
        key: str,
        bound: Bound,
        context: NodeContext,
        settle: Callable[[Answer], Sequence[NodeWrite]],
    ) -> Call:
        step = bound.step
        body = cast("LlmBody", step.body)
        use_memo = step.cache.enabled and context.write_memo
        return Call(
            caller=context.caller,
            request=target.request,
            provider=target.provider,
            key=key,
            settle=settle,
            validator=self._validators.of(body),
            keep_truncated=body.on_truncated is OnTruncated.WARN,
            retry=step.retry,
            timeout=step.timeout,
            priority=step.priority,
            reckon=lambda: self._expected(target.request, body),
            read_memo=use_memo and context.read_memo and not context.refresh,
            write_memo=use_memo,
            ttl=step.cache.ttl,
            join=use_memo and not context.refresh,
            missed=context.missed,
        )

    def _expected(self, request: ChatRequest, body: LlmBody) -> Usage:
        """The prompt's estimate, and max_tokens or what nearly all of the step's earlier answers took.

        A schema and tools are part of the prompt: the provider reads and charges them.
        """
        prompt = prompt_tokens(request.messages)
        schema = None if request.output is None else request.output.schema
        prompt += sum(estimate_tokens(canonical(part)) for part in (schema, request.params.get("tools")) if part)
        return Usage(input_tokens=prompt, output_tokens=_most(request) or self._lengths.of(body).p95())


def _validator(body: LlmBody) -> Validator | None:
    return None if body.output is None else Validator(body.output)


def _samples(body: LlmBody, values: Mapping[str, Json]) -> Sequence[int]:
    """The numbers of the answers to ask for: `samples` of them, from `sample` on."""
    first = 0 if body.sample is None else body.sample.render(values)
    if isinstance(first, str) and first.strip().isdecimal():
        first = int(first)
    if isinstance(first, bool) or not isinstance(first, int) or first < 0:
        raise TemplateFailed(f"`sample` must be a whole number from 0, not {first!r}")
    return range(first, first + (1 if body.samples is None else body.samples))


def _messages(
    body: LlmBody, values: Mapping[str, Json], step: Step, images: Sequence[str | ImageFile]
) -> tuple[Mapping[str, Json], ...]:
    if body.messages is not None:
        messages = _spliced(body.messages, values)
        wrong = _wrong_messages(messages)
        if wrong:
            raise TemplateFailed(
                f"{step.where}: `messages` must give a list of messages, each {{role: …, content: …}}, and {wrong}",
                hint="`| fromjson` makes a list of a text that is JSON" if "text" in wrong else "",
            )
        return tuple(messages)
    system = () if body.system is None else ({"role": "system", "content": body.system.text(values)},)
    prompt = "" if body.prompt is None else body.prompt.text(values)
    return (*system, {"role": "user", "content": illustrated(prompt, images)})


def _spliced(messages: ValueTemplate, values: Mapping[str, Json]) -> Json:
    """The messages; where one of a list is a template that gives a list, those in it stand in its place."""
    rendered = messages.render(values)
    if not isinstance(messages.tree, list) or not isinstance(rendered, list):
        return rendered
    spliced: list[Json] = []
    for written, message in zip(messages.tree, rendered, strict=True):
        spliced += message if isinstance(written, Template) and isinstance(message, list) else [message]
    return spliced


def _wrong_messages(messages: Json) -> str:
    """What keeps a value from being a list of messages; empty if nothing does."""
    if not isinstance(messages, list):
        return f"this is {kind_of(messages)}"
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, dict):
            return f"number {number} is {kind_of(message)}"
        if not isinstance(message.get("role"), str) or not message["role"]:
            return f"number {number} has no `role`"
        if not _CONTENTS.intersection(message):
            return f"number {number} has no `content`"
    return "" if messages else "this list is empty"


def _most(request: ChatRequest) -> int | None:
    """The longest answer that the request allows, by either of the names that Chat Completions has for it."""
    found = [request.params.get(name) for name in ("max_tokens", "max_completion_tokens")]
    return max((most for most in found if isinstance(most, int) and not isinstance(most, bool)), default=None)
