"""A JSON array as a stream: cut into its elements by brackets and quotes, each of which `json` then reads.

Parsers that work on streams stop at the first element that is wrong, hold one of any size, and read numbers and half
characters otherwise than `json` does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from flowllm.core.errors import DataFailed
from flowllm.core.records import dataclass
from flowllm.core.strict_json import json_of
from flowllm.datasets.base import MAX_ROW, SHOWN, TOO_LARGE, ParsedRow, bad_row, parsed_row
from flowllm.datasets.lines import text_start

_BLANKS: Final = b" \t\r\n"
_TEXTS: Final = rb'(?:"[^"\\]*"%s)*'
"""Texts without a backslash, and what stands behind each."""
_AT_TOP: Final = re.compile(rb'[^"\[\]{},]*' + _TEXTS % rb'[^"\[\]{},]*')
_INSIDE: Final = re.compile(rb'[^"\[\]{}]*' + _TEXTS % rb'[^"\[\]{}]*')
_REST_OF_TEXT: Final = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)
_QUOTE, _COMMA, _END = b'",]'
_OPENING: Final = frozenset(b"[{")
_STEP: Final = 256 * 1024
"""Bytes that are looked at in one go; what a pattern remembers on its way grows with them."""


def array_rows(chunks: Iterator[bytes], name: str, *, line: int = 1, cut: bool = False) -> Iterator[ParsedRow]:
    """The elements of the array that the chunks are; no chunks but blanks are no rows. `line` is where they begin.

    Raises DataFailed where the array breaks off, where something stands behind it, and for anything else.
    """
    pieces = _pieces(chunks, name)
    first = next(pieces, b"")
    while first and not first.lstrip(_BLANKS):
        line += first.count(b"\n")
        first = next(pieces, b"")
    if not first:
        return
    begin = first.lstrip(_BLANKS)
    line += first[: -len(begin)].count(b"\n")
    if not begin.startswith(b"["):
        what = "an object" if begin.startswith(b"{") else "something else"
        raise DataFailed(f"{name} is no array, but {what}", hint="JSON Lines end with .jsonl")
    cutter = _Cutter(line)
    piece = begin[1:]
    while not cutter.over:
        for element in cutter.cut(piece):
            yield element.row(name)
        if not cutter.over and not (piece := next(pieces, b"")):
            if cut:
                return
            raise DataFailed(f"{name}:{cutter.line}: the array breaks off; its last element begins here")
    line, rest = cutter.line, cutter.behind
    while not (garbage := rest.lstrip(_BLANKS)):
        line += rest.count(b"\n")
        if not (rest := next(pieces, b"")):
            return
    line += rest.count(b"\n", 0, len(rest) - len(garbage))
    raise DataFailed(f"{name}:{line}: something stands behind the end of the array")


def _pieces(chunks: Iterator[bytes], name: str) -> Iterator[bytes]:
    begin = b""
    for chunk in chunks:
        begin += chunk
        if len(begin) >= 4:  # noqa: PLR2004 - enough to know a byte order mark by
            break
    begin = text_start(begin, name)
    if begin:
        yield from _stepwise(begin)
    for chunk in chunks:
        yield from _stepwise(chunk)


def _stepwise(chunk: bytes) -> Iterator[bytes]:
    for at in range(0, len(chunk), _STEP):
        yield chunk[at : at + _STEP]


@dataclass(frozen=True, slots=True)
class _Element:
    """One element, or the beginning of one that is too long."""

    line: int
    data: bytes
    too_long: bool

    def row(self, name: str) -> ParsedRow:
        if self.too_long:
            return bad_row(self.data, self.line, name, TOO_LARGE)
        if not self.data:
            return bad_row(self.data, self.line, name, "not JSON: an element is missing")
        return parsed_row(self.data, self.line, name, json_of)


class _Cutter:
    """What lies behind an array's opening bracket, cut at the commas that are within no other bracket and no text."""

    def __init__(self, line: int) -> None:
        self.over = False
        """The array was closed."""
        self.behind = b""
        """Of the last piece, what stands behind it."""
        self._line = line
        self._held = bytearray()
        """The element under way, without blanks before it."""
        self._too_long = False
        self._lines_passed = 0
        """Of an element that is too long, ends of lines behind its beginning."""
        self._depth = 0
        self._in_text = False
        self._escaped = False
        self._any = False

    @property
    def line(self) -> int:
        """Where the element under way begins."""
        return self._line

    def cut(self, piece: bytes) -> Iterator[_Element]:
        """The elements that end in the piece."""
        begin = at = 0
        while at < len(piece):
            if self._in_text:
                at = self._through_text(piece, at)
                continue
            at = (_INSIDE if self._depth else _AT_TOP).match(piece, at).end()  # type: ignore[union-attr]
            if at == len(piece):
                break
            mark, at = piece[at], at + 1
            if mark == _QUOTE:
                self._in_text = True
            elif mark in _OPENING:
                self._depth += 1
            elif mark == _COMMA or (mark == _END and not self._depth):
                self._hold(piece[begin : at - 1])
                begin = at
                self.over = mark == _END
                if not self.over or self._held or self._any:
                    yield self._ended()
                if self.over:
                    self.behind = piece[at:]
                    return
            elif self._depth:
                self._depth -= 1
        self._hold(piece[begin:])

    def _through_text(self, piece: bytes, at: int) -> int:
        """To the end of a text, or of the piece."""
        if self._escaped:
            self._escaped = False
            return at + 1
        at = _REST_OF_TEXT.match(piece, at).end()  # type: ignore[union-attr]
        if at < len(piece):
            self._in_text = piece[at] != _QUOTE
            self._escaped = self._in_text
            at += 1
        return at

    def _hold(self, data: bytes) -> None:
        if not self._held:
            begin = data.lstrip(_BLANKS)
            self._line += data.count(b"\n", 0, len(data) - len(begin))
            data = begin
        if self._too_long:
            self._lines_passed += data.count(b"\n")
            return
        self._held += data
        if len(self._held) > MAX_ROW:
            self._lines_passed = self._held.count(b"\n", SHOWN)
            del self._held[SHOWN:]
            self._too_long = True

    def _ended(self) -> _Element:
        element = _Element(self._line, bytes(self._held.rstrip(_BLANKS)), self._too_long)
        self._line += self._held.count(b"\n") + self._lines_passed
        self._held.clear()
        self._lines_passed = 0
        self._too_long, self._any = False, True
        return element
