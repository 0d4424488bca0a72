"""The prompt cache of a simulated server: blocks of 128 tokens, from 1,024 on, to be read once a prompt was answered. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Final

from flowllm.core.fingerprint import canonical
from flowllm.core.types import CACHED_FROM, Json

_BLOCK: Final = 128
"""Tokens."""
_BLOCK_BYTES: Final = 4 * _BLOCK
_CAPACITY: Final = 100_000
"""Blocks; those that were not used for longest are forgotten."""


class PromptCache:
    """What was read lately."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, None] = OrderedDict()

    def begin(self, body: Mapping[str, Json]) -> tuple[list[bytes], int]:
        """A prompt's blocks, each named by all up to its end, and how many of its tokens are found now."""
        blocks = list(_blocks(body))
        found = 0
        while found < len(blocks) and blocks[found] in self._kept:
            found += 1
        self.end(blocks[:found])
        return blocks, found * _BLOCK if found * _BLOCK >= CACHED_FROM else 0

    def end(self, blocks: list[bytes]) -> None:
        """They were read: others find them from now on."""
        for block in reversed(blocks):
            self._kept[block] = None
            self._kept.move_to_end(block)
        while len(self._kept) > _CAPACITY:
            self._kept.popitem(last=False)


def _blocks(body: Mapping[str, Json]) -> Iterator[bytes]:
    """In the order in which a model reads: tools, the answer's schema, messages; by model."""
    parts = [canonical(body[name]) for name in ("tools", "response_format") if name in body]
    for message in body["messages"]:
        content = message.get("content")
        parts += [str(message.get("role")), content if isinstance(content, str) else canonical(content)]
    data = "\n".join(parts).encode(errors="surrogatepass")
    chain = blake2b(str(body["model"]).encode(errors="surrogatepass"), digest_size=8)
    for start in range(0, len(data) - _BLOCK_BYTES + 1, _BLOCK_BYTES):
        chain.update(data[start : start + _BLOCK_BYTES])
        yield chain.digest()
