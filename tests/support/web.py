"""A web server of anybody's, for `http` steps: a script gives the very bytes of each answer.

with running_web(lambda asked: answer({"n": asked.n})) as web:
    … web.url … web.asked …
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request as it came."""

    n: int
    method: str
    target: str
    headers: dict[str, str]
    body: bytes


class Web:
    """The server, in a thread of its own."""

    def __init__(self, script: Callable[[Asked], bytes], host: str) -> None:
        self.script = script
        self.host = host
        self.asked: list[Asked] = []
        self.open = 0
        """Connections."""
        self.hold = 0
        """No answer is sent before that many requests have come."""
        self.drip = 0.0
        """Seconds between two bytes of an answer."""
        self.port = 0
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(20), "the test server did not start"

    def stop(self) -> None:
        if self._loop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._connection, self.host, 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        with contextlib.closing(writer), contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                asked = await self._request(reader)
                self.asked.append(asked)
                while len(self.asked) < self.hold:
                    await asyncio.sleep(0.005)
                data = self.script(asked)
                if not self.drip:
                    writer.write(data)
                    await writer.drain()
                for place in range(len(data) if self.drip else 0):
                    writer.write(data[place : place + 1])
                    await writer.drain()
                    await asyncio.sleep(self.drip)
                if not data or b"connection: close" in data.partition(b"\r\n\r\n")[0].lower():
                    break
        self.open -= 1

    async def _request(self, reader: asyncio.StreamReader) -> Asked:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").removesuffix("\r\n\r\n")
        first, *lines = head.split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        method, target, _ = first.split(" ")
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        return Asked(n=len(self.asked) + 1, method=method, target=target, headers=headers, body=body)


def answer(body: Any = None, *, status: int = 200, kind: str | None = "application/json", **headers: str) -> bytes:
    """The bytes of an answer: JSON of the body, unless that is bytes. `_` in the name of a header is `-`."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(data)}"]
    lines += [f"Content-Type: {kind}"] if kind else []
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + data


def redirect(target: str, status: int = 302, **headers: str) -> bytes:
    return answer(b"", status=status, Location=target, **headers)


@contextlib.contextmanager
def running_web(
    script: Callable[[Asked], bytes] = lambda asked: answer(asked.n), *, host: str = "127.0.0.1"
) -> Iterator[Web]:
    """A server for the length of a `with`."""
    web = Web(script, host)
    web.start()
    try:
        yield web
    finally:
        web.stop()
