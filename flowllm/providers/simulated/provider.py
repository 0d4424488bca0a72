"""A provider that needs no network: deterministic answers, with the latency, limits and faults of a real one."""

from __future__ import annotations

import contextlib
import heapq
import json
import math
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from functools import partial
from random import Random

from flowllm.core.clock import Clock
from flowllm.core.errors import AttemptTimedOut, RateLimited, RequestRejected, ServerFailed, TruncatedAnswer
from flowllm.core.fingerprint import canonical, digest
from flowllm.core.records import dataclass
from flowllm.core.request import ChatRequest, Completion, Embeddings, EmbedRequest, Request
from flowllm.core.types import Json, Limits, Usage
from flowllm.providers.base import Account
from flowllm.providers.openai.request import OpenAIConfig, copies_texts, encode
from flowllm.providers.simulated.prompt_cache import PromptCache
from flowllm.providers.simulated.text import Topic, phrase, wanted_items, write

_BYTES_A_TOKEN = 4
_MAX_COUNTED = 10_000
"""Requests that are counted; the oldest are forgotten."""
_JITTER = 0.5
"""Seconds by which requests that were admitted evenly may bunch up on their way to an enforced limit."""
_BUSY_RETRY_AFTER = 1.0
_HANGS = "it is one of its `hang_rate`: `retry: {hedge: 30s}` sends what takes so long once more, beside the first"
_MAX_NUMBERS = 1_000_000
"""In the vectors of one request."""
DIMENSIONS = 16
"""Numbers in a vector, where a request says nothing of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedConfig:
    """How a simulated provider behaves. Times are seconds, shares are 0 to 1."""

    name: str = "simulated"
    seed: int = 0
    latency: float = 0.0
    """Median time of an answer."""
    latency_sigma: float = 0.0
    """Sigma of the log-normal distribution of that time."""
    slots: int | None = None
    """Requests that are served at the same time, while others wait; None: any number."""
    error_rate: float = 0.0
    """Share of requests that fail with a 500."""
    rate_limit_rate: float = 0.0
    """Share of requests that get a 429."""
    hang_rate: float = 0.0
    """Share of requests that are never answered."""
    prompt_cache: bool = False
    """It keeps the beginnings of prompts."""
    prefill: float = 0.0
    """Time to read 1,000 tokens of a prompt that it does not keep."""
    enforce: Limits | None = None
    """Requests above these limits get a 429."""


class SimulatedProvider:
    """Answers by the seed and the encoded body alone.

    Equal requests get equal text in every process, whatever else goes on, with one exception: within a process the
    second answer to the same body differs from the first, the third from both, and so on, so that samples of one
    prompt are not copies of each other. Faults are drawn anew for every attempt: one that failed can be retried.
    """

    def __init__(self, config: SimulatedConfig, *, clock: Clock) -> None:
        self.name = config.name
        self._config = config
        self._clock = clock
        self._wire = OpenAIConfig(name=config.name, base_url="simulated:", api_key_env="")
        self.account = Account(type="simulated", base_url=f"simulated:seed={config.seed}")
        self._attempts: OrderedDict[str, int] = OrderedDict()
        self._answers: OrderedDict[str, int] = OrderedDict()
        self._prompts = PromptCache() if config.prompt_cache else None
        self._in_flight = 0
        self._slots_end: list[float] = []
        """When the slots that were taken are free again, as a heap (monotonic seconds)."""
        self._limits_of_server = _ServerLimits(config.enforce, clock) if config.enforce is not None else None

    def encode(self, request: Request) -> dict[str, Json]:
        """The body, as OpenAI's Chat Completions or Embeddings would get it."""
        return encode(request, self._wire)

    def copies_texts(self, request: ChatRequest) -> bool:
        """See CopiesTexts."""
        return copies_texts(request)

    def cost(self, model: str, usage: Usage, *, tier: str = "") -> float | None:  # noqa: ARG002 - the protocol's shape
        """Nothing is paid."""
        return 0.0

    async def ready(self) -> None:
        """Nothing to load."""

    async def complete(self, request: ChatRequest, *, timeout: float) -> Completion:
        """Wait as long as a server would, then answer or fail; see Provider.complete."""
        body = self.encode(request)
        key = digest(f"{self._config.seed}:{canonical(body)}")
        max_tokens = body.get("max_tokens")
        prompt = _tokens(canonical(body["messages"]))
        most = prompt + (max_tokens if isinstance(max_tokens, int) else 0)
        blocks, cached = ([], 0) if self._prompts is None else self._prompts.begin(body)
        cached = min(cached, prompt)
        prefill = self._config.prefill * (prompt - cached) / 1000
        async with self._served(key, most, timeout, prefill):
            if self._prompts is not None:
                self._prompts.end(blocks)
            usage = Usage(input_tokens=prompt, cached_input_tokens=cached)
            return self._completion(body, key, _counted(self._answers, key), usage)

    async def embed(self, request: EmbedRequest, *, timeout: float) -> Embeddings:
        """Vectors of length 1 that depend on seed, model, dimensions and text alone; see Provider.embed."""
        body = self.encode(request)
        texts: list[str] = body["input"]
        key = digest(f"{self._config.seed}:{canonical(body)}")
        tokens = [_tokens(text) for text in texts]
        async with self._served(key, sum(tokens), timeout):
            if not all(texts):
                raise RequestRejected(
                    f"{self.name} (simulated) does not accept the request (400): a text is empty", status=400
                )
        wanted = body.get("dimensions")
        size = wanted if isinstance(wanted, int) and wanted > 0 else DIMENSIONS
        if size * len(texts) > _MAX_NUMBERS:
            raise RequestRejected(
                f"{self.name} (simulated) does not accept the request (400): {len(texts)} vectors of {size} `dimensions` "
                f"are over {_MAX_NUMBERS:,} numbers",
                status=400,
                hint="ask for fewer `dimensions`, or for fewer texts at once",
            )
        identity = f"{self._config.seed}:{request.model}"
        return Embeddings(
            vectors=tuple(unit_vector(f"{identity}:{text}", size) for text in texts),
            model=request.model,
            usage=Usage(input_tokens=sum(tokens)),
            request_id=f"sim-{key[:12]}",
        )

    @contextlib.asynccontextmanager
    async def _served(self, key: str, tokens: int, timeout: float, prefill: float = 0.0) -> AsyncIterator[None]:
        """A request's time at the server, with its latency and faults; then the block decides on the answer."""
        attempt = _counted(self._attempts, key)
        self._in_flight += 1
        try:
            if self._limits_of_server is not None:
                self._limits_of_server.admit(tokens, in_flight=self._in_flight, name=self.name)
            random = Random(f"{key}:attempt:{attempt}")  # noqa: S311 - not for secrets
            await self._wait_or_fail(random, timeout, prefill)
            yield
        finally:
            self._in_flight -= 1

    async def _wait_or_fail(self, random: Random, timeout: float, prefill: float) -> None:
        drawn = self._config.latency * math.exp(random.gauss(0, 1) * self._config.latency_sigma)
        hangs = self._config.hang_rate and random.random() < self._config.hang_rate
        latency = math.inf if hangs else self._queued(prefill + drawn)
        await self._clock.sleep(min(latency, timeout))
        if latency > timeout:
            raise AttemptTimedOut(
                f"{self.name} (simulated) gave no answer within {timeout:g} s",
                hint=_HANGS if hangs else "raise `retry.attempt_timeout`, or lower `latency` of that provider",
            )
        if random.random() < self._config.error_rate:
            raise ServerFailed(f"{self.name} (simulated) failed (500): a simulated fault", status=500)
        if random.random() < self._config.rate_limit_rate:
            raise RateLimited(f"{self.name} (simulated) says to slow down (429)", retry_after=_BUSY_RETRY_AFTER)

    def _queued(self, latency: float) -> float:
        """The time until the answer, with the wait for a slot. Who does not wait for it keeps the slot all the same."""
        if self._config.slots is None:
            return latency
        now = self._clock.monotonic()
        full = len(self._slots_end) >= self._config.slots
        ends = max(now, heapq.heappop(self._slots_end) if full else now) + latency
        heapq.heappush(self._slots_end, ends)
        return ends - now

    def _completion(self, body: Mapping[str, Json], key: str, occurrence: int, usage: Usage) -> Completion:
        again = f":{occurrence}" if occurrence > 1 else ""
        random = Random(f"{key}:answer{again}")  # noqa: S311 - not for secrets
        text, cut = _truncated(_text(body, random), body.get("max_tokens"))
        usage += Usage(output_tokens=_tokens(text))
        if cut and not text:
            raise TruncatedAnswer(
                f"{body['model']} used up max_tokens before it said a word", hint="raise max_tokens", usage=usage
            )
        return Completion(
            text=text,
            model=str(body["model"]),
            finish_reason="length" if cut else "stop",
            usage=usage,
            request_id=f"sim-{key[:12]}-{occurrence}",
        )


