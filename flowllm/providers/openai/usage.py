"""Tokens as servers report them, and what they cost. The one importer of genai_prices. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final
from urllib.parse import urlsplit

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
    for part in parts:
        for name in names:
            if (value := part.get(name)) is not None and (count := _count(value)) is not None:
                return count
    return None


def _count(value: Json) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MOST_TOKENS:
        return None
    return int(value)


MOST_KNOWN = 1000
"""Models and servers for which it is kept where their price stands: to look takes as long as the rest of an answer's
way."""
_WRITE_FACTOR = Decimal("1.25")
_MAKERS = re.compile(r"(?:^|[/.])(?:openai|anthropic|claude|gpt-|o[134]\b)")
_OPEN = re.compile(r":|^gpt-oss|^deepseek-r1|distill")
_MILLION = Decimal(1_000_000)


def price_usd(
    model: str, usage: Usage, *, base_url: str, prices: Mapping[str, Mapping[str, float]] | None = None, tier: str = ""
) -> float | None:
    """US dollars for that many tokens of a model; None where no price is known or a count is not, never a guess.

    `prices` maps a model to {input, output, cached_input, cache_write} in US dollars per million tokens and wins over
    the bundled data, which is looked up by the server's base URL: the same model costs differently elsewhere. For a
    server that is not in it the list price of the model's maker stands in, see `list_price`. `tier` is the service tier,
    of which the bundled data knows what some cost; of one that it does not know, and in `prices`, the usual price counts.
    """
    written = (prices or {}).get(model)
    if written is not None:
        return _by_hand(usage, written, dear=_writes_cost_more(model, base_url))
    found = _found(model, base_url)
    if found is None or usage.input_tokens is None or usage.output_tokens is None:
        return None
    where, _ = found
    # Loads 350 ms worth of price tables: only once an answer is there to be priced.
    from genai_prices import Usage as Tokens  # noqa: PLC0415

    read = min(usage.cached_input_tokens or 0, usage.input_tokens)
    kept = min(usage.cache_write_tokens or 0, usage.input_tokens - read)
    tokens = Tokens(
        input_tokens=usage.input_tokens,
        cache_read_tokens=read,
        cache_write_tokens=kept,
        output_tokens=usage.output_tokens,
    )
    try:
        price = _calculated(tokens, where, tier)
        total = price.total_price
        own = getattr(price.model_price, "cache_write_mtok", None) is not None
        if kept and not own and _writes_cost_more(model, base_url):
            total += _calculated(Tokens(input_tokens=kept), where, tier).total_price * (_WRITE_FACTOR - 1)
    except (LookupError, ValueError):
        return None
    return float(total)


def list_price(model: str, *, base_url: str, prices: Mapping[str, Mapping[str, float]] | None = None) -> str:
    """The model, as `openai/gpt-4o-mini`, whose maker's price stands in for that of a server of which none is known;
    empty where it is known, or nothing is."""
    found = None if model in (prices or {}) else _found(model, base_url)
    return "" if found is None else found[1]


@lru_cache(maxsize=MOST_KNOWN)
def _found(model: str, base_url: str) -> tuple[dict[str, str], str] | None:
    """What to look a price up by, and the model whose list price that is."""
    from genai_prices import Usage as Tokens  # noqa: PLC0415

    maker, _, name = model.lower().rpartition("/")
    maker = maker.rpartition("/")[2] or ("openai" if name.startswith("text-embedding-") else "")
    ways = [{"model_ref": model, "provider_api_url": base_url}]
    if name and not _OPEN.search(name):  # of models that anybody may serve no price is known
        ways.append({"model_ref": name, "provider_id": maker} if maker else {"model_ref": name})
    for way in ways:
        try:
            price = _calculated(Tokens(input_tokens=1, output_tokens=1), way)
        except (LookupError, ValueError):
            continue
        return way, "" if "provider_api_url" in way else f"{price.provider.id}/{price.model.id}"
    return None


def _calculated(tokens: object, where: Mapping[str, str], tier: str = "") -> Any:
    from genai_prices import calc_price  # noqa: PLC0415

    price: Callable[..., Any] = calc_price
    return price(tokens, **where, price_context={"service_tier": tier} if tier else None)


def _by_hand(usage: Usage, written: Mapping[str, float], *, dear: bool) -> float | None:
    if "input" not in written or "output" not in written:
        return None
    if usage.input_tokens is None or usage.output_tokens is None:
        return None if any(written.values()) else 0.0
    price = _decimal(written["input"])
    read = min(usage.cached_input_tokens or 0, usage.input_tokens)
    kept = min(usage.cache_write_tokens or 0, usage.input_tokens - read)
    of_kept = _decimal(written["cache_write"]) if "cache_write" in written else price * (_WRITE_FACTOR if dear else 1)
    total = (
        (usage.input_tokens - read - kept) * price
        + read * _decimal(written.get("cached_input", written["input"]))
        + kept * of_kept
        + usage.output_tokens * _decimal(written["output"])
    )
    return float(total / _MILLION)


def _writes_cost_more(model: str, base_url: str) -> bool:
    """OpenAI and Anthropic ask a quarter more for what they put into their cache."""
    return _MAKERS.search(model.lower()) is not None or _MAKERS.search(urlsplit(base_url).netloc) is not None


def _decimal(price: float) -> Decimal:
    return Decimal(str(price))
