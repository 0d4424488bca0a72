from __future__ import annotations

import pytest

from flowllm.core.types import Usage
from flowllm.providers.openai.usage import list_price, price_usd

OPENAI = "https://api.openai.com/v1"
MILLION = Usage(input_tokens=1_000_000, output_tokens=1_000_000)


def test_bundled_prices_are_looked_up_by_the_server() -> None:
    assert price_usd("gpt-4o-mini", MILLION, base_url=OPENAI) == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("model", "listed"),
    [
        ("gpt-4o-mini", "openai/gpt-4o-mini"),
        ("openai/gpt-4o-mini", "openai/gpt-4o-mini"),
        ("openrouter/openai/gpt-4o-mini", "openai/gpt-4o-mini"),
        ("text-embedding-3-small", "openai/text-embedding-3-small"),
        ("anthropic/claude-sonnet-4-5", "anthropic/claude-sonnet-4-5"),
        ("gpt-oss:20b", ""),
        ("deepseek-r1:8b", ""),
        ("openai/gpt-oss-20b", ""),
        ("test-model", ""),
        ("some-lab/llama", ""),
    ],
)
def test_elsewhere_the_list_price_of_the_maker_stands_in_and_is_named(model: str, listed: str) -> None:
    here = "http://127.0.0.1:1/v1"
    assert list_price(model, base_url=here) == listed
    assert (price_usd(model, MILLION, base_url=here) is not None) is bool(listed)
    assert list_price(model, base_url=here, prices={model: {"input": 1, "output": 1}}) == ""
    assert list_price("gpt-4o-mini", base_url=OPENAI) == ""


def test_what_is_put_into_the_cache_costs_more_where_that_is_so() -> None:
    kept = Usage(input_tokens=1_000_000, cache_write_tokens=400_000)
    assert price_usd("gpt-4o-mini", kept, base_url=OPENAI) == pytest.approx(0.15 * (0.6 + 0.4 * 1.25))
    assert price_usd("claude-3-5-haiku-latest", kept, base_url="https://api.anthropic.com/v1") == pytest.approx(
        0.8 * 0.6 + 1.0 * 0.4
    )
    written = {"m": {"input": 1.0, "output": 1.0}, "claude-x": {"input": 1.0, "output": 1.0}}
    own = {"m": {"input": 1.0, "output": 1.0, "cache_write": 3.0}}
    assert price_usd("m", kept, base_url="http://127.0.0.1/v1", prices=written) == pytest.approx(1.0)
    assert price_usd("claude-x", kept, base_url="http://127.0.0.1/v1", prices=written) == pytest.approx(1.1)
    assert price_usd("m", kept, base_url="http://127.0.0.1/v1", prices=own) == pytest.approx(0.6 + 1.2)


def test_unknown_tokens_have_no_price_but_where_nothing_is_paid() -> None:
    free = {"m": {"input": 0.0, "output": 0.0}}
    for usage in (Usage.unknown(), Usage(input_tokens=1, output_tokens=None)):
        assert price_usd("gpt-4o-mini", usage, base_url=OPENAI) is None
        assert price_usd("m", usage, base_url=OPENAI, prices={"m": {"input": 1.0, "output": 0.0}}) is None
        assert price_usd("m", usage, base_url=OPENAI, prices=free) == 0.0


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
    assert price_usd("m", usage, base_url=OPENAI, prices={"m": {"input": 0.1, "output": 0}}) == pytest.approx(1e-6)
