from __future__ import annotations

import json
from typing import Any

import pytest

from flowllm.core.errors import (
    PathNotFound,
    ProviderError,
    QuotaExhausted,
    RateLimited,
    RequestRejected,
    RequestTooLarge,
    ServerFailed,
    Unauthorized,
    UnknownModel,
)
from flowllm.providers.openai.errors import LONGEST_RAW, RequestInfo, error_of

INFO = RequestInfo(provider="work", server="llm.example.com", model="gpt-x", key_env="WORK_KEY")
NOW = 1_800_000_000.0  # Fri, 15 Jan 2027 08:00:00 GMT


def failed(status: int, body: object = "", **headers: str) -> ProviderError:
    text = body if isinstance(body, str) else json.dumps(body)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    error = error_of(status, sent, text, INFO, now=NOW)
    assert isinstance(error, ProviderError)
    return error


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
        (404, "404 page not found", PathNotFound),
        (400, said(), RequestRejected),
        (413, "", RequestTooLarge),
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
    ("body", "expected"),
    [
        (said(message="the words"), "the words"),
        ({"error": "the words"}, "the words"),
        ({"message": "the words"}, "the words"),
        ("the words", "the words"),
        ([said(message="the words")], "the words"),
        ({"detail": "the words"}, "the words"),
        ({"detail": [{"loc": ["body", "seed"], "msg": "the words", "input": 7}]}, "body.seed: the words"),
        ({"message": {"detail": [{"loc": ["body", "seed"], "msg": "the words"}]}}, "body.seed: the words"),
        ({"detail": {"error": {"message": "the words"}}}, "the words"),
        ({"type": "about:blank", "title": "Bad Request", "detail": "the words"}, "the words"),
        ({"type": "about:blank", "title": "the words"}, "the words"),
        ({"error": "Not Found", "message": "the words"}, "Not Found: the words"),
        ({"error": True, "message": "the words"}, "the words"),
        ({"errors": [{"message": "one"}, {"message": "two"}]}, "one; two"),
        ({"errors": ["the words"]}, "the words"),
        ({"errors": {"seed": ["the words"]}}, "the words"),
        ({"message": "Validation failed", "errors": [{"field": "seed", "message": "the words"}]}, "the words"),
        (
            said(message="Provider returned error")["error"]
            | {"metadata": {"raw": '{"error": {"message": "the words"}}'}},
            "Provider returned error: the words",
        ),
        ({"base_resp": {"status_code": 1, "status_msg": "the words"}}, "the words"),
        ({"unheard": {"of": "the words"}}, "the words"),
        ("<?xml version='1.0'?><Error><Code>X</Code><Message>the words</Message></Error>", "X the words"),
        ("<!DOCTYPE html><html><head><title>the\n words</title>", "the words"),
    ],
)
def test_the_server_s_words_are_shown_and_kept_whole(body: object, expected: str) -> None:
    error = failed(400, body)
    assert expected in error.message
    assert error.answer == (body if isinstance(body, str) else json.dumps(body))
    assert error.as_dict()["answer"] == error.answer


def test_hints() -> None:
    refused = failed(400, {"error": {"message": "'response_format.type' must be 'json_object'"}})
    assert "`structured` of the provider to json_object_schema" in refused.hint
    assert "WORK_KEY" in failed(401).hint
    assert "base_url" in failed(404, "404 page not found").hint
    assert "too long" in failed(400, said("context_length_exceeded")).hint
    assert "gpt-x" in failed(404, said("model_not_found")).message
    assert "refused access" in failed(403).message  # which need not be about the key
    without = error_of(401, {}, "", RequestInfo(provider="p", server="s"), now=NOW)
    assert "api_key_env" in without.hint


@pytest.mark.parametrize("body", ["x" * 100_000, said(message="y" * 100_000), "[" * 100_000])
def test_long_words_are_shortened(body: object) -> None:
    error = failed(500, body)
    assert len(error.message) < 1200
    assert len(error.answer or "") == min(len(body if isinstance(body, str) else json.dumps(body)), LONGEST_RAW)


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("https://user:canary@elsewhere.example/path?key=canary", "to elsewhere.example"),
        ("/other", "redirects (307)"),
        ("http://[broken", "redirects (307)"),
        ("", "redirects (307)"),
    ],
)
def test_a_redirect_names_the_host_and_nothing_else(location: str, expected: str) -> None:
    error = failed(307, location=location)
    assert type(error) is PathNotFound
    assert expected in error.message
    assert "canary" not in error.message
