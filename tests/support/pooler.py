"""A pooler in transaction mode, as PgBouncer is one: each transaction of a client goes to another process of the server."""

from __future__ import annotations

import asyncio
import struct
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

HEAD = struct.Struct(">cI")
STARTUP = 196608
TELLS_ITS_NUMBER = b"K"
READY = b"Z"

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Pooler:
    """Has two connections to the server for all clients, and takes them in turn."""

    def __init__(self, url: str, folder: Path, *, hidden: bool) -> None:
        """`hidden`: clients are told the number of a real process."""
        self._parts = urlsplit(url)
        self._path = folder / ".s.PGSQL.5432"
        self._hidden = hidden
        user = f"{self._parts.username or ''}:{self._parts.password or ''}"
        self.url = f"postgresql://{user}@{self._parts.path}?host={folder}"
        self.transactions = 0
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._is_open = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)
        self._thread.start()
        assert self._is_open.wait(30)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    async def _serve(self) -> None:
        self._servers = [await self._connected() for _ in range(2)]
        self._free: asyncio.Queue[Stream] = asyncio.Queue()
        for server, _ in self._servers:
            self._free.put_nowait(server)
        listener = await asyncio.start_unix_server(self._client, self._path)
        self._is_open.set()
        await self._stop.wait()
        listener.close()
        for (_, writer), _ in self._servers:
            writer.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        for _ in range(4):  # they end, and then their transports do
            await asyncio.sleep(0)

    async def _connected(self) -> tuple[Stream, bytes]:
        """A connection to the server, and what it says at its beginning."""
        folder = parse_qs(self._parts.query).get("host")
        if folder:
            stream = await asyncio.open_unix_connection(f"{folder[0]}/.s.PGSQL.{self._parts.port or 5432}")
        else:
            stream = await asyncio.open_connection(self._parts.hostname, self._parts.port or 5432)
        names = {
            "user": self._parts.username or "postgres",
            "database": self._parts.path[1:],
            "client_encoding": "UTF8",
        }
        words = b"".join(f"{word}\0".encode() for pair in names.items() for word in pair) + b"\0"
        stream[1].write(struct.pack(">II", len(words) + 8, STARTUP) + words)
        said = b""
        while True:
            kind, message = await _message(stream[0])
            if kind == TELLS_ITS_NUMBER and not self._hidden:
                message = HEAD.pack(kind, 12) + struct.pack(">II", 1, 1)
            said += message
            if kind == READY:
                return stream, said

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(asyncio.IncompleteReadError, ConnectionError):
            length, _ = struct.unpack(">II", await reader.readexactly(8))
            await reader.readexactly(length - 8)
            writer.write(self._servers[0][1])
            while True:
                kind, message = await _message(reader)
                if kind == b"X":
                    break
                await self._transaction(message, reader, writer)

    async def _transaction(self, message: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server = await self._free.get()  # the one that was given back longest ago
        self.transactions += 1
        forwards = None
        try:
            server[1].write(message)
            forwards = asyncio.ensure_future(_forward(reader, server[1]))
            while True:
                kind, said = await _message(server[0])
                writer.write(said)
                if kind == READY and said.endswith(b"I"):
                    return
        finally:
            if forwards is not None:
                forwards.cancel()
                with suppress(asyncio.CancelledError, asyncio.IncompleteReadError, ConnectionError):
                    await forwards
            self._free.put_nowait(server)


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Whole messages: what is read in part is read on by the next."""
    while True:
        _, message = await _message(reader)
        writer.write(message)


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readexactly(HEAD.size)
    kind, length = HEAD.unpack(head)
    return kind, head + await reader.readexactly(length - 4)


@contextmanager
def pooled(url: str, folder: Path, *, hidden: bool = False) -> Iterator[Pooler]:
    """A pooler before the server of that database."""
    pooler = Pooler(url, folder, hidden=hidden)
    try:
        yield pooler
    finally:
        pooler.close()
