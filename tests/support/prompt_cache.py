"""A provider's cache of the beginnings of prompts, as OpenAI describes it: pure, without a clock.

    prefill = cache.begin(sent_text(body))       # what is found is decided when a request begins
    … wait cache.seconds(prefill) …
    cache.end(prefill)                           # only now can others read what it has made
    usage = prefill.usage(completion_tokens)

A prompt is found in whole blocks of 128 tokens and from 1,024 tokens up; what is not found has to be read, at
so many tokens a second. The cache forgets what was used the longest ago, the end of a prompt before its beginning.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

BYTES = 4
"""Of text in a token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefill:
    """What becomes of one prompt."""

    tokens: int
    cached: int
    """Tokens that are read from the cache."""
    blocks: tuple[bytes, ...]
    """The prompt's whole blocks, each by all that stands before it and in it."""

    def usage(self, completion: int) -> dict[str, Any]:
        """As chat completions tell it."""
        return {
            "prompt_tokens": self.tokens,
            "completion_tokens": completion,
            "total_tokens": self.tokens + completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }


class PromptCache:
    """Beginnings of prompts that were read lately.

    Args:
        block: tokens of a block.
        minimum: tokens below which nothing is kept or found.
        capacity: blocks that are kept at most; 0 is a server without a cache.
        rate: uncached tokens that are read in a second.
    """

    def __init__(
        self, *, block: int = 128, minimum: int = 1024, capacity: int = 10_000, rate: float = 10_000.0
    ) -> None:
        self._block = block
        self._minimum = minimum
        self._capacity = capacity
        self._rate = rate
        self._kept: dict[bytes, None] = {}
        """By last use, the latest last."""

    def begin(self, text: str) -> Prefill:
        """What is found of a prompt now."""
        data = text.encode(errors="surrogatepass")
        blocks = tuple(self._blocks(data))
        found = 0
        while found < len(blocks) and blocks[found] in self._kept:
            found += 1
        cached = found * self._block
        self._use(blocks[:found])
        return Prefill(tokens=-(-len(data) // BYTES), cached=cached if cached >= self._minimum else 0, blocks=blocks)

    def seconds(self, prefill: Prefill) -> float:
        """How long the server reads what it does not have."""
        return (prefill.tokens - prefill.cached) / self._rate

    def end(self, prefill: Prefill) -> None:
        """The prompt was read: others can find it. One that was given up is not ended."""
        if prefill.tokens >= self._minimum:
            self._use(prefill.blocks)
        while len(self._kept) > self._capacity:
            del self._kept[next(iter(self._kept))]

    def _use(self, blocks: tuple[bytes, ...]) -> None:
        for name in reversed(blocks):
            self._kept.pop(name, None)
            self._kept[name] = None

    def _blocks(self, data: bytes) -> Iterator[bytes]:
        size = self._block * BYTES
        name = b""
        for start in range(0, len(data) - size + 1, size):
            name = blake2b(data[start : start + size], key=name, digest_size=16).digest()
            yield name


def sent_text(body: Mapping[str, Any]) -> str:
    """A request's text in the order in which a provider reads it: schema, tools, then message after message."""
    parts = [json.dumps(body[name]) for name in ("response_format", "text", "tools") if name in body]
    messages = body.get("messages") or body.get("input") or []
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if "instructions" in body:
        messages = [{"role": "developer", "content": body["instructions"]}, *messages]
    for message in messages:
        content = message["content"] if isinstance(message["content"], str) else json.dumps(message["content"])
        parts.append(f"<{message['role']}>{content}")
    return "".join(parts)
