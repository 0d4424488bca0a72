"""Fakes and builders for tests of the wing of calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from flowllm.calls.base import Call, Caller
from flowllm.core.cancel import CancelToken
from flowllm.core.redact import Redactor
from flowllm.core.request import Answer, ChatRequest, Completion, Embeddings, EmbedRequest
from flowllm.core.types import NodeStatus, StepKind, Usage
from flowllm.providers.base import Account
from flowllm.storage.base import NodeRecord, NodeWrite, RunLease

REQUEST = ChatRequest(model="m", messages=({"role": "user", "content": "Hello?"},))


class FakeProvider:
    """Answers from a script: each entry is a Completion, a text, an error to raise, or seconds to wait first."""

    def __init__(self, *script: object, latency: float = 1.0) -> None:
        self.name = "fake"
        self.account = Account(type="fake", base_url="fake:")
        self.script = list(script)
        self.latency = latency
        self.sent: list[tuple[float, ChatRequest | EmbedRequest]] = []
        self.in_flight = 0
        self.peak = 0

    def encode(self, request: ChatRequest | EmbedRequest) -> dict:
        if isinstance(request, EmbedRequest):
            return {"model": request.model, "input": list(request.texts), **request.params}
        return {"model": request.model, "messages": list(request.messages), **request.params}

    async def ready(self) -> None:
        pass

    async def complete(self, request: ChatRequest, *, timeout: float) -> Completion:
        self.sent.append((asyncio.get_running_loop().time(), request))
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            await asyncio.sleep(self.latency)
        finally:
            self.in_flight -= 1
        entry = self.script.pop(0) if self.script else "answer"
        if isinstance(entry, Exception):
            raise entry
        if isinstance(entry, Completion):
            return entry
        return Completion(text=str(entry), model="m-2", usage=Usage(input_tokens=3, output_tokens=5))

    async def embed(self, request: EmbedRequest, *, timeout: float) -> Embeddings:
        """A script's entry is an error to raise, or a function of the request that gives Embeddings or raises."""
        self.sent.append((asyncio.get_running_loop().time(), request))
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            await asyncio.sleep(self.latency)
        finally:
            self.in_flight -= 1
        entry = self.script.pop(0) if self.script else vectors_of
        if isinstance(entry, Exception):
            raise entry
        return entry(request)

    def cost(self, model: str, usage: Usage, *, tier: str = "") -> float | None:
        return usage.output_tokens / 1000


def vectors_of(request: EmbedRequest) -> Embeddings:
    """Vectors that tell their texts apart: the length of the text, and the number of texts in the request."""
    return Embeddings(
        vectors=tuple([float(len(text)), float(len(request.texts))] for text in request.texts),
        model="e-2",
        usage=Usage(input_tokens=sum(len(text) for text in request.texts)),
    )


def caller(
    *,
    token: CancelToken | None = None,
    node: str = "a",
    run: str = "r1",
    log: list | None = None,
    secrets: tuple[str, ...] = (),
) -> Caller:
    events: list = [] if log is None else log
    return Caller(
        lease=RunLease(run_id=run, epoch=1),
        node_id=node,
        token=token or CancelToken(),
        emit=events.append,
        redactor=Redactor(secrets),
    )


def node_row(who: Caller, answer: Answer) -> NodeWrite:
    record = NodeRecord(
        run_id=who.lease.run_id,
        node_id=who.node_id,
        kind=StepKind.PROMPT,
        status=NodeStatus.SUCCEEDED,
        output=who.redactor.value(answer.value),
        cached=answer.cached,
        waits=dict(who.waits),
    )
    return NodeWrite(lease=who.lease, node=record)


def make_call(
    provider: FakeProvider, who: Caller | None = None, rows_for: Callable | None = None, **how: object
) -> Call:
    me = who or caller()
    return Call(
        caller=me,
        request=how.pop("request", REQUEST),
        provider=provider,
        key=how.pop("key", "k" * 64),
        rows_for=rows_for or (lambda answer: [node_row(me, answer)]),
        **how,
    )
