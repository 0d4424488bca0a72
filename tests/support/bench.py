"""All layers around calls over a memory store, for one request at a time and for texts to embed."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from flowllm.calls.base import Batching, Caller
from flowllm.calls.batch import Batches
from flowllm.calls.budget import RunBudget
from flowllm.calls.executor import CallExecutor
from flowllm.calls.response_cache import ResponseCache
from flowllm.calls.single_flight import InFlightCalls
from flowllm.core.cancel import CancelToken
from flowllm.core.request import Answer, EmbedRequest
from flowllm.core.types import Limits, RunStatus, Usage, estimate_tokens
from flowllm.limits.limiter import Limiter
from flowllm.storage.base import RunRecord, Store
from tests.support.calls import FakeProvider, caller, make_call
from tests.support.stores import US, InlineStore
from tests.support.virtual import LoopClock


class Bench:
    """The wing of calls over a memory store, with one run in it."""

    def __init__(self, *, secrets: tuple[str, ...] = (), store: Store | None = None, **limits: object) -> None:
        self.clock = LoopClock()
        self.store = store or InlineStore()
        self.limiter = Limiter(self.clock)
        self.limits = Limits(**limits)
        self.log: list = []
        self.token = CancelToken()
        self.secrets = secrets
        self.budget: RunBudget | None = None
        self.line = CallExecutor(self.limiter, self.store, self.clock, draw=lambda: 0.0)
        self.memo = ResponseCache(self.line, self.store, self.clock)
        self.calls = InFlightCalls(self.memo, self.clock)

    async def open(self, *runs: str) -> None:
        for run in runs:
            await self.store.create_run(
                RunRecord(run_id=run, workflow="w", path="", status=RunStatus.RUNNING, started_at=0, owner=US)
            )

    async def ask(self, provider: FakeProvider, node: str = "a", **how: object) -> object:
        if not self.store.runs_on_record:
            await self.open("r1")
        self.limiter.configure(provider.account, self.limits, holder="r1")
        who = caller(token=self.token, node=node, log=self.log, secrets=self.secrets)
        who = replace(who, budget=self.budget)
        return await self.calls.answer(make_call(provider, who, **how))


class TextsBench:
    """All layers around calls over a memory store, for texts to embed."""

    def __init__(self, *runs: str, **limits: object) -> None:
        self.clock = LoopClock()
        self.store = InlineStore()
        self.limiter = Limiter(self.clock)
        self.provider = FakeProvider()
        self.token = CancelToken()
        self.log: list = []
        self.runs = runs or ("r1",)
        self.limits = Limits(**limits)
        line = CallExecutor(self.limiter, self.store, self.clock, draw=lambda: 0.0)
        self.calls = InFlightCalls(ResponseCache(Batches(line, self.clock), self.store, self.clock), self.clock)

    async def open(self) -> TextsBench:
        for run in self.runs:
            await self.store.create_run(
                RunRecord(run_id=run, workflow="w", path="", status=RunStatus.RUNNING, started_at=0, owner=US)
            )
        self.limiter.configure(self.provider.account, self.limits, holder="r1")
        return self

    async def ask(
        self,
        text: str,
        *,
        model: str = "e",
        size: int = 100,
        wait: float = 0.05,
        run: str = "r1",
        token: CancelToken | None = None,
        who: Caller | None = None,
        **how: object,
    ) -> Answer:
        who = who or caller(token=token or self.token, node=text, run=run, log=self.log)
        expected = Usage(input_tokens=estimate_tokens(text))
        batch = Batching(group=model, size=size, wait=wait)
        request = EmbedRequest(model=model, texts=(text,))
        settings = {"key": f"{model}:{text}", "expected": expected, "batch": batch, **how}
        return await self.calls.answer(make_call(self.provider, who, request=request, **settings))

    def start(self, *texts: str, **how: object) -> list[asyncio.Task[Answer]]:
        return [asyncio.create_task(self.ask(text, **how)) for text in texts]

    @property
    def sent(self) -> list[tuple[str, ...]]:
        return [request.texts for _, request in self.provider.sent]
