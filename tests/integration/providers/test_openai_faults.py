"""Every fault that a server can show, and the error that a person gets to see."""

from __future__ import annotations

import asyncio
import socket
import time
import traceback
import tracemalloc

import pytest

from flowllm.core.errors import (
    AttemptTimedOut,
    BadAnswer,
    ConnectionFailed,
    ContentFiltered,
    EmptyAnswer,
    PathNotFound,
    ProviderError,
    QuotaExhausted,
    RateLimited,
    Refused,
    RequestRejected,
    RequestTooLarge,
    ServerFailed,
    StepError,
    TruncatedAnswer,
    Unauthorized,
    UnknownModel,
)
from flowllm.core.retry_after import LONGEST_WAIT
from flowllm.providers.openai.errors import LONGEST_RAW
from tests.integration.providers.conftest import CANARY, MakeOpenAI, ask
from tests.support.replies import FAULTS, MIB, Reply, error_body, rate_limited
from tests.support.server import Server

pytestmark = pytest.mark.anyio

BOTH: dict[str, tuple[type[StepError], str]] = {
    "429": (RateLimited, "slow down"),
    "quota": (QuotaExhausted, "nothing left to spend"),
    "unknown_model": (UnknownModel, "'test-model'"),
    "too_long": (RequestTooLarge, "maximum context length"),
    "bad_key": (Unauthorized, "refused the key"),
    "400": (RequestRejected, "does not accept"),
    "403": (Unauthorized, "refused access"),
    "404": (PathNotFound, "nothing at that address"),
    "408": (ServerFailed, "(408)"),
    "409": (ServerFailed, "(409)"),
    "422": (RequestRejected, "(422)"),
    "500": (ServerFailed, "(500)"),
    "502": (ServerFailed, "(502)"),
    "503": (ServerFailed, "(503)"),
    "529": (ServerFailed, "(529)"),
    "reset": (ConnectionFailed, "connection"),
    "reset_midway": (ConnectionFailed, "connection"),
    "close": (ConnectionFailed, "closed the connection"),
    "close_midway": (ConnectionFailed, "closed the connection"),
    "truncated_json": (BadAnswer, "not valid JSON"),
    "invalid_json": (BadAnswer, "not valid JSON"),
    "deep_json": (BadAnswer, "nested too deeply"),
    "huge_integer": (BadAnswer, "too large"),
    "html": (BadAnswer, "a web page"),
    "empty_body": (BadAnswer, "nothing"),
    "not_utf8": (BadAnswer, "not UTF-8"),
    "list_body": (BadAnswer, "no object"),
    "stream": (BadAnswer, "a stream that broke off"),
    "error_at_200": (BadAnswer, "it went wrong"),
    "rate_limit_at_200": (RateLimited, "slow down"),
    "content_filter": (ContentFiltered, "content filter"),
    "refusal": (Refused, "declined"),
    "tool_calls": (RequestRejected, "call a tool"),
    "length_empty": (TruncatedAnswer, "before it said a word"),
    "redirect": (PathNotFound, "elsewhere.invalid"),
    "huge_answer": (BadAnswer, "more than 16 MiB"),
    "slow_loris": (AttemptTimedOut, "0.4 s"),
    "late": (AttemptTimedOut, "0.4 s"),
}
CHAT_ONLY: dict[str, tuple[type[StepError], str]] = {
    "empty_choices": (BadAnswer, "no choices"),
    "null_choices": (BadAnswer, "no choices"),
    "no_choices": (BadAnswer, "no choices"),
    "null_content": (EmptyAnswer, "gave an empty answer"),
    "null_message": (BadAnswer, "without a message"),
}
CASES = [(api, name, expected) for api in ("chat", "responses") for name, expected in BOTH.items()]
CASES += [("chat", name, expected) for name, expected in CHAT_ONLY.items()]


@pytest.mark.parametrize(("api", "fault", "expected"), CASES, ids=lambda value: value if isinstance(value, str) else "")
async def test_faults(
    server: Server, openai: MakeOpenAI, api: str, fault: str, expected: tuple[type[StepError], str]
) -> None:
    kind, told = expected
    server.script = lambda _body, _n: FAULTS[fault]
    provider = openai(api=api)
    timeout = 0.4 if kind is AttemptTimedOut else 20
    with pytest.raises(kind) as caught:
        await provider.complete(ask(), timeout=timeout)
    error = caught.value
    assert type(error) is kind
    assert told in error.message
    assert len(server.requests) == 1  # nothing is sent twice, nothing follows a redirect
    assert error.__cause__ is error.__context__ is None
    assert CANARY not in "".join(traceback.format_exception(error)) + repr(error.__dict__)
    if issubclass(kind, BadAnswer):
        assert error.answer is not None
        assert len(error.answer) <= LONGEST_RAW
    server.script = server.default_script
    assert (await provider.complete(ask(), timeout=20)).text  # the pool is none the worse for it


async def test_every_fault_has_a_case() -> None:
    assert {*BOTH, *CHAT_ONLY, "length"} == set(FAULTS)


