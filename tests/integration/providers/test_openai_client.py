"""What goes out, to whom, and over which connections."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import flowllm
from flowllm.core.errors import BadAnswer, ConnectionFailed, ProviderDown, RequestRejected, UsageError
from flowllm.core.redact import Redactor
from flowllm.core.request import OutputFormat
from flowllm.providers.openai.errors import LONGEST_RAW
from flowllm.providers.openai.request import OPENAI_BASE_URL, OpenAIConfig
from tests.integration.providers.conftest import CANARY, MakeOpenAI, ask
from tests.support.replies import MIB, Reply
from tests.support.server import Server

pytestmark = pytest.mark.anyio


@contextlib.asynccontextmanager
async def eavesdropper() -> AsyncIterator[tuple[str, list[bytes]]]:
    """A proxy that notes what it is told and answers 502."""
    heard: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(65536))
        writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    proxy = await asyncio.start_server(listen, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}", heard
    finally:
        proxy.close()


@pytest.mark.parametrize("api", ["chat", "responses"])
async def test_what_is_encoded_is_what_is_sent(server: Server, openai: MakeOpenAI, api: str) -> None:
    provider = openai(api=api)
    request = ask(temperature=0, max_tokens=5, output=OutputFormat(schema={"type": "array"}), metadata={"a": None})
    await provider.complete(request, timeout=20)
    (seen,) = server.requests
    assert seen.body == provider.encode(request)
    assert seen.path == ("/v1/responses" if api == "responses" else "/v1/chat/completions")
    assert seen.headers["authorization"] == f"Bearer {CANARY}"


@pytest.mark.parametrize("key", [CANARY, ""])
async def test_each_request_has_the_head_that_the_client_itself_builds(
    server: Server, openai: MakeOpenAI, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    provider = openai(api_key=key, base_url=f"{server.url}/?version=1", headers={"X-Team": "growth"})
    asked = [ask("one"), ask("two and zwölf")]
    for request in asked:
        await provider.complete(request, timeout=20)
    from openai import AsyncOpenAI

    from flowllm.providers.openai.client import Client

    monkeypatch.setattr(Client, "_build_request", AsyncOpenAI._build_request)
    for request in asked:
        await provider.complete(request, timeout=20)
    sent = [(seen.path, seen.query, seen.headers, seen.body) for seen in server.requests]
    assert sent[:2] == sent[2:]
    assert sent[0] != sent[1]


async def test_without_a_key_no_authorization_goes_out(
    server: Server, openai: MakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    monkeypatch.setenv("OPENAI_ADMIN_KEY", CANARY)
    provider = openai(api_key="", headers={"X-Team": "growth"})
    await provider.complete(ask(), timeout=20)
    assert "authorization" not in server.requests[0].headers
    assert server.requests[0].headers["x-team"] == "growth"
    assert CANARY not in str(server.requests[0].headers)
    assert provider.account.key_hash == ""


async def test_the_environment_s_headers_go_to_no_other_host(
    server: Server, openai: MakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", CANARY)
    monkeypatch.setenv("OPENAI_PROJECT_ID", CANARY)
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", f"X-Ambient: {CANARY}\nAuthorization: Bearer {CANARY}")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    await openai(api_key="another-key").complete(ask(), timeout=20)
    assert CANARY not in str(server.requests[0].headers)
    assert server.requests[0].headers["authorization"] == "Bearer another-key"


async def test_an_authorization_of_the_author_s_own_is_sent(server: Server, openai: MakeOpenAI) -> None:
    await openai(api_key="", headers={"Authorization": "Token abc123"}).complete(ask(), timeout=20)
    assert server.requests[0].headers["authorization"] == "Token abc123"


async def test_credentials_and_query_of_a_url_stay_out_of_sight(server: Server, openai: MakeOpenAI) -> None:
    redactor = Redactor()
    url = server.url.replace("http://", "http://me:p%40ssword@") + "/?api-version=2026-01-01&sig_token=hush-hush#x"
    provider = openai(base_url=url, api_key="", redactor=redactor)
    assert provider.account.base_url == server.url
    completion = await provider.complete(ask(), timeout=20)
    assert completion.text
    seen = server.requests[0]
    assert seen.headers["authorization"] == "Basic bWU6cEBzc3dvcmQ="
    assert seen.query == {"api-version": "2026-01-01", "sig_token": "hush-hush"}
    assert redactor.text("p@ssword p%40ssword hush-hush bWU6cEBzc3dvcmQ= 2026-01-01") == "*** *** *** *** 2026-01-01"


async def test_the_redactor_learns_what_is_secret_and_nothing_else(openai: MakeOpenAI) -> None:
    redactor = Redactor()
    openai(redactor=redactor, headers={"X-Team": "growth", "X-Auth-Token": "hush-hush", "Cookie": "session sess-1"})
    assert redactor.text(f"growth hush-hush {CANARY} sess-1") == "growth *** *** ***"


async def test_rate_limit_headers_are_handed_on(server: Server, openai: MakeOpenAI) -> None:
    server.limit(600, burst=2)
    completion = await openai().complete(ask(), timeout=20)
    assert completion.headers["x-ratelimit-limit-requests"] == "600"
    assert completion.headers["x-ratelimit-remaining-requests"] == "1"
    assert completion.request_id == completion.headers["x-request-id"] == "req-1"
    assert "content-type" not in completion.headers


async def test_two_providers_share_one_pool_of_connections(server: Server, openai: MakeOpenAI) -> None:
    first, second = openai(name="first"), openai(name="second", api_key="another-key", api="responses")
    for provider in (first, second, first, second):
        await provider.complete(ask(), timeout=20)
    assert len(server.requests) == 4
    assert len({seen.peer for seen in server.requests}) == 1
    assert [seen.headers["authorization"] for seen in server.requests[:2]] == [f"Bearer {CANARY}", "Bearer another-key"]


async def test_the_pool_holds_back_nobody(server: Server, openai: MakeOpenAI) -> None:
    provider = openai()
    await provider.complete(ask(), timeout=20)
    server.hold = 150
    await asyncio.gather(*(provider.complete(ask(str(number)), timeout=20) for number in range(150)))
    assert server.peak == 150


async def test_http_never_goes_through_a_proxy(
    server: Server, openai: MakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with eavesdropper() as (url, heard):
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY"):
            monkeypatch.setenv(name, url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        await openai().complete(ask(), timeout=20)
    assert len(server.requests) == 1
    assert heard == []


async def test_https_goes_through_a_proxy_that_learns_the_host_and_no_more(
    openai: MakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with eavesdropper() as (url, heard):
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        for name in ("HTTPS_PROXY", "https_proxy"):
            monkeypatch.setenv(name, url)
        with pytest.raises(ConnectionFailed, match="through the proxy") as caught:
            await openai(base_url="https://llm.example.invalid/v1").complete(ask("hush-hush"), timeout=20)
    assert caught.value.reason == "proxy"
    assert heard[0].startswith(b"CONNECT llm.example.invalid:443")
    assert CANARY.encode() not in heard[0]
    assert b"hush-hush" not in heard[0]


@pytest.mark.parametrize(
    "settings",
    [
        {"base_url": "llm.example.com/v1"},
        {"base_url": "ftp://llm.example.com"},
        {"base_url": "http://[broken"},
        {"base_url": "http://host:port/v1"},
        {"base_url": ""},
        {"api_key": "sk-canary\x00-8c1f0d"},
        {"api_key": "sk-canäry"},
        {"headers": {"X-Bad": "canary\r\nInjected: yes"}},
        {"headers": {"X Bad": "canary"}},
    ],
)
async def test_what_cannot_be_sent_is_refused_without_showing_it(openai: MakeOpenAI, settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="'test'") as caught:
        openai(**settings)
    assert "can" not in str(caught.value).replace("cannot", "")


async def test_white_space_around_a_key_is_no_part_of_it(server: Server, openai: MakeOpenAI) -> None:
    await openai(api_key=f" {CANARY}\n").complete(ask(), timeout=20)
    assert server.requests[0].headers["authorization"] == f"Bearer {CANARY}"


async def test_accounts_differ_by_server_and_key(openai: MakeOpenAI) -> None:
    accounts = [openai(), openai(name="other"), openai(api_key="x" * 20), openai(base_url="http://127.0.0.1:9/v1")]
    assert len({provider.account for provider in accounts}) == 3
    assert accounts[0].account.type == "openai"
    assert CANARY not in repr(accounts[0].account)


async def test_prices(openai: MakeOpenAI) -> None:
    usage = (await openai().complete(ask(), timeout=20)).usage
    assert openai().cost("some-model", usage) is None
    price = openai(base_url=OPENAI_BASE_URL).cost("gpt-4o-mini", usage)
    assert price is not None
    assert 0 < price < 0.01
    assert openai(prices={"m": {"input": 1e6, "output": 0}}).cost("m", usage) == usage.input_tokens


def test_nothing_heavy_is_imported_before_the_first_call() -> None:
    code = (
        "import sys; import flowllm.providers.openai.provider, flowllm.providers.openai.usage, flowllm.providers.simulated.provider; "
        "print([name for name in ('openai', 'httpx2', 'aiohttp', 'genai_prices') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_defaults_are_openai_s() -> None:
    assert OpenAIConfig(name="openai").base_url == OPENAI_BASE_URL


async def test_large_heads_are_read(server: Server, openai: MakeOpenAI) -> None:
    many = {f"x-h-{number}": "v" * 60 for number in range(200)}
    for headers in (many, {"Content-Security-Policy": "a" * 70_000}):
        server.script = lambda _body, _n, headers=headers: Reply(text="headed", headers=headers)
        assert (await openai().complete(ask(), timeout=20)).text == "headed"
    server.script = lambda _body, _n: Reply(headers={"Content-Security-Policy": "a" * 200_000})
    with pytest.raises(ConnectionFailed, match="cannot be read as HTTP") as caught:
        await openai().complete(ask(), timeout=20)
    assert "more than 131072 bytes" in caught.value.message
    assert not caught.value.retryable, "each would be paid for"


async def test_the_user_agent_is_sent_and_no_cookie_is_kept(server: Server, openai: MakeOpenAI) -> None:
    server.script = lambda _body, _n: Reply(headers={"Set-Cookie": "AWSALB=backend1; Path=/"})
    provider = openai()
    for _ in range(2):
        await provider.complete(ask(), timeout=20)
    await openai(headers={"user-agent": "mine"}).complete(ask(), timeout=20)
    assert [seen.headers.get("cookie") for seen in server.requests] == [None] * 3
    agents = [seen.headers["user-agent"] for seen in server.requests]
    assert agents == [f"flowllm/{flowllm.__version__}"] * 2 + ["mine"]


async def test_the_query_of_a_base_url_goes_out_with_each_request(server: Server, openai: MakeOpenAI) -> None:
    await openai(base_url=f"{server.url}/?api-version=2024-10-21").complete(ask(), timeout=20)
    (seen,) = server.requests
    assert (seen.path, seen.query) == ("/v1/chat/completions", {"api-version": "2024-10-21"})


def packed(encoding: str, payload: bytes, status: int = 200) -> Reply:
    return Reply(status=status, body=payload, headers={"Content-Encoding": encoding})


WHOLE = b'{"choices": [{"message": {"content": "packed"}, "finish_reason": "stop"}]}'


@pytest.mark.parametrize(
    "reply",
    [
        packed("gzip", gzip.compress(WHOLE)),
        packed("x-gzip", gzip.compress(WHOLE)),
        packed("deflate", zlib.compress(WHOLE)),
        packed("identity", WHOLE),
    ],
)
async def test_answers_that_are_packed_though_nobody_asked_are_read(
    reply: Reply, server: Server, openai: MakeOpenAI
) -> None:
    server.script = lambda _body, _n: reply
    assert (await openai().complete(ask(), timeout=20)).text == "packed"


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize(("encoding", "told"), [("lzma", "packed as 'lzma'"), ("gzip", "header check")])
async def test_what_cannot_be_unpacked_is_named(
    encoding: str, told: str, status: int, server: Server, openai: MakeOpenAI
) -> None:
    server.script = lambda _body, _n: packed(encoding, WHOLE, status)
    with pytest.raises(BadAnswer if status == 200 else RequestRejected) as caught:
        await openai().complete(ask(), timeout=20)
    assert told in caught.value.message


async def test_the_words_of_a_packed_error_are_read_and_a_bomb_is_not_unpacked(
    server: Server, openai: MakeOpenAI
) -> None:
    server.script = lambda _body, _n: packed("gzip", gzip.compress(b'{"detail": "no seed here"}'), 400)
    with pytest.raises(RequestRejected, match="no seed here"):
        await openai().complete(ask(), timeout=20)
    bomb = gzip.compress(b'{"detail": "' + b"a" * (64 * MIB), 1)
    server.script = lambda _body, n: packed("gzip", bomb, 400 if n == 2 else 200)
    for kind in (RequestRejected, BadAnswer):
        with pytest.raises(kind) as caught:
            await openai().complete(ask(), timeout=20)
        assert 1000 < len(caught.value.answer or "") <= LONGEST_RAW


@pytest.mark.parametrize("content", [None, "no certificate"])
async def test_certificates_of_the_environment_that_cannot_be_loaded(
    content: str | None, openai: MakeOpenAI, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "certificates.pem"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    with pytest.raises(ProviderDown, match=r"SSL_CERT_FILE is '.*certificates\.pem'"):
        await openai(base_url="https://127.0.0.1:9/v1").ready()


async def test_a_stream_is_over_at_its_end_even_if_the_connection_stays_open(openai: MakeOpenAI) -> None:
    event = b'data: {"choices": [{"delta": {"content": "Paris."}, "finish_reason": "stop"}]}'

    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = event + b"\n\ndata: [DONE]\n\n"
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"%x\r\n%b\r\n" % (len(body), body))
        await reader.read()
        writer.close()

    async with await asyncio.start_server(stream, "127.0.0.1", 0) as listening:
        url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
        assert (await openai(base_url=url).complete(ask(), timeout=20)).text == "Paris."
