"""The server of the benchmarks: python -m tests.benchmarks.server '{"latency": 0.2, "slots": 64}'; it prints its port.

It speaks chat completions and is as cheap as one in Python can be, so that what is measured is the client. It may have
slots in which requests queue (it never answers 429), a cache of prompts, answers of any size, and requests that hang
until the client gives them up. A GET of /control gives its counters; a POST of a behaviour begins anew.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from tests.support.prompt_cache import PromptCache, sent_text
from tests.support.replies import echo

SENTENCE = "A short answer of a few words."


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """What the server does with requests. Times are seconds."""

    latency: float = 0.0
    latency_to: float = 0.0
    """More than `latency`: each answer's time is drawn evenly from between them."""
    slots: int = 1_000_000
    """Requests that are worked on at once; the others queue."""
    hangs: tuple[int, ...] = ()
    """The numbers of the requests, from 1, that take `hang` seconds."""
    hang: float = 300.0
    cache: int = 0
    """Blocks that the cache of prompts holds."""
    reads: float = 0.0
    """Tokens that are not in the cache and are read in a second; 0: prompts are not looked at."""
    answer_bytes: int = 0
    """0: always the same few words."""

    def as_json(self) -> str:
        return json.dumps(asdict(self))


class Connection(asyncio.Protocol):
    """One of a client's, with one request at a time, on which nothing is answered once the client has gone."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._data = b""
        self.number = 0
        self.arrived = 0.0
        self.body = b""
        self.timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = self._data[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._data) < end + 4 + length:
                return
            self.body = self._data[end + 4 : end + 4 + length]
            self._data = self._data[end + 4 + length :]
            if b" /control" in head[:20]:
                self.send(self._service.controlled(self.body))
            else:
                self._service.arrive(self)

    def connection_lost(self, _: Exception | None) -> None:
        self._service.leave(self)

    def send(self, body: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        self._transport.write(head + body)


class Service:
    """What all connections share: slots, the cache and the counters."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._loop = asyncio.get_running_loop()
        self._begin_anew(behaviour)

    def _begin_anew(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._hangs = frozenset(behaviour.hangs)
        self._cache = PromptCache(capacity=behaviour.cache, rate=behaviour.reads or 1.0)
        self._draw = random.Random(1)
        self._plain = _answer(SENTENCE, {"prompt_tokens": 12, "completion_tokens": 7, "total_tokens": 19})
        self._queue: deque[Connection] = deque()
        self._working: set[Connection] = set()
        self._waits: list[float] = []
        self._counts = dict.fromkeys(("requests", "peak", "abandoned", "cold", "prompt_tokens", "cached_tokens"), 0)

    def controlled(self, order: bytes) -> bytes:
        """The counters; an order is the behaviour from now on, with counters of its own."""
        if order:
            self._begin_anew(Behaviour(**json.loads(order)))
        waits = sorted(self._waits) or [0.0]
        slowest = {f"p{share}_s": waits[min(len(waits) - 1, len(waits) * share // 100)] for share in (50, 95, 99)}
        return json.dumps({**self._counts, **slowest}).encode()

    def arrive(self, connection: Connection) -> None:
        self._counts["requests"] += 1
        connection.number = self._counts["requests"]
        connection.arrived = self._loop.time()
        if len(self._working) < self._behaviour.slots:
            self._begin(connection)
        else:
            self._queue.append(connection)

    def leave(self, connection: Connection) -> None:
        """The client has closed the connection."""
        if connection in self._working:
            self._counts["abandoned"] += 1
            self._end(connection)
        elif connection in self._queue:
            self._counts["abandoned"] += 1
            self._queue.remove(connection)

    def _begin(self, connection: Connection) -> None:
        self._working.add(connection)
        self._counts["peak"] = max(self._counts["peak"], len(self._working))
        if not self._behaviour.reads:
            self._generate(connection, None)
            return
        prefill = self._cache.begin(sent_text(json.loads(connection.body)))
        self._counts["cold"] += not prefill.cached
        self._counts["prompt_tokens"] += prefill.tokens
        self._counts["cached_tokens"] += prefill.cached

        def read() -> None:
            self._cache.end(prefill)
            self._generate(connection, prefill.usage(7))

        self._after(self._cache.seconds(prefill), connection, read)

    def _generate(self, connection: Connection, usage: dict[str, Any] | None) -> None:
        seconds = self._behaviour.latency
        if self._behaviour.latency_to:
            seconds = self._draw.uniform(seconds, self._behaviour.latency_to)
        if connection.number in self._hangs:
            seconds = self._behaviour.hang
        self._after(seconds, connection, lambda: self._answer(connection, usage))

    def _after(self, seconds: float, connection: Connection, then: Callable[[], None]) -> None:
        if seconds:
            connection.timer = self._loop.call_later(seconds, then)
        else:
            then()

    def _answer(self, connection: Connection, usage: dict[str, Any] | None) -> None:
        self._waits.append(self._loop.time() - connection.arrived)
        connection.send(self._text(connection, usage))
        self._end(connection)

    def _text(self, connection: Connection, usage: dict[str, Any] | None) -> bytes:
        size = self._behaviour.answer_bytes
        if b'"response_format"' in connection.body:
            text = str(echo(json.loads(connection.body), connection.number).text)
        elif size:
            text = f"{random.Random(connection.number).randbytes(size // 2).hex():.{size}}"
        elif usage is None:
            return self._plain
        else:
            text = SENTENCE
        prompt, written = len(connection.body) // 4, len(text) // 4
        counted = {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}
        return _answer(text, usage or counted)

    def _end(self, connection: Connection) -> None:
        if connection.timer is not None:
            connection.timer.cancel()
            connection.timer = None
        self._working.discard(connection)
        if self._queue and len(self._working) < self._behaviour.slots:
            self._begin(self._queue.popleft())


def _answer(text: str, usage: dict[str, Any]) -> bytes:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    whole = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1_700_000_000, "model": "m"}
    return json.dumps({**whole, "choices": [choice], "usage": usage}).encode()


async def main() -> None:
    service = Service(Behaviour(**json.loads(sys.argv[1])))
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(service), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