def unit_vector(identity: str, size: int) -> list[float]:
    """A direction drawn evenly, always the same for the same identity: normal numbers, normalised (G. Marsaglia, 1972)."""
    random = Random(identity)  # noqa: S311 - not for secrets
    numbers = [random.gauss(0, 1) for _ in range(size)]
    length = math.sqrt(sum(number * number for number in numbers)) or 1.0
    return [number / length for number in numbers]


def _counted(counts: OrderedDict[str, int], key: str) -> int:
    """How often the key has come, this time included."""
    counts[key] = counts.get(key, 0) + 1
    counts.move_to_end(key)
    if len(counts) > _MAX_COUNTED:
        counts.popitem(last=False)
    return counts[key]


def _text(body: Mapping[str, Json], random: Random) -> str:
    """The answer, before it is cut: JSON where the body asks for it, prose otherwise."""
    prompt = _prompt(body["messages"])
    topic = Topic(prompt)
    form = body.get("response_format")
    form = form if isinstance(form, dict) else {}
    if form.get("type") == "json_schema":
        schema = form["json_schema"]["schema"]
        from flowllm.providers.simulated.schema_sample import SchemaTooLarge, sample  # noqa: PLC0415 - jsonschema takes 70 ms to import

        try:
            value = sample(schema, random, partial(phrase, topic), items=wanted_items(prompt))
        except SchemaTooLarge as error:
            raise RequestRejected(
                f"the simulated model cannot answer {error}",
                status=400,
                hint="ask for less there, or give `provider` a real one",
            ) from None
    elif form.get("type") == "json_object":
        value = {"title": phrase(topic, random, "title"), "summary": phrase(topic, random, "summary")}
    else:
        return write(prompt, random)
    return json.dumps(value, ensure_ascii=False)


