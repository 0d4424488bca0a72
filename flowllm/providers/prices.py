"""What an answer cost. The house of genai_prices."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowllm.types import Usage

MOST_UNKNOWN = 1000
_UNKNOWN: set[tuple[str, str]] = set()
"""Models and servers of which no price is known: to look for one takes as long as the rest of an answer's way."""
_MILLION = Decimal(1_000_000)


def price_usd(
    model: str,
    usage: Usage,
    *,
    base_url: str,
    prices: Mapping[str, Mapping[str, float]] | None = None,
) -> float | None:
    """US dollars for that many tokens of a model; None where no price is known, never a guess.

    `prices` maps a model to {input, output, cached_input} in US dollars per million tokens and wins over the
    bundled data, which is looked up by the server's base URL: the same model costs differently elsewhere.
    """
    written = (prices or {}).get(model)
    if written is not None:
        return _by_hand(usage, written)
    # Loads 350 ms worth of price tables: only once an answer is there to be priced.
    from genai_prices import Usage as Tokens  # noqa: PLC0415
    from genai_prices import calc_price  # noqa: PLC0415

    if (model, base_url) in _UNKNOWN:
        return None
    tokens = Tokens(
        input_tokens=usage.input_tokens,
        cache_read_tokens=min(usage.cached_input_tokens, usage.input_tokens),
        output_tokens=usage.output_tokens,
    )
    try:
        return float(calc_price(tokens, model_ref=model, provider_api_url=base_url).total_price)
    except LookupError:
        if len(_UNKNOWN) < MOST_UNKNOWN:
            _UNKNOWN.add((model, base_url))
        return None
    except ValueError:
        return None


def _by_hand(usage: Usage, written: Mapping[str, float]) -> float | None:
    if "input" not in written or "output" not in written:
        return None
    cached = min(usage.cached_input_tokens, usage.input_tokens)
    total = (
        (usage.input_tokens - cached) * _decimal(written["input"])
        + cached * _decimal(written.get("cached_input", written["input"]))
        + usage.output_tokens * _decimal(written["output"])
    )
    return float(total / _MILLION)


def _decimal(price: float) -> Decimal:
    return Decimal(str(price))
