"""A real HTTP server that speaks OpenAI's API, answers as a test tells it to, and remembers what it was asked.

    with running_server(script) as server:      # in a thread of its own
        provider = … server.url …
        assert server.peak == 10

    python -m tests.support.server --latency 0.5 --log requests.jsonl      # as a process; prints {"port": …, "url": …}

A script is called with the body and the number of the request (from 1) and gives a Reply; `ByPrompt` is the one that
the process uses: prompts say themselves what happens to them. Limits and outages are `Rules`, enforced before the
script is asked; `server.rule(...)` changes them while it runs, and so does a POST of the same names to /control.
A GET of /control gives the counters, and with ?since=SECONDS every request that arrived after that monotonic time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aiohttp import web

from flowllm.providers.simulated.provider import unit_vector
from tests.support.quota import Charge, Quota
from tests.support.replies import MIB, ByPrompt, Reply, Script, echo, failed, prompt_of, rate_limited


@dataclass(kw_only=True)
class Seen:
    """One request as it came. Times are monotonic seconds."""

    n: int
    path: str
    query: dict[str, str]
    peer: tuple[str, int]
    """Address of the client's end: one for each connection."""
    headers: dict[str, str]
    raw: bytes
    body: dict[str, Any]
    arrived: float
    finished: float | None = None
    status: int | None = None
    """None: no answer was sent."""
    verdict: str = "accepted"
    """By the rules: accepted, refused or failed."""
    answer_tokens: int | None = None
    """As the rules drew them; None: by the answer's length."""
    transport: asyncio.BaseTransport | None = None

    @property
    def cut_off(self) -> bool:
        """Its connection was closed, by whichever end."""
        return self.transport is None or self.transport.is_closing()

    @property
    def prompt(self) -> str:
        return prompt_of(self.body)


