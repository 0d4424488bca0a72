from __future__ import annotations

from typing import Any

import pytest

from flowllm.core.types import Usage
from flowllm.providers.openai.usage import list_price, price_usd, read_usage, reported_cost


def usage(before: int | None, after: int | None, cached: int = 0, hidden: int = 0, kept: int = 0) -> Usage:
    return Usage(
        input_tokens=before,
        output_tokens=after,
        cached_input_tokens=cached,
        reasoning_tokens=hidden,
        cache_write_tokens=kept,
    )


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ({"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 41}, usage(32, 9)),
        ({"input_tokens": 32, "output_tokens": 9}, usage(32, 9)),
        # reasoning beside the completion, as the total shows
        (
            {
                "prompt_tokens": 32,
                "completion_tokens": 9,
                "total_tokens": 135,
                "prompt_tokens_details": {"cached_tokens": 6},
                "completion_tokens_details": {"reasoning_tokens": 94},
            },
            usage(32, 103, 6, 94),
        ),
        ({"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 135}, usage(32, 103, 0, 94)),
        (
            {"input_tokens": 32, "output_tokens": 103, "output_tokens_details": {"reasoning_tokens": 94}},
            usage(32, 103, 0, 94),
        ),
        ({"prompt_tokens": 100, "completion_tokens": None, "total_tokens": 600}, usage(100, 500)),
        ({"completion_tokens": 100, "total_tokens": 600}, usage(500, 100)),
        ({"prompt_tokens": 100}, usage(100, None)),
        ({"completion_tokens": 5}, usage(None, 5)),
        ({"prompt_tokens": 100, "completion_tokens": 0, "total_tokens": 100}, usage(100, 0)),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, Usage.unknown()),
        ({"total_tokens": 100}, Usage.unknown()),
        # caches, by who reports them
        ({"prompt_tokens": 1000, "completion_tokens": 10, "prompt_cache_hit_tokens": 900}, usage(1000, 10, 900)),
        ({"prompt_tokens": 1000, "completion_tokens": 10, "cached_tokens": 900}, usage(1000, 10, 900)),
        (
            {
                "input_tokens": 1000,
                "output_tokens": 10,
                "input_tokens_details": {"cached_tokens": 100, "cache_write_tokens": 700},
            },
            usage(1000, 10, 100, 0, 700),
        ),
        (
            {"prompt_tokens": 1000, "completion_tokens": 10, "cache_creation_input_tokens": 700},
            usage(1000, 10, 0, 0, 700),
        ),
        # Anthropic's own: caches are counted beside the input
        (
            {
                "input_tokens": 50,
                "output_tokens": 10,
                "cache_read_input_tokens": 100,
                "cache_creation_input_tokens": 700,
            },
            usage(850, 10, 100, 0, 700),
        ),
        (
            {"input_tokens": 850, "output_tokens": 10, "total_tokens": 860, "cache_read_input_tokens": 100},
            usage(850, 10, 100),
        ),
        ({"prompt_tokens": 5, "completion_tokens": 1, "cached_tokens": "many"}, usage(5, 1)),
    ],
)
def test_usage_is_read_under_the_names_of_all_servers(sent: dict[str, Any], read: Usage) -> None:
    assert read_usage(sent) == read


def test_an_embedding_has_no_output() -> None:
    assert read_usage({"prompt_tokens": 7, "total_tokens": 7}, embedding=True) == Usage(input_tokens=7)
    assert read_usage({"total_tokens": 7}, embedding=True) == Usage(input_tokens=7)
    assert read_usage(None, embedding=True) == Usage.unknown()


def test_sums_of_what_is_unknown_are_unknown() -> None:
    total = Usage(input_tokens=1, output_tokens=2) + Usage(input_tokens=3, output_tokens=None)
    assert (total.input_tokens, total.output_tokens, total.total, total.at_least) == (4, None, None, 4)


@pytest.mark.parametrize(
    ("header", "cost"), [("0.0012", 0.0012), ("0.0", 0.0), ("None", None), ("nan", None), ("-1", None), ("", None)]
)
def test_the_cost_that_a_gateway_tells(header: str, cost: float | None) -> None:
    assert reported_cost({"x-litellm-response-cost": header}) == cost


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


def test_a_service_tier_has_its_own_price_where_one_is_known() -> None:
    def price(tier: str, model: str = "gpt-5") -> float | None:
        return price_usd(model, MILLION, base_url=OPENAI, prices={"m": {"input": 1.0, "output": 1.0}}, tier=tier)

    usual = price("")
    assert usual is not None
    assert price("flex") == pytest.approx(usual / 2)
    assert price("priority") == pytest.approx(usual * 2)
    assert price("default") == price("auto") == price("unheard of") == usual
    assert price("flex", "m") == price("", "m")


def test_the_dearest_that_a_prompt_can_cost_is_to_be_put_into_the_cache() -> None:
    assert Usage(input_tokens=1023).dearest == Usage(input_tokens=1023)
    assert Usage(input_tokens=1024, output_tokens=5).dearest.cache_write_tokens == 1024
    assert Usage.unknown().dearest == Usage.unknown()


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