async def test_a_cut_answer_is_given_and_marked(server: Server, openai: MakeOpenAI) -> None:
    server.script = lambda _body, _n: FAULTS["length"]
    for api in ("chat", "responses"):
        completion = await openai(api=api).complete(ask(), timeout=20)
        assert (completion.text, completion.finish_reason) == ("cut off in the mid", "length")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1", 1.0), ("300", 300.0), ("-5", 0.0), ("NaN", None), ("1000000000", LONGEST_WAIT), (None, None)],
)
async def test_retry_after(server: Server, openai: MakeOpenAI, text: str | None, seconds: float | None) -> None:
    server.script = lambda _body, _n: rate_limited(text)
    with pytest.raises(RateLimited) as caught:
        await openai().complete(ask(), timeout=20)
    assert caught.value.retry_after == seconds


async def test_an_error_at_200_has_its_headers_too(server: Server, openai: MakeOpenAI) -> None:
    body = error_body("slow down", "rate_limit_exceeded")
    server.script = lambda _body, _n: Reply(body=body, headers={"Retry-After": "7"})
    with pytest.raises(RateLimited) as caught:
        await openai().complete(ask(), timeout=20)
    assert caught.value.retry_after == 7


async def test_retry_after_as_a_date_and_in_milliseconds(server: Server, openai: MakeOpenAI) -> None:
    server.script = lambda _body, _n: rate_limited("Fri, 31 Dec 2100 23:59:59 GMT")
    with pytest.raises(RateLimited) as caught:
        await openai().complete(ask(), timeout=20)
    assert caught.value.retry_after == LONGEST_WAIT
    server.script = lambda _body, _n: rate_limited(None, **{"retry-after-ms": "1500"})
    with pytest.raises(RateLimited) as caught:
        await openai().complete(ask(), timeout=20)
    assert caught.value.retry_after == 1.5


async def test_a_slow_loris_is_left_at_the_deadline(server: Server, openai: MakeOpenAI) -> None:
    server.script = lambda _body, _n: Reply(drip=0.05)
    provider = openai()
    started = time.monotonic()
    with pytest.raises(AttemptTimedOut):
        await provider.complete(ask(), timeout=0.5)
    assert time.monotonic() - started < 3  # the whole answer would take ten times as long


async def test_a_closed_port_is_a_refused_connection(openai: MakeOpenAI) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(ConnectionFailed, match=f"127.0.0.1:{port}") as caught:
            await openai(base_url=f"http://127.0.0.1:{port}/v1").complete(ask(), timeout=20)
    assert caught.value.reason == "refused"
    assert "base_url" in caught.value.hint


async def test_an_unknown_host(openai: MakeOpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    async def getaddrinfo(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    with pytest.raises(ConnectionFailed, match=r"llm\.example\.invalid") as caught:
        await openai(base_url="http://llm.example.invalid/v1").complete(ask(), timeout=20)
    assert caught.value.reason == "unknown_host"


async def test_https_at_a_server_that_speaks_http(server: Server, openai: MakeOpenAI) -> None:
    with pytest.raises(ConnectionFailed, match="TLS") as caught:
        await openai(base_url=server.url.replace("http:", "https:")).complete(ask(), timeout=20)
    assert caught.value.reason == "tls"
    assert not server.requests


@pytest.mark.parametrize(("status", "kind"), [(200, BadAnswer), (500, ServerFailed), (400, RequestRejected)])
async def test_a_huge_answer_is_never_held_in_memory(
    server: Server, openai: MakeOpenAI, status: int, kind: type[ProviderError]
) -> None:
    server.script = lambda _body, _n: Reply(status=status, filler=256 * MIB)
    provider = openai()
    with pytest.raises(kind):
        await provider.complete(ask(), timeout=20)
    tracemalloc.start()
    try:
        with pytest.raises(kind):
            await provider.complete(ask(), timeout=60)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 48 * MIB


async def test_an_answer_below_the_cap_is_whole(server: Server, openai: MakeOpenAI) -> None:
    text = "x" * (15 * MIB)
    server.script = lambda _body, _n: Reply(text=text)
    assert (await openai().complete(ask(), timeout=60)).text == text


async def test_hostile_text_arrives_as_it_is(server: Server, openai: MakeOpenAI) -> None:
    text = "{{7*7}} $(id) \x1b[31m \u202e <script> \x00 \ud800 =cmd() [/x]"
    server.script = lambda _body, _n: Reply(text=text)
    assert (await openai().complete(ask(text), timeout=20)).text == text
    assert server.requests[0].prompt == text.replace("\ud800", "\ufffd")


async def test_the_server_s_words_are_redacted(server: Server, openai: MakeOpenAI) -> None:
    words = f"Incorrect API key provided: {CANARY}, team growth-42"
    server.script = lambda _body, _n: Reply(status=401, body=error_body(words))
    with pytest.raises(Unauthorized) as caught:
        await openai(headers={"X-Team": "growth-42"}, api_key_env="WORK_KEY").complete(ask(), timeout=20)
    assert "Incorrect API key provided: ***, team ***" in caught.value.message
    assert "WORK_KEY" in caught.value.hint
    server.script = lambda _body, _n: Reply(body=f"<html>{CANARY}</html>")
    with pytest.raises(BadAnswer) as bad:
        await openai().complete(ask(), timeout=20)
    assert bad.value.answer == "<html>***</html>"
