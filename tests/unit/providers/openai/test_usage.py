from __future__ import annotations

from typing import Any

import pytest

from flowllm.core.types import Usage
from flowllm.providers.openai.usage import read_usage, reported_cost


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
