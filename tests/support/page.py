"""`flowllm ui` within a test: the real server on a port of its own, spoken to by raw sockets."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.applications import Starlette

from flowllm.app.flowllm import FlowLLM
from flowllm.core.clock import SystemClock
from flowllm.ui.database import Database
from flowllm.ui.security import Access
from flowllm.ui.server import STATIC, create_app, serve

HANG = 30.0


@dataclass(frozen=True)
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: str) -> str:
        return ", ".join(value for key, value in self.headers if key == name)


@dataclass(frozen=True)
class Page:
    """A server that runs, and who is let in."""

    app: Starlette
    access: Access
    port: int

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def cookie(self) -> str:
        return (self.access.session_for(self.access.token) or "").partition(";")[0]

    async def send(self, request: str | bytes) -> Answer:
        """What comes back for exactly these bytes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request.encode("latin-1") if isinstance(request, str) else request)
            return await asyncio.wait_for(_answer(reader), HANG)
        finally:
            writer.close()

    async def ask(self, method: str, path: str, *headers: str, host: str | None = "", body: str = "") -> Answer:
        """A request with these headers; its Host is right unless it is said (None: there is none)."""
        hosts = [] if host is None else [f"Host: {host or self.host}"]
        length = [f"Content-Length: {len(body)}"] if body else []
        lines = [f"{method} {path} HTTP/1.1", *hosts, *headers, *length, "Connection: close"]
        return await self.send("\r\n".join(lines) + f"\r\n\r\n{body}")

    async def get(self, path: str, *headers: str) -> Answer:
        """A request of the page's own."""
        return await self.ask("GET", path, f"Cookie: {self.cookie}", *headers)

    async def post(self, path: str, body: str = "{}") -> Answer:
        mine = (f"Cookie: {self.cookie}", f"Origin: http://{self.host}", "Content-Type: application/json")
        return await self.ask("POST", path, *mine, body=body)

    @asynccontextmanager
    async def events(self, path: str) -> AsyncIterator[AsyncIterator[tuple[str, Any, str]]]:
        """A stream: its events as (name, data, id)."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: {self.host}\r\nCookie: {self.cookie}\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            assert b" 200 " in head, head
            yield _events(reader)
        finally:
            writer.close()


async def _answer(reader: asyncio.StreamReader) -> Answer:
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    return Answer(int(first.split(" ")[1]) if first else 0, headers, body)


async def _events(reader: asyncio.StreamReader) -> AsyncIterator[tuple[str, Any, str]]:
    text = b""
    while True:
        size = int(await asyncio.wait_for(reader.readline(), HANG) or b"0", 16)
        text += await reader.readexactly(size)
        await reader.readline()
        if not size:
            return
        while b"\n\n" in text:
            block, _, text = text.partition(b"\n\n")
            found = dict(line.split(": ", 1) for line in block.decode().split("\n") if not line.startswith(":"))
            if found:
                yield found["event"], json.loads(found["data"]), found.get("id", "")


@asynccontextmanager
async def page_of(database: Path, *, static: Path = STATIC, **how: Any) -> AsyncIterator[Page]:
    """The page over a database, while the test is within; it must end at once."""
    listener = socket.create_server(("127.0.0.1", 0))
    port, clock, stop = listener.getsockname()[1], SystemClock(), asyncio.Event()
    access = Access(port)
    workflow_of = FlowLLM(database=database, environ={}).workflow_of
    app = create_app(
        Database(str(database), clock=clock), access, clock=clock, workflow_of=workflow_of, static=static, **how
    )
    serving = asyncio.ensure_future(serve(app, listener, stop=stop.wait))
    try:
        yield Page(app, access, port)
    finally:
        stop.set()
        await asyncio.wait_for(serving, HANG)
