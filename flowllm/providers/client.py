"""The openai client, built the way flowllm needs it.

Importing this module imports openai, which takes a second: whoever needs it does so late.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING, Any, cast

import httpx2
from openai import AsyncOpenAI, AsyncStream, DefaultAioHttpClient, Omit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from openai._types import RequestOptions

    from flowllm.types import Json

CONNECT_TIMEOUT = 30.0
"""Seconds to reach a server, apart from the time it takes to answer."""
LARGEST_ERROR_BODY = 64 * 1024
"""Bytes of an error's body that are read."""
_PATHS = {"chat": "/chat/completions", "responses": "/responses", "embeddings": "/embeddings"}
_JSON = {"Content-Type": "application/json", "Accept": "application/json"}
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_CONNECTIONS = 100_000  # the limiter's business, not the pool's
_KEEPALIVE = 4.0  # uvicorn closes an idle connection after 5 s; reusing it just then would be a reset


class _Head(httpx2.AsyncByteStream):
    """The first bytes of a body."""

    def __init__(self, stream: httpx2.AsyncByteStream, size: int) -> None:
        self._stream = stream
        self._size = size

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = self._size
        async for chunk in self._stream:
            yield chunk[:left]
            left -= len(chunk)
            if left <= 0:
                return

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _cap_error_body(response: httpx2.Response) -> None:
    """The openai client reads the body of an error whole, however large; this leaves it the beginning."""
    if response.status_code >= httpx2.codes.MULTIPLE_CHOICES:
        response.stream = _Head(cast("httpx2.AsyncByteStream", response.stream), LARGEST_ERROR_BODY)


def http_client(*, through_proxy: bool) -> httpx2.AsyncClient:
    """A pool of connections. `through_proxy`: HTTPS_PROXY, NO_PROXY and SSL_CERT_FILE are heeded."""
    return DefaultAioHttpClient(
        trust_env=through_proxy,
        follow_redirects=False,
        timeout=httpx2.Timeout(None, connect=CONNECT_TIMEOUT),
        limits=httpx2.Limits(
            max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS, keepalive_expiry=_KEEPALIVE
        ),
        event_hooks={"response": [_cap_error_body]},
    )


def openai_client(
    http: httpx2.AsyncClient,
    *,
    base_url: str,
    api_key: str,
    headers: Mapping[str, str],
    query: Mapping[str, str],
    own_host: bool,
) -> AsyncOpenAI:
    """The client for one server. It never retries, and takes nothing from the environment that is another's:
    OPENAI_ORG_ID and OPENAI_PROJECT_ID go to OpenAI's `own_host` only, OPENAI_CUSTOM_HEADERS nowhere."""
    custom = os.environ.get("OPENAI_CUSTOM_HEADERS", "")
    unwanted = [line.partition(":")[0].strip() for line in custom.split("\n") if ":" in line]
    unwanted += [] if own_host else ["OpenAI-Organization", "OpenAI-Project"]
    authorization = f"Bearer {api_key}" if api_key else Omit()
    given: dict[str, str | Omit] = {"Accept-Encoding": "identity", "Authorization": authorization, **headers}
    written = {name.lower() for name in given}
    removed = {name: Omit() for name in unwanted if name.lower() not in written}
    return AsyncOpenAI(
        base_url=base_url,
        api_key=api_key or "none",  # the client wants one; the header is what counts
        admin_api_key="none",
        max_retries=0,
        default_headers=cast("dict[str, str]", {**removed, **_one_each(given)}),
        default_query=dict(query),
        http_client=http,
    )


def _one_each(headers: Mapping[str, str | Omit]) -> dict[str, str | Omit]:
    """Of headers whose names differ by case only, the last."""
    last = {name.lower(): name for name in headers}
    return {name: headers[name] for name in last.values()}


@contextlib.asynccontextmanager
async def posted(
    client: AsyncOpenAI, body: Mapping[str, Json], *, api: str
) -> AsyncIterator[httpx2.Response]:
    """Send the body, exactly as it is, and give the response with its body still unread.

    Raises openai.APIStatusError for a status that is not 2xx, openai.APIConnectionError for none at all.
    """
    # Encoded here, and posted to the path as it stands: what is in the key is what is sent, and the client need not
    # go through a body that is right already (its named methods take a fifth of the time of a quick call for that).
    content = _ENCODER.encode(dict(body)).encode()
    # The client wants to see a missing Authorization confirmed with every request.
    without = isinstance(client.default_headers.get("Authorization"), Omit)
    options: RequestOptions = {
        "headers": {**_JSON, "Authorization": Omit()} if without else _JSON,
        "security": {"bearer_auth": True},
        "idempotency_key": "-",  # sent to nobody; without one the client draws a random one for each request
    }
    response = await client.post(
        _PATHS[api],
        cast_to=httpx2.Response,
        content=content,
        options=options,
        stream=True,
        stream_cls=AsyncStream[Any],
    )
    try:
        yield response  # type: ignore[misc] # with this cast_to the client gives the response itself
    finally:
        await response.aclose()
