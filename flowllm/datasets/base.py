"""The protocol of a data set, and what its readers make of bytes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Final, Protocol, runtime_checkable

from flowllm.core.errors import BadRow
from flowllm.core.fingerprint import canonical, digest
from flowllm.core.records import dataclass
from flowllm.core.strict_json import reason
from flowllm.core.types import Json

MAX_ROW = 16 * 1024 * 1024
"""Bytes of one row."""
CONTENT_DIGITS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of a data set, or what could be made of a bad one."""

    index: int
    """From 0, over all rows, bad ones too."""
    value: Json
    line: int | None = None
    """Where it begins in its file, from 1."""
    error: BadRow | None = None
    """Why it cannot be used."""


class Rows(Protocol):
    """A data set, read once, from the beginning, by one reader."""

    total: int | None
    """How many rows there are; None: only the end will tell."""
    live: bool
    """Rows come when somebody sends them: they are not waited for only to be counted."""

    async def take(self, most: int) -> list[Row]:
        """The next rows, as many as are at hand, at least one; [] at the end.

        Raises DataFailed if nothing more can be read; every row before that was given.
        """
        ...

    async def count_rest(self) -> int:
        """How many rows are left, none of them kept, as far as they can be read; 0 for a source that one would have
        to wait for. Does not raise DataFailed."""
        ...

    async def close(self) -> None:
        """Release what is open."""
        ...


@runtime_checkable
class Countable(Protocol):
    """A data set that can be counted beside its reader."""

    async def count(self, wanted: Callable[[], bool]) -> int | None:
        """How many rows there are in all, found without holding up anybody; None where only the end tells, where they
        cannot be read to their end, and as soon as `wanted` (called in a thread) says that it is no longer."""
        ...


def content_of(value: Json) -> str:
    """An item's content, by which it is found again: the first 32 hexadecimal digits of the SHA-256 of its canonical
    JSON."""
    return digest(canonical(value))[:CONTENT_DIGITS]


ParsedRow = tuple[int, int, "Json", "BadRow | None"]
"""A line's number, the bytes that were read for it, the row's value, and what is wrong with it."""
RowIterator = Generator[ParsedRow, None, "Sequence[str]"]
"""What a reader finds; it returns the columns of a table that has no rows."""
SHOWN: Final = 200
"""Bytes of a bad row that are kept."""
TOO_LARGE: Final = f"over {MAX_ROW >> 20} MiB in one row"


def parsed_row(data: bytes, line: int, name: str, read: Callable[[bytes], Json]) -> ParsedRow:
    """A row as `read` reads it."""
    try:
        return line, len(data), read(data), None
    except ValueError as error:
        return bad_row(data, line, name, reason(error))


def bad_row(data: bytes, line: int, name: str, reason_text: str, size: int | None = None) -> ParsedRow:
    """A row that cannot be read; its value is where it stands and how it begins."""
    text = data[:SHOWN].rstrip(b"\r\n").decode(errors="replace")
    value: Json = {"_line": line, "_text": text}
    return line, len(data) if size is None else size, value, BadRow(f"{name}:{line}: {reason_text}")
