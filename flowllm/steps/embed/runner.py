"""`embed`: vectors of a text or of a list of texts, which share requests with those of other steps and items."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeAlias, cast

from flowllm.calls.base import Batching, Call
from flowllm.calls.single_flight import InFlightCalls
from flowllm.core.errors import TemplateFailed
from flowllm.core.fingerprint import canonical, fingerprint
from flowllm.core.request import Answer, EmbedRequest
from flowllm.core.types import Json, NodeStatus, Usage, estimate_tokens
from flowllm.language.workflow import EmbedBody, Step
from flowllm.providers.base import Provider
from flowllm.steps.base import Bound, NodeContext, WorkEstimate
from flowllm.steps.pipeline import (
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

_Target: TypeAlias = ModelTarget[EmbedRequest]


class EmbedRunner:
    """Steps that embed texts. One of these serves a whole run."""

    def __init__(self, provider: Callable[[str], Provider], calls: InFlightCalls) -> None:
        """As for PromptRunner."""
        self._provider = provider
        self._calls = calls

    def bind(self, step: Step, values: Mapping[str, Json]) -> Bound:
        """The texts and who is asked for their vectors: the step's own model, then its fallbacks."""
        body = cast("EmbedBody", step.body)
        given = body.input.render(values)
        texts = tuple(given if isinstance(given, list) else [given])
        _check(texts, step, several=isinstance(given, list))
        own = named(body.provider.render(values), "provider", step)
        models = [(own, named(body.model.render(values), "model", step))]
        for target in body.fallback:
            other = own if target.provider is None else named(target.provider.render(values), "provider", step)
            models.append((other, named(target.model.render(values), "model", step)))
        params = _params(body, values, step)
        targets = tuple(
            self._target(body.aliases.get(name, name), EmbedRequest(model=model, texts=texts, params=params), given)
            for name, model in models
        )
        first = targets[0]
        key = fingerprint({**first.parts, "keys": list(first.keys)}) if isinstance(given, list) else first.keys[0]
        return Bound(step=step, key=key, parts=first.parts, work=targets)

    def _target(self, name: str, request: EmbedRequest, given: Json) -> _Target:
        provider = self._provider(name)
        account = provider.account
        about = {"kind": "embed", "provider": account.keyed}
        body = {**keyed_body(request.params), "model": request.model}
        return ModelTarget(
            provider=provider,
            request=request,
            keys=tuple(fingerprint({**about, "body": {**body, "input": text}}) for text in request.texts),
            parts={**about, "body": {**body, "input": given}},
        )

    def work(self, bound: Bound) -> WorkEstimate:
        """The requests that the texts would fill, were there nobody to share them with, and those of its fallbacks."""
        targets = cast("tuple[_Target, ...]", bound.work)
        first, *others = (self._work(target, bound.step) for target in targets)
        return replace(first, fallbacks=tuple(others)) if others else first

    @staticmethod
    def _work(target: _Target, step: Step) -> WorkEstimate:
        texts = _distinct(target)
        model = target.request.model
        empty = not texts
        size = cast("EmbedBody", step.body).batch_size
        return WorkEstimate(
            memo_keys=tuple(texts) if step.cache.enabled else (),
            requests=-(-len(texts) // size),
            shared_requests=len(texts) / size,
            model=model,
            provider=target.provider.name,
            input_tokens=sum(map(estimate_tokens, texts.values())),
            price=partial(target.provider.cost, model),
            attempts=step.retry.max_attempts,
            output=[] if empty else None,
            known=empty,
        )

    async def run(self, bound: Bound, context: NodeContext) -> NodeRecord:
        """Ask the step's model, then its fallbacks while that can help: all vectors are of one model."""
        targets = cast("tuple[_Target, ...]", bound.work)
        if not targets[0].keys:
            node = context.record(bound, NodeStatus.SUCCEEDED, output=[], cost_usd=0.0)
            await context.store.commit(nodes=(context.write(node),))
            return node
        context = replace(context, missed=once(context.missed))
        return await with_fallbacks(targets, lambda one: self._ask_all(one, bound, context), context)

    async def _ask_all(self, target: _Target, bound: Bound, context: NodeContext) -> NodeRecord:
        texts = _distinct(target)
        places = {key: place for place, key in enumerate(texts)}
        single = not isinstance(target.parts["body"]["input"], list)

        def output(answers: Sequence[Answer]) -> Json:
            return answers[0].value if single else [answers[places[key]].value for key in target.keys]

        collector = AnswerCollector(len(texts), bound, context, output)
        asks = [
            self._ask(target, (key, text), bound, context, collector.on_answer(places[key]))
            for key, text in texts.items()
        ]
        await gather_answers([self._calls.answer(ask) for ask in asks])
        return collector.node

    @staticmethod
    def _ask(
        target: _Target,
        keyed: tuple[str, str],
        bound: Bound,
        context: NodeContext,
        rows_for: Callable[[Answer], Sequence[NodeWrite]],
    ) -> Call:
        key, text = keyed
        step, request, body = bound.step, target.request, cast("EmbedBody", bound.step.body)
        use_memo = step.cache.enabled and context.write_memo
        return Call(
            caller=context.caller,
            request=EmbedRequest(model=request.model, texts=(text,), params=request.params),
            provider=target.provider,
            key=key,
            rows_for=rows_for,
            retry=step.retry,
            timeout=step.timeout,
            priority=step.priority,
            expected=Usage(input_tokens=estimate_tokens(text)),
            read_memo=use_memo and context.read_memo and not context.refresh,
            write_memo=use_memo,
            ttl=step.cache.ttl,
            join=use_memo and not context.refresh,
            batch=Batching(
                group=(
                    target.provider.account,
                    canonical(target.provider.account.keyed),
                    request.model,
                    canonical(request.params),
                ),
                size=body.batch_size,
                wait=body.batch_wait,
            ),
            missed=context.missed,
        )


def _params(body: EmbedBody, values: Mapping[str, Json], step: Step) -> Mapping[str, Json]:
    params = dict(mapping({} if body.params is None else body.params.render(values), "params", step))
    dimensions = None if body.dimensions is None else body.dimensions.render(values)
    if isinstance(dimensions, str) and dimensions.strip().isdecimal():
        dimensions = int(dimensions)
    if dimensions is not None:
        if isinstance(dimensions, bool) or not isinstance(dimensions, int) or dimensions < 1:
            raise TemplateFailed(f"{step.where}: `dimensions` must be a whole number from 1, not {dimensions!r}")
        params["dimensions"] = dimensions
    return {name: value for name, value in params.items() if value is not None}


def _check(texts: Sequence[Json], step: Step, *, several: bool) -> None:
    """Raises TemplateFailed for what cannot be embedded."""
    for place, text in enumerate(texts):
        which = f"item {place} of `embed`" if several else "`embed`"
        if not isinstance(text, str):
            raise TemplateFailed(f"{step.where}: {which} is not a text", hint="`embed` takes a text or a list of texts")
        if not text:
            raise TemplateFailed(
                f"{step.where}: {which} is an empty text, which has no embedding",
                hint="leave it out, or skip the step with `when`",
            )


def _distinct(target: _Target) -> Mapping[str, str]:
    """Key to text: the same text twice is asked for once."""
    return dict(zip(target.keys, target.request.texts, strict=True))
