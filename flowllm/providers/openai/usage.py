"""Tokens and cost as servers report them, under the names of several APIs. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

from flowllm.core.types import Json, Usage

COST_HEADER: Final = "x-litellm-response-cost"
_MOST_TOKENS: Final = 2**53
"""A count above this is nonsense, and would not fit a database."""
_INPUT: Final = ("prompt_tokens", "input_tokens")
_OUTPUT: Final = ("completion_tokens", "output_tokens")
_DETAILS: Final = (
    "prompt_tokens_details",
    "input_tokens_details",
    "completion_tokens_details",
    "output_tokens_details",
)
_CACHED: Final = ("cached_tokens", "cache_read_input_tokens", "cache_read_tokens", "prompt_cache_hit_tokens")
_WRITTEN: Final = (
    *("cache_write_tokens", "cache_creation_input_tokens", "cache_write_input_tokens", "cache_creation_tokens"),
)
_REASONING: Final = ("reasoning_tokens", "thinking_tokens")


def read_usage(usage: Json, *, embedding: bool = False) -> Usage:
    """The tokens of one answer; unknown where they are missing or make no sense. An `embedding` has no output.

    Reasoning that is left out of the output is reported by the total alone. Caches that are counted beside the input,
    as Anthropic does, are put into it.
    """
    if not isinstance(usage, dict):
        return Usage.unknown()
    details = [usage.get(name) for name in _DETAILS]
    parts = [usage, *(found for found in details if isinstance(found, dict))]
    total = _first(parts[:1], ("total_tokens",))
    cached = _first(parts, _CACHED) or 0
    written = _first(parts, _WRITTEN) or 0
    before = _first(parts[:1], _INPUT)
    after = 0 if embedding else _first(parts[:1], _OUTPUT)
    if before is not None and _beside(usage, before, cached + written, after, total):
        before += cached + written
    if before is None and total is not None and after is not None and total >= after:
        before = total - after
    reported = after
    if not embedding and before is not None and total is not None:
        rest = max(0, total - before)
        after = rest if after is None else max(after, rest)
    if not before and not after:  # every question has a token
        return Usage.unknown()
    hidden = 0 if reported is None or after is None else after - reported
    reasoning = max(_first(parts, _REASONING) or 0, hidden)
    return Usage(
        input_tokens=before,
        output_tokens=after,
        cached_input_tokens=_within(cached, before),
        reasoning_tokens=_within(reasoning, after),
        cache_write_tokens=_within(written, before),
    )


def reported_cost(headers: Mapping[str, str]) -> float | None:
    """US dollars that a gateway says its answer cost; None: it does not say. Names are in lower case."""
    try:
        cost = float(headers.get(COST_HEADER, ""))
    except ValueError:
        return None
    return cost if math.isfinite(cost) and cost >= 0 else None


def _beside(usage: Mapping[str, Json], before: int, cache: int, after: int | None, total: int | None) -> bool:
    """Whether tokens of the cache stand beside the input instead of within it."""
    if not cache:
        return False
    if total is not None and after is not None:
        return total == before + cache + after
    own = any(name in usage for name in ("cache_read_input_tokens", "cache_creation_input_tokens"))
    return before < cache or (own and "prompt_tokens" not in usage and "total_tokens" not in usage)


def _within(part: int, whole: int | None) -> int:
    return part if whole is None else min(part, whole)


def _first(parts: Sequence[Mapping[str, Json]], names: tuple[str, ...]) -> int | None:
    counts = (_count(part.get(name)) for part in parts for name in names)
    return next((count for count in counts if count is not None), None)


def _count(value: Json) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MOST_TOKENS:
        return None
    return int(value)
