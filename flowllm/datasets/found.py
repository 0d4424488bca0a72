"""What readers make of bytes: rows, and the beginnings of those that cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Final

from flowllm.core.errors import BadRow
from flowllm.core.strict_json import reason
from flowllm.core.types import Json
from flowllm.datasets.base import MAX_ROW

Found = tuple[int, int, "Json", "BadRow | None"]
"""A line's number, the bytes that were read for it, the row's value, and what is wrong with it."""
Reading = Generator[Found, None, "Sequence[str]"]
"""What a reader finds; it returns the columns of a table that has no rows."""
SHOWN: Final = 200
"""Bytes of a bad row that are kept."""
TOO_LARGE: Final = f"over {MAX_ROW >> 20} MiB in one row"


def found(data: bytes, line: int, name: str, read: Callable[[bytes], Json]) -> Found:
    """A row as `read` reads it."""
    try:
        return line, len(data), read(data), None
    except ValueError as error:
        return bad(data, line, name, reason(error))


def bad(data: bytes, line: int, name: str, why: str, size: int | None = None) -> Found:
    """A row that cannot be read; its value is where it stands and how it begins."""
    text = data[:SHOWN].rstrip(b"\r\n").decode(errors="replace")
    value: Json = {"_line": line, "_text": text}
    return line, len(data) if size is None else size, value, BadRow(f"{name}:{line}: {why}")
