from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowllm.core.errors import RateLimited, ServerFailed
from flowllm.core.retry_after import LONGEST_WAIT, requested_wait, wait_of
from flowllm.core.types import Json
from flowllm.providers.openai.errors import RequestInfo, error_of

NOW = 1_800_000_000.0  # Fri, 15 Jan 2027 08:00:00 GMT
INFO = RequestInfo(provider="work", server="llm.example.com")


def waits(body: Json = "", status: int = 429, **headers: str) -> float | None:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    text = body if isinstance(body, str) else json.dumps(body)
    error = error_of(status, sent, text, INFO, now=NOW)
    assert isinstance(error, RateLimited | ServerFailed)
    return error.retry_after


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1", 1.0),
        ("0.25", 0.25),
        ("300", 300.0),
        ("9840", 9840.0),
        ("-5", 0.0),
        ("1000000000", LONGEST_WAIT),
        ("inf", LONGEST_WAIT),
        ("-inf", 0.0),
        ("NaN", None),
        ("", None),
        ("soon", None),
        ("20s", 20.0),
        ("1m30s", 90.0),
        ("2h44m", 9840.0),
        ("120ms", 0.12),
        ("7 seconds", 7.0),
        ("1800000020", 20.0),
        ("1800000020000", 20.0),
        ("1799999990", 0.0),
        ("Fri, 15 Jan 2027 08:02:00 GMT", 120.0),
        ("Fri, 15 Jan 2027 07:00:00 GMT", 0.0),
        ("Fri, 15 Jan 2999 08:00:00 GMT", LONGEST_WAIT),
        ("Fri, 99 Jan 2027 08:00:00 GMT", None),
        ("2027-01-15T08:00:30Z", 30.0),
        ("2027-01-15T10:00:30+02:00", 30.0),
        ("2027-01-15 08:00:30", 30.0),
        ("2027-01-15T08:00:30", 30.0),
        ("0", 0.0),
        (" 7 ", 7.0),
        ("9" * 400, LONGEST_WAIT),
        ("1h2m3.5s", 3723.5),
        ("2d", 172_800.0),
        ("1m30s250ms", 90.25),
        (" 6M0S ", 360.0),
        ("1800000005.5", 5.5),
        ("5x", None),
        ("s", None),
        ("6m and more", None),
        ("99 99 9999", None),
    ],
)
def test_retry_after(text: str, seconds: float | None) -> None:
    assert requested_wait({"retry-after": text}, None, "", now=NOW) == seconds
    assert waits(retry_after=text) == seconds
    assert waits(status=503, retry_after=text) == seconds


def test_milliseconds_win_where_they_can_be_read() -> None:
    assert requested_wait({"retry-after-ms": "250", "retry-after": "9"}, None, "", now=NOW) == 0.25
    assert requested_wait({"retry-after-ms": "?", "retry-after": "9"}, None, "", now=NOW) == 9
    assert requested_wait({}, None, "", now=NOW) is None


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("Please try again in 20s.", 20.0),
        ("Please try again in 7m12.5s. Visit https://example.com", 432.5),
        ("Please try again in 2h44m.", 9840.0),
        ("Please try again in 6ms.", 0.006),
        ("Please retry in 3.0s.", 3.0),
        ("Please retry after 55 seconds.", 55.0),
        ("Try again in 34.5 seconds", 34.5),
        ("try again in 1 minute and 5 seconds", 65.0),
        ("Please wait 30 seconds before retrying", 30.0),
        ("Rate limit resets in 5 minutes", 300.0),
        ("Quota exceeded, resets at 2027-01-15T08:01:00Z", 60.0),
        ("available again at 2027-01-15 08:01:00 UTC", 60.0),
        ("You sent 20s of audio", None),
        ("Please try again later", None),
    ],
)
def test_what_the_words_say(said: str, seconds: float | None) -> None:
    assert waits({"error": {"message": said}}) == seconds


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        ([{"error": {"code": 429, "details": [{"@type": "RetryInfo", "retryDelay": "3s"}]}}], 3.0),
        ({"error": {"message": "x", "retry_after": 12}}, 12.0),
        ({"detail": {"retry_after_ms": 250}}, 0.25),
        ({"retry_after_seconds": "1.5"}, 1.5),
        ({"error": {"metadata": {"headers": {"X-RateLimit-Reset": "1800000005000", "X-RateLimit-Remaining": "0"}}}}, 5.0),
        ({"retry_after": {"nonsense": 1}}, None),
    ],
)  # fmt: skip
def test_what_fields_of_the_body_say(body: Json, seconds: float | None) -> None:
    assert waits(body) == seconds


def test_the_quota_that_is_used_up_says_when_it_is_there_again() -> None:
    spent = {"x_ratelimit_remaining_requests": "0", "x_ratelimit_reset_requests": "1m26.4s"}
    left = {"x_ratelimit_remaining_tokens": "900", "x_ratelimit_reset_tokens": "7h"}
    assert waits(**spent, **left) == 86.4
    assert waits(**left) is None
    assert waits(x_ratelimit_reset="1800000030", x_ratelimit_remaining="0") == 30
    assert waits(x_ratelimit_reset="8") == 8
    assert waits(x_ratelimit_reset_requests="3s", x_ratelimit_reset_tokens="6m0s") == 3
    assert waits(anthropic_ratelimit_requests_reset="2027-01-15T08:00:09Z") == 9
    assert waits(ratelimit_reset="11", ratelimit_remaining="0") == 11
    assert waits(retry_after="2", **spent) == 2
    assert waits({"error": {"message": "try again in 4s"}}, **spent) == 4


@given(st.text(max_size=20))
def test_no_text_breaks_the_reader(text: str) -> None:
    found = wait_of(text, now=NOW)
    assert found is None or 0 <= found <= LONGEST_WAIT