class Server:
    """The server in a thread of its own; everything on it may be changed while it runs."""

    def __init__(self, script: Script = echo, *, latency: float = 0.0, log: Path | None = None) -> None:
        self.default_script = script
        self._default_latency = latency
        self.port = 0
        self._log = log
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self.serve()), daemon=True)
        self.reset()

    def reset(self) -> None:
        """Forget every request and change."""
        self.script = self.default_script
        self.latency = self._default_latency
        self.quota = Quota()
        self.hold = 0
        """Answers wait until that many requests have been in flight at once."""
        self.requests: list[Seen] = []
        self.in_flight = 0
        self.peak = 0
        self.counts: Counter[str] = Counter()
        """Requests accepted, refused (429) and failed (500) by the rules, and the tokens that were charged."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def rule(self, **changes: Any) -> None:
        """Enforce other rules from now on; those that are not named stay."""
        self.quota.set(self.quota.rules.changed(changes), time.monotonic())

    def limit(self, requests_per_minute: float | None, *, burst: int = 1, headers: bool = True) -> None:
        """Answer 429 above that rate from now on."""
        self.rule(requests_per_minute=requests_per_minute, burst=burst, headers=headers)

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(20), "the test server did not start"

    def stop(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(20)

    async def serve(self) -> None:
        """Serve until `stop`."""
        self._loop = asyncio.get_running_loop()
        app = web.Application(client_max_size=64 * MIB)
        app.router.add_post("/v1/chat/completions", self._answer)
        app.router.add_post("/v1/responses", self._answer)
        app.router.add_post("/v1/embeddings", self._answer)
        app.router.add_get("/v1/models", self._models)
        app.router.add_route("*", "/control", self._control)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.port, backlog=1024)
        await site.start()
        self.port = runner.addresses[0][1]
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "test-model", "object": "model"}]})

    async def _control(self, request: web.Request) -> web.Response:
        if request.method == "POST":
            order = await request.json()
            if "mend" in order and isinstance(self.script, ByPrompt):
                self.script.mended = order["mend"]
            if order.get("reset"):
                self.reset()
            self.latency = order.get("latency", self.latency)
            self.rule(**order)
        told: dict[str, Any] = {
            "requests": len(self.requests),
            "peak": self.peak,
            "in_flight": self.in_flight,
            "now": time.monotonic(),
            **{name: self.counts[name] for name in ("accepted", "refused", "failed", "tokens")},
        }
        if "since" in request.query:
            since = float(request.query["since"])
            told["log"] = [[seen.arrived, seen.verdict] for seen in self.requests if seen.arrived >= since]
        return web.json_response(told)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        body = json.loads(raw)
        seen = Seen(
            n=len(self.requests) + 1,
            path=request.path,
            query=dict(request.query),
            peer=tuple(request.transport.get_extra_info("peername")[:2]) if request.transport else ("", 0),
            headers={name.lower(): value for name, value in request.headers.items()},
            raw=raw,
            body=body,
            arrived=time.monotonic(),
            transport=request.transport,
        )
        self.requests.append(seen)
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        self._note("arrived", seen)
        try:
            reply = self._judged(seen) or self._counted(self.script(body, seen.n), seen)
            while self.peak < self.hold or (len(self.requests) < reply.after and time.monotonic() < seen.arrived + 60):
                await asyncio.sleep(0.005)
            await asyncio.sleep(reply.delay + (self.latency if reply.status == 200 else 0))
            return await self._send(request, reply, seen)
        finally:
            self.in_flight -= 1
            seen.finished = time.monotonic()
            self._note("finished", seen)

    def _note(self, what: str, seen: Seen) -> None:
        if self._log is not None:
            line = {"event": what, "n": seen.n, "at": time.time(), "status": seen.status, "prompt": seen.prompt}
            with self._log.open("a") as file:
                file.write(json.dumps(line) + "\n")

    def _judged(self, seen: Seen) -> Reply | None:
        """What the rules make of it; None: it passes."""
        seen.answer_tokens = self.quota.draw_answer()
        rules = self.quota.rules
        if rules.failing:
            return self._verdict(seen, "failed", failed(500))
        prompt = _prompt_tokens(seen)
        asked = seen.body.get("max_tokens") or seen.body.get("max_completion_tokens") or 0
        charge = Charge(request=prompt + int(asked), usage=prompt + (seen.answer_tokens or 0))
        wait = self.quota.admit(charge, seen.arrived)
        if wait is None:
            self.counts["tokens"] += charge.request if self.quota.rules.charged == "request" else charge.usage
            return self._verdict(seen, "accepted", None)
        return self._verdict(seen, "refused", rate_limited(f"{wait:.3f}" if rules.retry_after else None))

    def _verdict(self, seen: Seen, verdict: str, reply: Reply | None) -> Reply | None:
        seen.verdict = verdict
        self.counts[verdict] += 1
        return reply

    @staticmethod
    def _counted(reply: Reply, seen: Seen) -> Reply:
        """With the usage that the rules drew."""
        if seen.answer_tokens is None or reply.status != 200 or reply.usage is not None:
            return reply
        prompt, answer = _prompt_tokens(seen), seen.answer_tokens
        if seen.path.endswith("/responses"):
            return replace(reply, usage={"input_tokens": prompt, "output_tokens": answer})
        usage = {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}
        return replace(reply, usage=usage)

    async def _send(self, request: web.Request, reply: Reply, seen: Seen) -> web.StreamResponse:
        if reply.end != "whole" and reply.sent is None:
            _hang_up(request, reply.end)
            return web.Response()
        seen.status = reply.status
        headers = {"Content-Type": "application/json", "x-request-id": f"req-{seen.n}", **self.quota.headers()}
        response = web.StreamResponse(status=reply.status, headers={**headers, **reply.headers})
        if reply.filler:
            return await _fill(request, response, reply.filler)
        data = _bytes(reply, seen)
        response.content_length = len(data)
        with contextlib.suppress(ConnectionError):
            await response.prepare(request)
            if reply.end != "whole":
                await response.write(data[: reply.sent])
                _hang_up(request, reply.end)
            elif reply.drip:
                for position in range(len(data)):
                    await response.write(data[position : position + 1])
                    await asyncio.sleep(reply.drip)
            else:
                await response.write(data)
        return response


async def _fill(request: web.Request, response: web.StreamResponse, size: int) -> web.StreamResponse:
    """An answer of that size, never held in memory."""
    with contextlib.suppress(ConnectionError):
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(b'{"choices": [{"message": {"content": "')
        for _ in range(size // 65536):
            await response.write(b"x" * 65536)
        await response.write(b'"}}]}')
    return response


def _prompt_tokens(seen: Seen) -> int:
    """As providers count them: about four bytes of text each, and seven for what is around a message."""
    return len(seen.prompt.encode()) // 4 + 7


def _hang_up(request: web.Request, end: str) -> None:
    transport = request.transport
    assert transport is not None
    if end == "reset":
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    else:
        transport.close()


def _bytes(reply: Reply, seen: Seen) -> bytes:
    if reply.body is not None:
        body = reply.body if isinstance(reply.body, str | bytes) else json.dumps(reply.body)
        return body.encode() if isinstance(body, str) else body
    if seen.path.endswith("/embeddings"):
        return json.dumps(_embeddings(reply, seen)).encode()
    text = reply.text if reply.text is not None else str(echo(seen.body, seen.n).text)
    make = _responses if seen.path.endswith("/responses") else _chat
    return json.dumps(make(reply, seen, text)).encode()


def _chat(reply: Reply, seen: Seen, text: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": reply.refusal}
    if reply.finish_reason == "tool_calls":
        call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        message |= {"content": None, "tool_calls": [call]}
    counts = {"prompt_tokens": len(seen.raw) // 4, "completion_tokens": len(text) // 4}
    return {
        "id": f"chatcmpl-{seen.n}",
        "object": "chat.completion",
        "model": seen.body.get("model"),
        "choices": [{"index": 0, "message": message, "finish_reason": reply.finish_reason}],
        "usage": reply.usage or {**counts, "total_tokens": sum(counts.values())},
    }


def _embeddings(reply: Reply, seen: Seen) -> dict[str, Any]:
    """In reversed order: what counts is `index`."""
    texts = seen.body["input"]
    texts = [texts] if isinstance(texts, str) else texts
    size = seen.body.get("dimensions", 8)
    data = [
        {"object": "embedding", "index": index, "embedding": unit_vector(text, size)}
        for index, text in enumerate(texts)
    ]
    tokens = sum(-(-len(text.encode()) // 4) for text in texts)
    return {
        "object": "list",
        "model": seen.body.get("model"),
        "data": data[::-1],
        "usage": reply.usage or {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _responses(reply: Reply, seen: Seen, text: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": []}
    if reply.refusal:
        part = {"type": "refusal", "refusal": reply.refusal}
    reason = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(reply.finish_reason)
    output: list[Any] = [{"type": "message", "role": "assistant", "content": [part]}]
    if reply.finish_reason == "tool_calls":
        output = [{"type": "function_call", "name": "f", "arguments": "{}"}]
    return {
        "id": f"resp-{seen.n}",
        "object": "response",
        "model": seen.body.get("model"),
        "status": "incomplete" if reason else "completed",
        "incomplete_details": {"reason": reason} if reason else None,
        "error": None,
        "output": output,
        "usage": reply.usage or {"input_tokens": len(seen.raw) // 4, "output_tokens": len(text) // 4},
    }


@contextlib.contextmanager
def running_server(script: Script = echo, *, latency: float = 0.0) -> Iterator[Server]:
    """A server for the length of a `with`."""
    server = Server(script, latency=latency)
    server.start()
    try:
        yield server
    finally:
        server.stop()


async def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.support.server")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--log", type=Path)
    options = parser.parse_args()
    server = Server(ByPrompt(), latency=options.latency, log=options.log)
    server.port = options.port
    serving = asyncio.create_task(server.serve())
    while not server._ready.is_set():
        await asyncio.sleep(0.01)
    print(json.dumps({"port": server.port, "url": server.url}), flush=True)
    await serving


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main())
