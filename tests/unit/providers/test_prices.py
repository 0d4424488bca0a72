from __future__ import annotations

import pytest

from flowllm.providers.prices import price_usd
from flowllm.types import Usage

OPENAI = "https://api.openai.com/v1"
MILLION = Usage(input_tokens=1_000_000, output_tokens=1_000_000)


def test_bundled_prices_are_looked_up_by_the_server() -> None:
    assert price_usd("gpt-4o-mini", MILLION, base_url=OPENAI) == pytest.approx(0.75)
    assert price_usd("gpt-4o-mini", MILLION, base_url="http://127.0.0.1:1/v1") is None


def test_cached_tokens_cost_less() -> None:
    half = Usage(input_tokens=1_000_000, output_tokens=1_000_000, cached_input_tokens=500_000)
    price = price_usd("gpt-4o-mini", half, base_url=OPENAI)
    assert price is not None
    assert price < 0.75


def test_an_unknown_model_has_no_price() -> None:
    assert price_usd("no-such-model", MILLION, base_url=OPENAI) is None
    assert price_usd("", MILLION, base_url=OPENAI) is None


def test_more_cached_than_read_is_no_error() -> None:
    assert price_usd("gpt-4o-mini", Usage(input_tokens=1, cached_input_tokens=5), base_url=OPENAI) is not None


def test_written_prices_win() -> None:
    prices = {"gpt-4o-mini": {"input": 1.0, "output": 2.0, "cached_input": 0.5}, "half": {"input": 1.0}}
    usage = Usage(input_tokens=1_000_000, output_tokens=1_000_000, cached_input_tokens=400_000)
    assert price_usd("gpt-4o-mini", usage, base_url=OPENAI, prices=prices) == pytest.approx(0.6 + 0.2 + 2.0)
    assert price_usd("half", usage, base_url=OPENAI, prices=prices) is None


def test_without_a_written_price_cached_tokens_cost_as_much_as_others() -> None:
    usage = Usage(input_tokens=10, cached_input_tokens=10)
    assert price_usd("m", usage, base_url=OPENAI, prices={"m": {"input": 0.1, "output": 0}}) == pytest.approx(
        1e-6
    )
