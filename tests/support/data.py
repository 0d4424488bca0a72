"""Data sets of tests, and what is read from them."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flowllm.datasets.base import Row, Rows
from flowllm.datasets.files import reader_of
from flowllm.datasets.lines import as_utf8


class Trickle(io.RawIOBase):
    """Bytes that come in pieces of random sizes, as from a pipe."""

    def __init__(self, data: bytes, seed: int = 0, most: int = 40) -> None:
        self._data = memoryview(data)
        self._random = random.Random(seed)
        self._most = most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = min(len(buffer), self._random.randint(1, self._most), len(self._data))
        buffer[:size] = self._data[:size]
        self._data = self._data[size:]
        return size


class Repeated(io.RawIOBase):
    """One piece of bytes many times, between a beginning and an end, without holding them all."""

    def __init__(self, piece: bytes, times: int, *, head: bytes = b"", tail: bytes = b"") -> None:
        self._pieces = self._all(piece, times, head, tail)
        self._rest = memoryview(b"")

    @staticmethod
    def _all(piece: bytes, times: int, head: bytes, tail: bytes) -> Iterator[bytes]:
        block = max(1, 1_000_000 // len(piece))
        yield head
        for _ in range(times // block):
            yield piece * block
        yield piece * (times % block)
        yield tail

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            following = next(self._pieces, None)
            if following is None:
                return 0
            self._rest = memoryview(following)
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


def read(data: bytes | io.RawIOBase, kind: str, *, cut: bool = False, **options: Any) -> list[tuple[int, Any, str]]:
    """Line, value and error ("" if there is none) of each row that a reader finds in a file named `data`."""
    raw = Trickle(data, most=1 << 20) if isinstance(data, bytes) else data
    reader = reader_of("data", kind=kind, delimiter=options.get("delimiter"))
    found = reader(as_utf8(io.BufferedReader(raw)), "data", cut=cut)
    return [(line, value, "" if error is None else error.message) for line, _, value, error in found]


def values(data: bytes | io.RawIOBase, kind: str, **options: Any) -> list[Any]:
    """The values of all rows, none of which may be bad."""
    rows = read(data, kind, **options)
    assert not [error for _, _, error in rows if error]
    return [value for _, value, _ in rows]


async def drain(rows: Rows, most: int = 7) -> list[Row]:
    """All rows, taken in small numbers."""
    taken: list[Row] = []
    while page := await rows.take(most):
        assert len(page) <= most
        taken += page
    assert [row.index for row in taken] == list(range(len(taken)))
    return taken


async def drained(rows: Rows) -> list[Any]:
    """The values of all rows."""
    return [row.value for row in await drain(rows)]


def write(path: Path, data: bytes | str) -> Path:
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path
