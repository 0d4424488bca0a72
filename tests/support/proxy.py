"""Between a client and a PostgreSQL server: a network that breaks."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

COMMIT = b"Q\x00\x00\x00\x0bCOMMIT\x00"
"""As it travels."""


class Proxy:
    """Forwards connections to a server's socket until it is told not to."""

    def __init__(self, url: str, folder: Path) -> None:
        self._parts = urlsplit(url)
        self.url = f"{self._parts.scheme}://{self._parts.username or ''}:{self._parts.password or ''}@{self._parts.path}?host={folder}"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / ".s.PGSQL.5432"))
        self._listener.listen()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self.refuses = threading.Event()
        """Nobody gets through, as where a server is gone."""
        self.before_commit: Callable[[], bool] = lambda: False
        """Whether a COMMIT is lost on its way,"""
        self.after_commit: Callable[[], bool] = lambda: False
        """or what the server says to it is."""
        self.connections = 0
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Every connection that there is."""
        for pair in list(self._pairs):
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.refuses.is_set():
                client.close()
                continue
            self.connections += 1
            pair = client, self._server()
            self._pairs.add(pair)
            threading.Thread(target=self._forward, args=pair, daemon=True).start()

    def _server(self) -> socket.socket:
        folder = parse_qs(self._parts.query).get("host")
        if folder:
            found = socket.socket(socket.AF_UNIX)
            found.connect(f"{folder[0]}/.s.PGSQL.{self._parts.port or 5432}")
            return found
        return socket.create_connection((self._parts.hostname or "127.0.0.1", self._parts.port or 5432))

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        with selectors.DefaultSelector() as ready, client, server, contextlib.suppress(OSError):
            for end in (client, server):
                ready.register(end, selectors.EVENT_READ)
            committing = False
            while True:
                for key, _ in ready.select():
                    content = key.fileobj.recv(1 << 16)
                    if not content or (committing and key.fileobj is server):
                        self._pairs.discard((client, server))
                        return
                    if key.fileobj is client and COMMIT in content:
                        if self.before_commit():
                            self._pairs.discard((client, server))
                            return
                        committing = self.after_commit()
                    (server if key.fileobj is client else client).sendall(content)


@contextmanager
def proxied(url: str, folder: Path) -> Iterator[Proxy]:
    """A proxy before the server of that database."""
    proxy = Proxy(url, folder)
    try:
        yield proxy
    finally:
        proxy.close()
