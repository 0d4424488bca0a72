from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowllm.limits.quota_headers import DAY, Quota, read_quotas

NOW = 1_767_225_600.0
"""2026-01-01 00:00 UTC."""


def only(headers: dict[str, str], what: str = "requests") -> Quota:
    """The one quota that these headers tell."""
    (found,) = read_quotas(headers, what, now=NOW)
    return found


def of(limit: str, remaining: str, reset: str, suffix: str = "") -> dict[str, str]:
    parts = {"limit": limit, "remaining": remaining, "reset": reset}
    return {f"x-ratelimit-{part}-requests{suffix}": value for part, value in parts.items()}


@given(st.text(max_size=20))
def test_no_header_breaks_the_reader(text: str) -> None:
    names = ("x-ratelimit-{}-requests", "ratelimit-{}", "anthropic-ratelimit-tokens-{}", "x-ratelimit-{}-tokens-day")
    headers = {name.format(part): text for name in names for part in ("limit", "remaining", "reset")}
    for what in ("requests", "tokens"):
        for quota in read_quotas({**headers, "ratelimit": text, "ratelimit-policy": text}, what, now=NOW):
            assert quota.rate is None or quota.rate > 0


def test_requests_and_tokens_are_told_apart() -> None:
    headers = {**of("600", "599", "100ms"), "x-ratelimit-limit-tokens": "60000"}
    requests, tokens = only(headers), only(headers, "tokens")
    assert (requests.limit, requests.remaining, requests.reset) == (600, 599, pytest.approx(0.1))
    assert requests.rate == pytest.approx(10)
    assert (tokens.limit, tokens.remaining, tokens.reset) == (60_000, None, None)


@pytest.mark.parametrize(
    ("limit", "remaining", "reset"),
    [
        ("14400", "14399", "6s"),  # buckets of a day
        ("1000", "999", "1m26.4s"),
        ("10000", "100", "23h45m36s"),
        ("600", "599", "58"),  # a fixed window of a minute, at its beginning
        ("600", "599", "2026-01-01T00:00:58Z"),
        ("600", "600", "0s"),  # nothing is used
        ("1000", "0", "86400"),
        ("1000", "0", "90000"),
        ("1000", "0", ""),
        ("3", "0", ""),
    ],
)
def test_a_limit_of_a_day_or_an_unknown_time_is_no_rate(limit: str, remaining: str, reset: str) -> None:
    assert only(of(limit, remaining, reset)).rate is None


@pytest.mark.parametrize(
    ("remaining", "reset"), [("595", "500ms"), ("300", "30s"), ("20", "31"), ("0", "60s"), ("0", "1767225601")]
)
def test_a_limit_that_comes_back_within_a_minute_is_a_rate(remaining: str, reset: str) -> None:
    assert only(of("600", remaining, reset)).rate == pytest.approx(10)


@pytest.mark.parametrize("limit", [None, "0", "-1", "many"])
def test_a_limit_that_is_none_gives_no_rate(limit: str | None) -> None:
    headers = {} if limit is None else {"x-ratelimit-limit-requests": limit}
    assert all(quota.rate is None for quota in read_quotas(headers, "requests", now=NOW))


def test_limits_that_name_their_time() -> None:
    headers = {**of("14400", "14399", "43200", "-day"), **of("30", "29", "17", "-minute")}
    rates = {quota.window: quota.rate for quota in read_quotas(headers, "requests", now=NOW)}
    assert rates == {DAY: None, 60.0: pytest.approx(0.5)}
    assert only({"x-ratelimit-limit-req-minute": "120"}).rate == pytest.approx(2)
    headers = {"x-ratelimit-limit-requests": "10", "x-ratelimit-renewalperiod-requests": "10"}
    assert only(headers).rate == pytest.approx(1)


@pytest.mark.parametrize(
    "headers",
    [
        {"ratelimit-limit": "100, 100;w=50", "ratelimit-remaining": "7", "ratelimit-reset": "30"},
        {"ratelimit": "limit=100, remaining=7, reset=30", "ratelimit-policy": "100;w=50"},
        {"ratelimit": '"burst";r=7;t=30', "ratelimit-policy": '"day";q=5000;w=86400, "burst";q=100;w=50'},
    ],
)
def test_the_drafts_of_the_ietf(headers: dict[str, str]) -> None:
    found = only(headers)
    assert (found.remaining, found.reset, found.window) == (7, 30, 50)
    assert found.rate is None or found.rate == pytest.approx(2)


def test_the_names_of_anthropic() -> None:
    headers = {
        "anthropic-ratelimit-requests-limit": "50",
        "anthropic-ratelimit-requests-remaining": "20",
        "anthropic-ratelimit-requests-reset": "2026-01-01T00:00:36Z",
        "anthropic-ratelimit-tokens-limit": "40000",
    }
    assert only(headers) == Quota(limit=50, remaining=20, reset=36)
    assert only(headers, "tokens").limit == 40_000
