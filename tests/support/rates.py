"""Servers with limits of their own and a load upon them, all under a virtual clock."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from flowllm.calls.executor import CallExecutor
from flowllm.calls.response_cache import ResponseCache
from flowllm.calls.single_flight import InFlightCalls
from flowllm.core.errors import RateLimited, ServerFailed
from flowllm.core.request import ChatRequest, Completion
from flowllm.core.types import Limits, Priority, RetryPolicy, Usage
from flowllm.limits.limiter import Limiter
from flowllm.providers.base import Account
from flowllm.storage.base import AttemptRecord, MemoRecord, NodeWrite, RunLease
from tests.support.calls import caller, make_call
from tests.support.virtual import LoopClock

ACCOUNT = Account(type="fake", base_url="fake:")


@dataclass
class Server:
    """Allows `rate` requests a second with a burst, and tokens a minute if told; answers after `latency`."""

    rate: float = 10.0
    burst: float = 10.0
    tokens_per_minute: float | None = None
    latency: float = 0.05
    jitter: float = 0.01
    tell: bool = False
    """With x-ratelimit headers."""
    retry_after: float | None = None
    """What a 429 says; None: nothing."""
    stray: float = 0.0
    """Share of requests that get a 429 whatever their rate."""
    failing_until: float = -1.0
    seed: int = 1
    answer_tokens: tuple[int, int] = (50, 50)
    load_s: float = 0.0
    """What the client takes to load, once, before its first request."""
    name: str = "fake"
    account: Account = ACCOUNT
    accepted: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    arrived: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._loading = asyncio.Lock()
        self._draw = random.Random(self.seed)
        self._level, self._at = self.burst, 0.0
        self._tokens = self.tokens_per_minute or 0.0

    def encode(self, request: ChatRequest) -> dict:
        return {"model": request.model, "messages": list(request.messages), **request.params}

    def cost(self, model: str, usage: Usage, *, tier: str = "") -> float:
        return 0.0

    def set_rate(self, rate: float) -> None:
        self._refill()
        self.rate = rate

    async def ready(self) -> None:
        async with self._loading:
            await asyncio.sleep(self.load_s)
            self.load_s = 0.0

    async def complete(self, request: ChatRequest, *, timeout: float) -> Completion:
        await self.ready()
        await asyncio.sleep(self._draw.random() * self.jitter)
        now = asyncio.get_running_loop().time()
        self.arrived.append(now)
        self._refill()
        if now < self.failing_until:
            await asyncio.sleep(self.latency)
            raise ServerFailed("500", status=500)
        tokens = self._draw.randint(*self.answer_tokens)
        empty = self._level < 1 or (self.tokens_per_minute is not None and self._tokens < tokens)
        if empty or (self.stray and self._draw.random() < self.stray):
            self.refused.append(now)
            raise RateLimited("429", retry_after=self.retry_after)
        self._level -= 1
        self._tokens -= tokens
        self.accepted.append(now)
        headers = self._headers() if self.tell else {}
        await asyncio.sleep(self.latency)
        return Completion(text="x", model="m", usage=Usage(output_tokens=tokens), headers=headers)

    def _refill(self) -> None:
        now = asyncio.get_running_loop().time()
        self._level = min(self.burst, self._level + (now - self._at) * self.rate)
        if self.tokens_per_minute is not None:
            self._tokens = min(self.tokens_per_minute, self._tokens + (now - self._at) * self.tokens_per_minute / 60)
        self._at = now

    def _headers(self) -> dict[str, str]:
        return {
            "x-ratelimit-limit-requests": f"{self.rate * 60:.0f}",
            "x-ratelimit-remaining-requests": f"{int(self._level)}",
            "x-ratelimit-reset-requests": f"{(self.burst - self._level) / self.rate:.3f}s",
        }

    def throughput(self, begin: float, end: float) -> float:
        """Accepted requests a second in a span."""
        return sum(begin <= at < end for at in self.accepted) / (end - begin)


class Recorder:
    """As much of a store as calls need; what limiters do does not hang on what is on record."""

    runs_on_record = frozenset({"r1"})

    async def begin_attempt(self, lease: RunLease, attempt: AttemptRecord, **how: object) -> None: ...

    async def commit(self, **rows: AttemptRecord | RunLease | MemoRecord | Sequence[NodeWrite] | None) -> None: ...

    def others_wrote(self, within: float) -> bool:
        return False

    async def latencies(self, like: AttemptRecord) -> list[float]:
        return []

    async def memo(self, key: str) -> MemoRecord | None:
        return None


class Load:
    """Calls that all go through one limiter, as in a process."""

    def __init__(self, server: Server, limits: Limits, *, seed: int = 1, weights: dict | None = None) -> None:
        self.server = server
        self.clock = LoopClock()
        self.store = Recorder()
        self.limiter = Limiter(self.clock, weights=weights)
        self.limiter.configure(ACCOUNT, limits, holder="run")
        draw = random.Random(seed)
        line = CallExecutor(self.limiter, self.store, self.clock, draw=draw.random)
        self.calls = InFlightCalls(ResponseCache(line, self.store, self.clock), self.clock)
        self.failed: list[BaseException] = []

    async def call(self, number: int, **how: object) -> None:
        reserve = how.pop("reserve", 0)
        how["expected"] = Usage(output_tokens=int(reserve))
        settings = {"retry": RetryPolicy(), "priority": Priority.NORMAL, **how}
        ask = make_call(self.server, caller(node=f"n{number}"), key=f"{number:064d}", **settings)
        try:
            await self.calls.answer(ask)
        except Exception as error:  # noqa: BLE001 - kept, to be looked at
            self.failed.append(error)

    async def many(self, count: int, **how: object) -> float:
        """That many at once; when the last was done."""
        await asyncio.gather(*(self.call(number, **how) for number in range(count)))
        return self.clock.monotonic()

    async def steady(self, seconds: float, *, backlog: int = 30) -> None:
        """Always a backlog, for so long."""
        numbers = iter(range(10**9))

        async def worker() -> None:
            while self.clock.monotonic() < seconds:
                await self.call(next(numbers))

        workers = [asyncio.ensure_future(worker()) for _ in range(backlog)]
        await self.clock.sleep(seconds)
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        self.limiter.close()
