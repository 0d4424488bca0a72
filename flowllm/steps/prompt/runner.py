"""`prompt` and `messages`: one chat completion, or several independent ones, with other models to fall back on."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Generic, TypeAlias, TypeVar, cast

from flowllm.calls.base import MOST_REPAIRS, Call
from flowllm.calls.single_flight import InFlightCalls
from flowllm.calls.stored_answer import usable_answer
from flowllm.calls.validation import Validator
from flowllm.core.errors import TemplateFailed
from flowllm.core.fingerprint import canonical, fingerprint
from flowllm.core.prefix import PromptPrefix
from flowllm.core.request import IMAGE_TOKENS, Answer, ChatRequest, ImageFile, examine, service_tier, stamp
from flowllm.core.types import Json, OnTruncated, Usage, estimate_tokens
from flowllm.language.sandbox_text import kind_of
from flowllm.language.template import Template, ValueTemplate
from flowllm.language.workflow import LlmBody, Step
from flowllm.providers.base import CopiesTexts, Provider
from flowllm.steps.base import Bound, NodeContext, WorkEstimate
from flowllm.steps.pipeline import (
    AnswerCollector,
    ModelTarget,
    figures_of,
    gather_answers,
    keyed_body,
    mapping,
    named,
    once,
    with_fallbacks,
)
from flowllm.steps.prompt.prepared import FilledRequest, PreparedRequests
from flowllm.storage.base import MemoRecord, NodeRecord, NodeWrite

_SCHEMES = ("http:", "https:", "data:")
_REMEMBERED_IMAGES = 1000
_AROUND = 8
"""Tokens that a message has besides its text: its role, and what sets it apart from the next."""


class Pictures:
    """Finds out what images a step sends. A file that has not changed is read only once to be known."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, tuple[int, ...]], ImageFile] = {}

    def of(self, body: LlmBody, values: Mapping[str, Json], step: Step) -> Sequence[str | ImageFile]:
        """URLs and files, in the author's order. Raises TemplateFailed, ImageFailed."""
        if body.images is None:
            return ()
        named = body.images.render(values)
        listed = named if isinstance(named, list) else [named]
        for one in listed:
            if not isinstance(one, str) or not one.strip():
                raise TemplateFailed(
                    f"{step.where}: `images` must give a URL or a path, or a list of them, not {one!r}"
                )
        return [one if one.lower().startswith(_SCHEMES) else self._file(one, body.folder) for one in listed]

    def _file(self, path: str, folder: str) -> ImageFile:
        key = (path, folder, stamp(path, folder))
        if key not in self._known:
            image = examine(path, folder)
            if len(self._known) >= _REMEMBERED_IMAGES:
                del self._known[next(iter(self._known))]
            self._known[key] = image
        return self._known[key]


def illustrated(text: str, images: Sequence[str | ImageFile]) -> Json:
    """The content of a message: the text alone, or with the images in the API's own shape."""
    if not images:
        return text
    shown = [{"url": image} if isinstance(image, str) else image.placeholder for image in images]
    return [{"type": "text", "text": text}, *({"type": "image_url", "image_url": one} for one in shown)]


def by_content(body: Json, images: Sequence[ImageFile]) -> Json:
    """The body as it is in the key: of a file its content counts, not its name."""
    if not images:
        return body
    if isinstance(body, list):
        return [by_content(item, images) for item in body]
    if not isinstance(body, dict):
        return body
    if any(body == image.placeholder for image in images):
        return {"sha256": body["sha256"]}
    return {key: by_content(value, images) for key, value in body.items()}


def prompt_tokens(messages: Sequence[Mapping[str, Json]]) -> int:
    """About how many tokens messages have, images included."""
    return sum(_tokens(message.get("content", "")) + _AROUND for message in messages)


def _tokens(content: Json) -> int:
    if not isinstance(content, list):
        return estimate_tokens(str(content))
    return sum(IMAGE_TOKENS if _is_image(part) else estimate_tokens(str(part)) for part in content)


def _is_image(part: Json) -> bool:
    return isinstance(part, dict) and "image_url" in part


