"""What an answer cost. The one importer of genai_prices."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from flowllm.core.types import Usage

MOST_KNOWN = 1000
"""Models and servers for which it is kept where their price stands: to look takes as long as the rest of an answer's
way."""
_WRITE_FACTOR = Decimal("1.25")
_MAKERS = re.compile(r"(?:^|[/.])(?:openai|anthropic|claude|gpt-|o[134]\b)")
_OPEN = re.compile(r":|^gpt-oss|^deepseek-r1|distill")
_MILLION = Decimal(1_000_000)


def price_usd(
    model: str, usage: Usage, *, base_url: str, prices: Mapping[str, Mapping[str, float]] | None = None
) -> float | None:
    """US dollars for that many tokens of a model; None where no price is known or a count is not, never a guess.

    `prices` maps a model to {input, output, cached_input, cache_write} in US dollars per million tokens and wins over
    the bundled data, which is looked up by the server's base URL: the same model costs differently elsewhere. For a
    server that is not in it the list price of the model's maker stands in, see `list_price`.
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
        price = _calculated(tokens, where)
        total = price.total_price
        own = getattr(price.model_price, "cache_write_mtok", None) is not None
        if kept and not own and _writes_cost_more(model, base_url):
            total += _calculated(Tokens(input_tokens=kept), where).total_price * (_WRITE_FACTOR - 1)
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
    if name and not _OPEN.search(name):  # of models that anybody may serve no price can be told
        ways.append({"model_ref": name, "provider_id": maker} if maker else {"model_ref": name})
    for way in ways:
        try:
            price = _calculated(Tokens(input_tokens=1, output_tokens=1), way)
        except (LookupError, ValueError):
            continue
        return way, "" if "provider_api_url" in way else f"{price.provider.id}/{price.model.id}"
    return None


def _calculated(tokens: object, where: Mapping[str, str]) -> Any:
    from genai_prices import calc_price  # noqa: PLC0415

    price: Callable[..., Any] = calc_price
    return price(tokens, **where)


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
