from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowllm.limits.headers import parse_reset, read_quota


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("6m0s", 360),
        ("1.5s", 1.5),
        ("120ms", 0.12),
        ("1h2m3.5s", 3723.5),
        ("2d", 172_800),
        ("1m30s250ms", 90.25),
        ("7", 7),
        ("0.5", 0.5),
        (" 6M0S ", 360),
        ("0s", 0),
    ],
)
def test_resets_as_servers_write_them(text: str, seconds: float) -> None:
    assert parse_reset(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", [None, "", "soon", "-5", "5x", "s", "6m and more", "nan", "inf", "1e999", "６m"]
)
def test_nonsense_counts_as_not_told(text: str | None) -> None:
    assert parse_reset(text) in (None, 360.0) if text == "６m" else parse_reset(text) is None


@given(st.text(max_size=20))
def test_no_header_breaks_the_reader(text: str) -> None:
    found = parse_reset(text)
    assert found is None or found >= 0
    read_quota({f"x-ratelimit-{what}-requests": text for what in ("limit", "remaining", "reset")}, "requests")


def test_requests_and_tokens_are_told_apart() -> None:
    headers = {
        "x-ratelimit-limit-requests": "600",
        "x-ratelimit-remaining-requests": "599",
        "x-ratelimit-reset-requests": "100ms",
        "x-ratelimit-limit-tokens": "60000",
    }
    requests, tokens = read_quota(headers, "requests"), read_quota(headers, "tokens")
    assert (requests.limit, requests.remaining, requests.reset) == (600, 599, pytest.approx(0.1))
    assert requests.rate == pytest.approx(10)
    assert (tokens.limit, tokens.remaining, tokens.reset) == (60_000, None, None)
    assert tokens.rate == 1000


def test_a_limit_of_a_day_is_known_by_how_long_the_rest_takes_to_come_back() -> None:
    headers = {
        "x-ratelimit-limit-requests": "14400",
        "x-ratelimit-remaining-requests": "14399",
        "x-ratelimit-reset-requests": "6s",
    }
    assert read_quota(headers, "requests").rate == pytest.approx(1 / 6)


@pytest.mark.parametrize("limit", [None, "0", "-1", "many"])
def test_a_limit_that_is_none_gives_no_rate(limit: str | None) -> None:
    headers = {} if limit is None else {"x-ratelimit-limit-requests": limit}
    assert read_quota(headers, "requests").rate is None