UNKNOWN_LENGTH = 1024
"""Tokens to reserve for an answer while nothing is known."""
_REMEMBERED_LENGTHS = 200
_ENOUGH = 5


class Lengths:
    """The latest answers' tokens, in order of arrival and of size."""

    def __init__(self) -> None:
        self._latest: deque[int] = deque()
        self._sorted: list[int] = []

    def add(self, tokens: int) -> None:
        """One more answer."""
        self._latest.append(tokens)
        insort(self._sorted, tokens)
        if len(self._latest) > _REMEMBERED_LENGTHS:
            del self._sorted[bisect_left(self._sorted, self._latest.popleft())]

    def p95(self) -> int:
        """Tokens that 95 of 100 answers stayed within; UNKNOWN_LENGTH until there are a few."""
        if len(self._sorted) < _ENOUGH:
            return UNKNOWN_LENGTH
        return max(1, self._sorted[min(len(self._sorted) - 1, int(len(self._sorted) * 0.95))])


T = TypeVar("T")


class PerBody(Generic[T]):
    """One value for the body of each step. Not for each id: steps of two graphs of one run may have the same."""

    def __init__(self, make: Callable[[LlmBody], T]) -> None:
        self._make = make
        self._made: dict[int, tuple[LlmBody, T]] = {}

    def of(self, body: LlmBody) -> T:
        """The value that belongs to this very body; made when it is first asked for."""
        found = self._made.get(id(body))
        if found is None:  # held together with its body, so that no other can come to have that id
            found = self._made[id(body)] = (body, self._make(body))
        return found[1]


_CONTENTS = frozenset({"content", "tool_calls", "refusal", "audio", "function_call"})
"""Of a message, what there must be one of."""


_Target: TypeAlias = ModelTarget[ChatRequest]


