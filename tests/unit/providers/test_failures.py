from __future__ import annotations

import json
from typing import Any

import pytest

from flowllm.errors import (
    ProviderError,
    QuotaExhausted,
    RateLimited,
    RequestRejected,
    ServerFailed,
    Unauthorized,
    UnknownModel,
)
from flowllm.providers.failures import Asked, failure, retry_after

ASKED = Asked(provider="work", server="llm.example.com", model="gpt-x", key_env="WORK_KEY")
NOW = 1_800_000_000.0  # Fri, 15 Jan 2027 08:00:00 GMT


def failed(status: int, body: object = "", **headers: str) -> ProviderError:
    text = body if isinstance(body, str) else json.dumps(body)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return failure(status, sent, text, ASKED, now=NOW)


def said(code: str | None = None, message: str = "words", kind: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "code": code, "type": kind}}


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, said(), Unauthorized),
        (403, said(), Unauthorized),
        (402, "", QuotaExhausted),
        (429, said("insufficient_quota"), QuotaExhausted),
        (429, said(kind="insufficient_quota"), QuotaExhausted),
        (403, said("billing_not_active"), QuotaExhausted),
        (429, said("rate_limit_exceeded"), RateLimited),
        (429, "", RateLimited),
        (404, said("model_not_found"), UnknownModel),
        (400, said("model_not_found"), UnknownModel),
        (404, {"error": "model 'gpt-x' not found, try pulling it first"}, UnknownModel),
        (400, {"detail": "gpt-x is not a valid model ID"}, UnknownModel),
        (404, "404 page not found", RequestRejected),
        (400, said(), RequestRejected),
        (413, "", RequestRejected),
        (422, {"detail": [{"msg": "field required"}]}, RequestRejected),
        (408, "", ServerFailed),
        (409, "", ServerFailed),
        (500, said(), ServerFailed),
        (502, "<html>Bad gateway</html>", ServerFailed),
        (503, "", ServerFailed),
        (529, said(kind="overloaded_error"), ServerFailed),
    ],
)
def test_statuses(status: int, body: object, kind: type[ProviderError]) -> None:
    error = failed(status, body)
    assert type(error) is kind
    assert error.status == status
    assert "work (llm.example.com)" in error.message
    assert "<html>" not in error.message


@pytest.mark.parametrize(
    "body", [said(message="the words"), {"error": "the words"}, {"message": "the words"}, "the words"]
)
def test_the_server_s_words_are_told(body: object) -> None:
    assert "the words" in failed(400, body).message


def test_hints() -> None:
    assert "WORK_KEY" in failed(401).hint
    assert "base_url" in failed(404, "404 page not found").hint
    assert "too long" in failed(400, said("context_length_exceeded")).hint
    assert "gpt-x" in failed(404, said("model_not_found")).message
    without = failure(401, {}, "", Asked(provider="p", server="s"), now=NOW)
    assert "api_key_env" in without.hint


@pytest.mark.parametrize("body", ["x" * 100_000, said(message="y" * 100_000), "[" * 100_000])
def test_long_words_are_shortened(body: object) -> None:
    assert len(failed(500, body).message) < 1200


@pytest.mark.parametrize(
    ("location", "told"),
    [
        ("https://user:canary@elsewhere.example/path?key=canary", "to elsewhere.example"),
        ("/other", "redirects (307)"),
        ("http://[broken", "redirects (307)"),
        ("", "redirects (307)"),
    ],
)
def test_a_redirect_names_the_host_and_nothing_else(location: str, told: str) -> None:
    error = failed(307, location=location)
    assert type(error) is RequestRejected
    assert told in error.message
    assert "canary" not in error.message


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1", 1.0),
        ("0.25", 0.25),
        ("300", 300.0),
        ("-5", 0.0),
        ("1000000000", 3600.0),
        ("inf", 3600.0),
        ("-inf", 0.0),
        ("NaN", None),
        ("", None),
        ("soon", None),
        ("Fri, 15 Jan 2027 08:02:00 GMT", 120.0),
        ("Fri, 15 Jan 2027 07:00:00 GMT", 0.0),
        ("Fri, 15 Jan 2999 08:00:00 GMT", 3600.0),
        ("Fri, 99 Jan 2027 08:00:00 GMT", None),
    ],
)
def test_retry_after(text: str, seconds: float | None) -> None:
    assert retry_after({"retry-after": text}, now=NOW) == seconds
    error = failed(429, retry_after=text)
    assert isinstance(error, RateLimited)
    assert error.retry_after == seconds


def test_milliseconds_win_where_they_can_be_read() -> None:
    assert retry_after({"retry-after-ms": "250", "retry-after": "9"}, now=NOW) == 0.25
    assert retry_after({"retry-after-ms": "?", "retry-after": "9"}, now=NOW) == 9
    assert retry_after({}, now=NOW) is None


def test_a_failing_server_may_ask_for_time_too() -> None:
    error = failed(503, retry_after="7")
    assert isinstance(error, ServerFailed)
    assert error.retry_after == 7
