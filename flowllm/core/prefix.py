"""The beginning of a prompt, as hashes of it up to certain sizes, so that what two prompts share is found by lookups.

Providers keep the beginnings of prompts in blocks of 128 tokens, from 1,024 on, and read what they have for a tenth of
the price; so does this count, at 4 bytes a token. The hashes are chained (W. Kwon et al., "Efficient Memory Management for
Large Language Model Serving with PagedAttention", SOSP 2023, name their blocks so): two prompts with the same hash at a
size are the same up to there. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import blake2b
from itertools import takewhile
from typing import Final

from flowllm.core.fingerprint import canonical
from flowllm.core.request import ChatRequest
from flowllm.core.types import CACHED_FROM, Json

BLOCK: Final = 128
"""Tokens."""
_BYTES_A_TOKEN: Final = 4
_MARK_BYTES: Final = 8


def _sizes() -> Iterator[int]:
    """Each block up to 4,096 tokens, then ever fewer: a prompt of a million tokens has a hundred and fifty marks."""
    blocks = CACHED_FROM // BLOCK
    while blocks <= 2**14:
        yield blocks * BLOCK
        blocks += max(1, blocks // 16)


SIZES: Final = tuple(_sizes())
"""Tokens at which a prompt is marked."""


class PromptPrefix:
    """The beginning of one call's prompt. Its hashes are made when they are first asked for."""

    __slots__ = ("_marks", "_request", "_size")

    def __init__(self, request: ChatRequest) -> None:
        self._request = request
        self._marks: tuple[int, ...] | None = None
        self._size = 0

    @property
    def marks(self) -> tuple[int, ...]:
        """The hash of the prompt up to each of SIZES, as far as it goes; none for a prompt that is not cached."""
        if self._marks is None:
            text = "\n".join(_as_read(self._request)).encode(errors="surrogatepass")
            self._marks, self._size = _marks(text), len(text)
        return self._marks

    @property
    def size(self) -> int:
        """Bytes of the prompt; 0 where it has no marks."""
        return self._size if self.marks else 0

    @property
    def tokens(self) -> int:
        """Of the prompt, at 4 bytes each."""
        return self.size // _BYTES_A_TOKEN


def _as_read(request: ChatRequest) -> Iterator[str]:
    """The prompt in the order in which a model reads it: tools, the answer's schema, messages."""
    if tools := request.params.get("tools"):
        yield canonical(tools)
    if request.output is not None and request.output.schema is not None:
        yield canonical(request.output.schema)
    for message in request.messages:
        yield from _message(message)


def _message(message: Mapping[str, Json]) -> Iterator[str]:
    content = message.get("content")
    if isinstance(content, str) and len(message) == 2:  # noqa: PLR2004 - role and content
        yield str(message.get("role"))
        yield content
    else:
        yield canonical(message)


def _marks(text: bytes) -> tuple[int, ...]:
    found, done, chain = [], 0, blake2b(digest_size=_MARK_BYTES)
    for size in takewhile(lambda size: size * _BYTES_A_TOKEN <= len(text), SIZES):
        end = size * _BYTES_A_TOKEN
        chain.update(text[done:end])
        done = end
        found.append(int.from_bytes(chain.digest()))
    return tuple(found)