class PromptRunner:
    """Steps that ask a model. One of these serves a whole run."""

    def __init__(self, provider: Callable[[str], Provider], calls: InFlightCalls) -> None:
        """`provider` finds one by the name that a step gives; it raises StepError for an unknown name."""
        self._provider = provider
        self._calls = calls
        self._validators = PerBody(_validator)
        self._lengths = PerBody(lambda _: Lengths())
        self._pictures = Pictures()
        self._prepared = PerBody(PreparedRequests)

    def bind(self, step: Step, values: Mapping[str, Json]) -> Bound:
        """The requests that the step would send: its own model's first, then its fallbacks'."""
        body = cast("LlmBody", step.body)
        model, own = (
            named(body.model.render(values), "model", step),
            named(body.provider.render(values), "provider", step),
        )
        name = body.aliases.get(own, own)
        prepared = self._prepared.of(body).get(name, model, lambda: self._with_holes(step, name, model, values))
        bound = None if prepared is None else prepared.bound(step, values)
        if bound is not None:
            return bound
        samples = _samples(body, values)
        images = self._pictures.of(body, values, step)
        request = _request(step, model, values, _messages(body, values, step, images), images)
        targets = [self._target(name, request, samples)]
        for target in body.fallback:
            other = own if target.provider is None else named(target.provider.render(values), "provider", step)
            model = named(target.model.render(values), "model", step)
            there = body.aliases.get(other, other)
            targets.append(self._target(there, replace(request, model=model), samples))
        first = targets[0]
        key = first.keys[0] if body.samples is None else fingerprint({"samples": list(first.keys)})
        parts = first.parts if body.samples is None else {**first.parts, "samples": body.samples}
        return Bound(step=step, key=key, parts=parts, work=tuple(targets))

    def _with_holes(self, step: Step, name: str, model: str, values: Mapping[str, Json]) -> _Target | None:
        """The request of the step's prompt with holes in it; None where the provider does not just copy what they get."""
        body = cast("LlmBody", step.body)
        request = _request(step, model, values, _messages(body, values, step, (), self._prepared.of(body).holes), ())
        provider = self._provider(name)
        copied = isinstance(provider, CopiesTexts) and provider.copies_texts(request)
        return self._target(name, request, _samples(body, values)) if copied else None

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

    def work(self, bound: Bound) -> WorkEstimate:
        """The requests of the step's own model, were every one of them sent once, and those of its fallbacks."""
        first, *others = (self._work(target, bound.step) for target in _targets(bound))
        return replace(first, fallbacks=tuple(others)) if others else first

    @staticmethod
    def _work(target: _Target, step: Step) -> WorkEstimate:
        count, request = len(target.keys), target.request
        prompt = estimate_tokens(canonical(target.parts["body"])) + IMAGE_TOKENS * len(request.images)
        most = _most(request)
        return WorkEstimate(
            memo_keys=target.keys if step.cache.enabled else (),
            requests=count,
            model=request.model,
            provider=target.provider.name,
            input_tokens=prompt * count,
            output_tokens=None if most is None else most * count,
            price=partial(target.provider.cost, request.model, tier=service_tier(request)),
            tier=service_tier(request),
            repairs=0 if request.output is None else MOST_REPAIRS,
            attempts=step.retry.max_attempts,
            prefix=PromptPrefix(request),
        )

    async def run(self, bound: Bound, context: NodeContext) -> NodeRecord:
        """Ask the step's model, then its fallbacks while that can help. Raises the error of the last one asked."""
        targets = _targets(bound)
        if len(targets) > 1 or len(targets[0].keys) > 1:
            context = replace(context, missed=once(context.missed))
        return await with_fallbacks(targets, lambda one: self._ask_all(one, bound, context), context)

    def answer_key(self, bound: Bound) -> str:
        """See Recalling."""
        if isinstance(bound.work, FilledRequest):
            return bound.key
        keys = _targets(bound)[0].keys
        return keys[0] if len(keys) == 1 else ""

    def recalled(self, bound: Bound, stored: MemoRecord, *, now: float) -> Mapping[str, Json] | None:
        """See Recalling."""
        body = cast("LlmBody", bound.step.body)
        keep = body.on_truncated is OnTruncated.WARN
        answer = usable_answer(stored, bound.step.cache.ttl, now=now, keep_truncated=keep)
        return None if answer is None else {"output": self._output(body, (answer,)), **figures_of(answer)}

    def _output(self, body: LlmBody, answers: Sequence[Answer]) -> Json:
        for answer in answers:
            if answer.usage.output_tokens is not None:
                self._lengths.of(body).add(answer.usage.output_tokens)
        return answers[0].value if body.samples is None else [answer.value for answer in answers]

    async def _ask_all(self, target: _Target, bound: Bound, context: NodeContext) -> NodeRecord:
        output = partial(self._output, cast("LlmBody", bound.step.body))
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
        rows_for: Callable[[Answer], Sequence[NodeWrite]],
    ) -> Call:
        step = bound.step
        body = cast("LlmBody", step.body)
        use_memo = step.cache.enabled and context.write_memo
        return Call(
            caller=context.caller,
            request=target.request,
            provider=target.provider,
            key=key,
            rows_for=rows_for,
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


def _targets(bound: Bound) -> tuple[_Target, ...]:
    work = bound.work
    return (work.target,) if isinstance(work, FilledRequest) else cast("tuple[_Target, ...]", work)


def _request(
    step: Step,
    model: str,
    values: Mapping[str, Json],
    messages: tuple[Mapping[str, Json], ...],
    images: Sequence[str | ImageFile],
) -> ChatRequest:
    body = cast("LlmBody", step.body)
    return ChatRequest(
        model=model,
        messages=messages,
        params=mapping({} if body.params is None else body.params.render(values), "params", step),
        output=body.output,
        images=tuple(image for image in images if isinstance(image, ImageFile)),
    )


def _messages(
    body: LlmBody,
    values: Mapping[str, Json],
    step: Step,
    images: Sequence[str | ImageFile],
    holes: Mapping[Template, str] = MappingProxyType({}),
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
    system, prompt = (
        "" if text is None else holes.get(text) or text.text(values) for text in (body.system, body.prompt)
    )
    asked: dict[str, Json] = {"role": "user", "content": illustrated(prompt, images)}
    return (asked,) if body.system is None else ({"role": "system", "content": system}, asked)


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
