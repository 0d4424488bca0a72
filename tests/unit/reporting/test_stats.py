from __future__ import annotations

from flowllm.app.result import EMPTY_STATS
from flowllm.core.types import StepKind, Usage
from flowllm.reporting.stats import Stats
from flowllm.reporting.summary import figures
from tests.support.events import (
    ERROR,
    node_ended,
    node_hedged,
    node_retrying,
    request_ended,
    request_joined,
    request_sent,
)


def test_nothing_happened() -> None:
    assert {**Stats().as_dict(duration_s=0.0), "limits": {}} == EMPTY_STATS


def test_requests_are_counted_by_what_became_of_them() -> None:
    stats = Stats()
    for event in (
        request_sent("a"),
        request_sent("b"),
        node_hedged("b"),
        request_sent("b", hedge=True),
        node_hedged("http"),
        request_ended("a"),
        request_ended("b", error=ERROR, cost_usd=0.0),
        node_retrying("b"),
        request_joined("c"),
        node_ended("d", cached=True),
        node_ended("e", cached=True, reused=True),
        node_ended("f", cached=True, kind=StepKind.PYTHON),
        node_ended("g"),
    ):
        stats.handle(event)
    assert stats.as_dict(duration_s=1.0)["requests"] == {
        "sent": 3,
        "cached": 1,
        "joined": 1,
        "retried": 1,
        "rate_limited": 1,
        "hedged": 2,
    }


def test_tokens_and_cost_are_summed_over_all_requests() -> None:
    stats = Stats()
    stats.handle(request_ended("a"))
    stats.handle(request_ended("b", error={"type": "InvalidAnswer", "message": "x"}))
    found = stats.as_dict(duration_s=1.23456)
    assert found["usage"]["input_tokens"] == 40
    assert found["usage"]["output_tokens"] == 120
    assert found["cost_usd"] == 0.0002
    assert found["duration_s"] == 1.235


def test_what_the_providers_cache_saved_is_told_as_far_as_it_is_known() -> None:
    stats = Stats()
    stats.handle(request_ended("a", usage=Usage(input_tokens=100, cached_input_tokens=75), saved_usd=0.25))
    stats.handle(request_ended("b", usage=Usage.unknown()))
    found = stats.as_dict(duration_s=1.0)
    assert found["prompt_cache"] == {"input_tokens": 100, "cached_input_tokens": 75, "saved_usd": 0.25}
    text = "prompt cache: 75% of the tokens in were read from the provider's cache"
    assert (f"{text}, which saved $0.25",) in figures(found, set())
    stats.handle(request_ended("c", usage=Usage(input_tokens=100, cached_input_tokens=75), saved_usd=None))
    assert (text,) in figures(stats.as_dict(duration_s=1.0), set())


def test_one_unknown_price_makes_the_cost_unknown() -> None:
    stats = Stats()
    stats.handle(request_ended("a", cost_usd=None))
    stats.handle(request_ended("b"))
    assert stats.as_dict(duration_s=1.0)["cost_usd"] is None


def test_latency_is_of_answers_only() -> None:
    stats = Stats()
    for call_s in (1.0, 1.0, 1.0, 10.0):
        stats.handle(request_ended("a", call_s=call_s))
    stats.handle(request_ended("a", call_s=0.001, error=ERROR))
    latency = stats.as_dict(duration_s=1.0)["latency_s"]
    assert abs(latency["p50"] - 1.0) < 0.01
    assert abs(latency["p90"] - 10.0) < 0.1
    assert abs(latency["p99"] - 10.0) < 0.1