def _prompt(messages: list[dict[str, Json]]) -> str:
    """The text of the first thing that the user said: later messages only correct an answer to it."""
    spoken = [message for message in messages if message.get("role") == "user"] or messages[-1:]
    content = spoken[0].get("content") if spoken else ""
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _tokens(text: str) -> int:
    return -(-len(text.encode("utf-8", "surrogatepass")) // _BYTES_A_TOKEN)


def _truncated(text: str, max_tokens: Json) -> tuple[str, bool]:
    """The text cut to that many tokens, and whether it was."""
    if not isinstance(max_tokens, int) or _tokens(text) <= max_tokens:
        return text, False
    return text.encode(errors="ignore")[: max(0, max_tokens) * _BYTES_A_TOKEN].decode(errors="ignore"), True


class _ServerLimits:
    """A server's own limits: two token buckets, and a number of requests at once."""

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self._limits = limits
        self._clock = clock
        per_minute = limits.requests_per_minute or 0.0
        burst = limits.burst or max(1.0, per_minute / 60)
        self._requests = _TokenBucket(per_minute / 60, burst + max(1.0, _JITTER * per_minute / 60))
        tokens = limits.tokens_per_minute or 0.0
        self._tokens = _TokenBucket(tokens / 60, tokens)

    def admit(self, tokens: int, *, in_flight: int, name: str) -> None:
        """Raises RateLimited, with the time until there would be room."""
        now, wait = self._clock.monotonic(), 0.0
        if self._limits.requests_per_minute is not None:
            wait = self._requests.wait(1, now)
        if self._limits.tokens_per_minute is not None:
            wait = max(wait, self._tokens.wait(tokens, now))
        if self._limits.max_concurrent is not None and in_flight > self._limits.max_concurrent:
            wait = max(wait, _BUSY_RETRY_AFTER)
        if wait > 0:
            raise RateLimited(f"{name} (simulated) says to slow down (429)", retry_after=wait)
        self._requests.take(1)
        self._tokens.take(tokens)


class _TokenBucket:
    """A token bucket that starts full."""

    def __init__(self, rate: float, capacity: float) -> None:
        self._rate = rate
        self._capacity = capacity
        self._level = capacity
        self._at: float | None = None

    def wait(self, amount: float, now: float) -> float:
        """Seconds until that much is there; more than all of it counts as all of it."""
        if self._at is not None:
            self._level = min(self._capacity, self._level + (now - self._at) * self._rate)
        self._at = now
        missing = min(amount, self._capacity) - self._level
        return missing / self._rate if missing > 1e-9 and self._rate else 0.0  # noqa: PLR2004 - rounding

    def take(self, amount: float) -> None:
        """Use it up."""
        self._level -= amount
