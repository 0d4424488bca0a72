"""Whether requests wait for a limit, in a sentence; and how accounts stood over time."""

from __future__ import annotations

from typing import Any

import pytest

from flowllm.reporting.base import AccountState
from flowllm.storage.monitoring import Gauge
from flowllm.views.gauges import account_name, series_of, spacing, throttled, together, was_throttled

OPENAI = "openai https://api.openai.com/v1 0a1b2c3d"


def gauge(at: float = 100.0, account: str = OPENAI, process: str = "here:1", **more: Any) -> Gauge:
    return Gauge(**{"process": process, "account": account, "at": at, "in_flight": 22, "waiting": 38, **more})


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (
            {"waits": {"rate": {"normal": 38}}, "rate": 500 / 60, "refused": 3},
            "Yes: 38 of 60 wait for the rate of 500 requests/min on api.openai.com. In the last minute 3 requests got a 429.",
        ),
        (
            {"waits": {"tokens": {"normal": 30}, "slot": {"normal": 8}}, "tokens_per_minute": 200_000.0},
            "Yes: 30 of 60 wait for the rate of 200,000 tokens/min on api.openai.com.",
        ),
        (
            {"waits": {"slot": {"normal": 38}}, "max_concurrent": 22},
            "Yes: 38 of 60 wait for a slot: 22 requests in flight are as many as may be on api.openai.com.",
        ),
        (
            {"waits": {"server_pause": {"normal": 38}}, "pause_s": 12.0},
            "Yes: 38 of 60 wait as api.openai.com asked for a pause, of which 12.0s are left.",
        ),
        ({"waiting": 0, "pause_s": 2.5}, "Yes: api.openai.com asked for a pause, of which 2.5s are left."),
        (
            {"waits": {"breaker": {"normal": 60}}},
            "Yes: 60 of 60 wait as api.openai.com failed too often in a row, until it is tried again.",
        ),
        (
            {"waits": {"prefix": {"normal": 38}}},
            "No: no limit holds anything back (waiting: 38 for a prompt that begins the same); 22 requests in flight.",
        ),
        ({"waiting": 0, "in_flight": 1}, "No: nothing waits; 1 request in flight."),
    ],
)
def test_the_question_is_answered_in_a_sentence(more: dict[str, Any], text: str) -> None:
    answer = throttled([gauge(at=99.0, waits={"rate": {"normal": 9}}), gauge(**more)], now=101.0)
    assert (answer.text, answer.throttled) == (text, text.startswith("Yes"))


def test_what_is_old_says_nothing_of_now_and_several_accounts_are_told_by_the_worst() -> None:
    assert throttled([gauge(waits={"rate": {"normal": 9}})], now=106.0).text == "No: nothing asks a provider now."
    local = "simulated simulated:seed=0"
    both = [
        gauge(waits={"rate": {"normal": 5}}),
        gauge(account=local, waits={"slot": {"normal": 9}}, max_concurrent=22),
    ]
    assert throttled(both, now=100.0).text == (
        "Yes: 9 of 60 wait for a slot: 22 requests in flight are as many as may be on simulated. "
        "Requests to 1 other account wait too."
    )


def test_a_series_sums_processes_of_the_same_second_and_keeps_no_key() -> None:
    other = {"process": "here:2", "rate": 5.0, "tokens_per_minute": None, "requests_sent": 7}
    found = series_of(
        [
            gauge(at=100.2, in_flight=1),
            gauge(at=100.9, rate=5.0, waits={"rate": {"normal": 1}}),
            gauge(at=100.5, **other),
            gauge(at=102.0, rate=5.0),
            gauge(at=105.5, rate=5.0),
        ]
    )
    assert [one.name for one in found] == ["api.openai.com"]
    (one,) = found
    assert (one.at, one.in_flight, one.requests, one.requests_limit) == (
        (100.0, 102.0, 105.0),
        (44, 44, 22),
        (7, 7, 0),
        (300.0, 300.0, 300.0),
    )
    assert one.tokens_limit == (None, None, None)
    assert dict(one.waits) == {"rate": (1, 0, 0)}
    assert one.as_dict()["series"]["waits"] == {"rate": [1, 0, 0]}


def test_a_long_series_has_a_point_each_so_many_seconds_and_the_queue_as_it_stands_at_its_end() -> None:
    assert [spacing(seconds) for seconds in (600, 601, 86_400)] == [1, 30, 144]
    queue = {"rate": {"high": 1, "normal": 2}}
    points = [gauge(at=at, waits={"slot": {"normal": 4}}) for at in (90.0, 119.5)] + [gauge(at=121.0, waits=queue)]
    (one,) = series_of([*points, gauge(at=121.5, process="here:2", waits={"rate": {"high": 3}})], every=30)
    assert (one.at, one.waits) == ((119.0, 121.0), {"slot": (4, 0), "rate": (0, 6)})
    assert one.as_dict()["queue"] == {"rate": {"high": 4, "normal": 2}}


def test_an_account_is_called_by_its_host() -> None:
    assert account_name("openai http://127.0.0.1:8000/v1") == "127.0.0.1:8000"
    assert account_name("openai custom abcdef0123456789") == "openai custom"
    assert account_name("simulated simulated:seed=3") == "simulated"


def test_a_run_that_is_over_is_told_of_by_what_its_requests_waited() -> None:
    def row(model: str, seconds: float, refused: int = 0) -> dict[str, Any]:
        return {"model": model, "throttled_s": seconds, "rate_limited": refused, "requests": 20}

    assert was_throttled([row("m", 0.0)]).text == "No: no request waited for a limit."
    answer = was_throttled([row("m", 4.0, 1), row("big", 444.0)])
    assert answer.throttled
    assert answer.text == "Yes: requests waited 11.2s each for limits, 99% of that for big. 1 request got a 429."
    assert was_throttled([row("m", 0.0, 2)]).text == "Yes: no request waited for a limit. 2 requests got a 429."


def test_an_account_of_several_processes_stands_as_all_of_them_say_last() -> None:
    gauges = [
        gauge(98.0, process="here:1", in_flight=9, requests_sent=7),
        gauge(99.0, process="here:1", in_flight=1, requests_sent=10, tokens_used=100, waits={"rate": {"normal": 3}}),
        gauge(99.5, process="here:2", in_flight=2, requests_sent=20, tokens_used=200, waits={"rate": {"high": 4}}),
        gauge(99.5, account="another", process="here:2"),
    ]
    state = AccountState(address="api.openai.com", requests_per_minute=60.0)
    found = together(state, gauges, account=OPENAI)
    assert (found.in_flight, found.requests_sent, found.tokens_used, found.waits) == (3, 30, 300, {"rate": 7})
    assert (found.address, found.requests_per_minute) == ("api.openai.com", 60.0)
    found = together(state, gauges, account=OPENAI, but="here:1")
    assert (found.in_flight, found.requests_sent, found.waits) == (2, 30, {"rate": 4})
