from __future__ import annotations

import json
from dataclasses import replace

from flowllm.core.money import Spend
from flowllm.core.types import NodeStatus, StepKind, Usage
from flowllm.reporting.models import model_lines, response_cache_line, worth_a_table
from flowllm.reporting.screen import plain
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
    quantiles = {"p50": None, "p90": None, "p99": None}
    assert Stats().as_dict(duration_s=0.0) == {
        "requests": {"sent": 0, "cached": 0, "joined": 0, "retried": 0, "rate_limited": 0, "hedged": 0},
        **Spend().as_dict(),
        "prompt_cache": {"input_tokens": 0, "cached_input_tokens": 0, "saved_usd": 0.0},
        "response_cache": {"input_tokens": 0, "output_tokens": 0, "saved_usd": 0.0},
        "list_prices": [],
        "latency_s": quantiles,
        "queue_s": quantiles,
        "duration_s": 0.0,
        "models": [],
        "step_figures": {},
    }


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


def test_each_model_has_its_requests_waits_failures_and_what_both_caches_saved() -> None:
    stats = Stats()
    for event in (
        request_ended(
            "a", model="m", usage=Usage(input_tokens=100, output_tokens=5, cached_input_tokens=75), saved_usd=0.25
        ),
        node_ended("a", model="m-2024", provider="openai", waits={"rate": 2.0, "slot": 9.0}),
        request_ended("b", model="m", error=ERROR, usage=Usage(), cost_usd=0.0),
        request_ended("b", model="m", error={"type": "Abandoned"}, usage=Usage(), cost_usd=0.0),
        node_ended("b", status=NodeStatus.FAILED, waits={"server_pause": 1.5}),
        node_ended("c", cached=True, model="m-2024", provider="openai", usage=Usage(input_tokens=7), saved_usd=0.5),
        node_ended("c", cached=True, reused=True, model="m", provider="openai"),
        node_ended("d", cached=True, model="n", provider="other", usage=Usage(input_tokens=8), saved_usd=None),
        node_ended("e", kind=StepKind.PYTHON, waits={"rate": 3.0}),
        request_ended("f", model="dear", provider="other", cost_usd=7.0),
    ):
        stats.handle(event)
    found = stats.as_dict(duration_s=1.0)
    dear, m, n = found["models"]
    assert [dear["model"], m["model"], n["model"]] == ["dear", "m", "n"]
    assert (m["requests"], m["failed"], m["rate_limited"], m["throttled_s"]) == (3, 1, 1, 3.5)
    assert (m["prompt_cache"], m["latency_s"]) == ({"saved_usd": 0.25}, {"p50": 1.0, "p99": 1.0})
    assert m["response_cache"] == {"answers": 1, "usage": Usage(input_tokens=7).as_dict(), "saved_usd": 0.5}
    assert (n["requests"], n["cost_usd"], n["response_cache"]["saved_usd"]) == (0, 0.0, None)
    assert found["response_cache"] == {"input_tokens": 15, "output_tokens": 0, "saved_usd": None}
    assert [plain(line) for line in model_lines(found["models"])] == [
        "MODEL          REQUESTS  FAILED  429s  TOKENS IN  CACHED  OUT     COST   P50   P99  THROTTLED  STORED",
        "dear at other         1       -     -         20       -   60    $7.00  1.0s  1.0s          -       -",
        "m at openai           3       1     1        100     75%    5  $0.0001  1.0s  1.0s  1.2s each       1",
        "n at other            -       -     -          -       -    -        -     -     -          -       1",
    ]
    narrow = model_lines(found["models"], 79)
    assert max(len(plain(line)) for line in narrow) <= 79
    kept = "MODEL REQUESTS 429s TOKENS IN CACHED OUT COST P99 THROTTLED"
    assert " ".join(plain(narrow[0]).split()) == kept
    assert response_cache_line(found["models"]) == "response cache: 2 answers were stored already, which saved $0.50"
    alone = [m | {"throttled_s": 0.0}]
    assert [worth_a_table({"models": one}) for one in (found["models"], [m], alone, [])] == [True, True, False, False]


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


def test_what_another_process_has_counted_is_added_as_if_it_had_happened_here() -> None:
    events = [
        request_ended("a", model="m", call_s=0.5, saved_usd=0.25),
        request_ended("b", model="m", call_s=1.5, error=ERROR, usage=Usage(), cost_usd=0.0),
        request_ended("c", model="n", usage=Usage.unknown(), cost_usd=None),
        node_ended("d", cached=True, model="m", provider="openai", usage=Usage(input_tokens=7), saved_usd=0.5),
        node_ended("e", model="m", provider="openai", waits={"rate": 2.0}),
    ]
    whole, here, there = Stats(), Stats(), Stats()
    for number, event in enumerate(events):
        whole.handle(event)
        (here if number % 2 else there).handle(event)
        here.add(json.loads(json.dumps(there.take())))
    assert here.as_dict(duration_s=1.0) == whole.as_dict(duration_s=1.0)
    assert there.as_dict(duration_s=1.0) == Stats().as_dict(duration_s=1.0)
    whole.handle(replace(node_ended("f", cached=True), elsewhere=True))
    assert here.as_dict(duration_s=1.0) == whole.as_dict(duration_s=1.0), "the worker counts it"
