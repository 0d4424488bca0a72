"""What an HTTP server's answer is as a value, or which failure."""

from __future__ import annotations

import base64
import codecs
import json
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from flowllm.core import strict_json
from flowllm.core.errors import HttpFailed
from flowllm.core.retry_after import LONGEST_PAUSE, wait_of
from flowllm.core.types import Json

if TYPE_CHECKING:
    import aiohttp


MAX_BODY = 16 * 1024 * 1024
"""Bytes, after decompression."""
SHOWN = 500
"""Characters of an error's body."""
_AGAIN: Final = frozenset({408, 423, 425, 429, 449, 498, *range(500, 505), *range(520, 531)} - {501})
_TEXTS: Final = ("text/", "application/xml", "application/javascript", "application/x-www-form-urlencoded")
_NO_CHARSETS: Final = frozenset({"idna", "punycode", "raw-unicode-escape", "unicode-escape"})
"""Python's, and some of them take hours for a large text."""


class _NotJson(str):
    """A body that was to be JSON."""

    __slots__ = ("why",)
    why: str


async def read_answer(response: aiohttp.ClientResponse, shown: str, mask: Callable[[str], str], now: float) -> Json:
    """Status, headers and body of a 2xx answer. `shown` is the URL for people, `mask` takes secrets out of a text.

    Raises HttpFailed for any other status, with the body; for a body that is too large or not the JSON it says to be.
    """
    body = _body(await _data(response, shown), response)
    text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
    if not 200 <= response.status < 300:  # noqa: PLR2004
        asked = wait_of(response.headers.get("Retry-After", ""), now=now)
        raise HttpFailed(
            f"{shown} answered {response.status} {mask(response.reason or '')[:SHOWN]}".rstrip(),
            hint=_advice(response),
            answer=mask(text)[:SHOWN],
            retryable=response.status in _AGAIN,
            retry_after=None if asked is None else min(asked, LONGEST_PAUSE),
        )
    if isinstance(body, _NotJson):
        raise HttpFailed(f"{shown}: the body says that it is JSON, and is not ({body.why})", answer=mask(text)[:SHOWN])
    headers: dict[str, str] = {}
    for name, value in response.headers.items():
        key = name.lower()
        headers[key] = f"{headers[key]}, {value}" if key in headers else value
    return {"status": response.status, "headers": headers, "body": body}


async def _data(response: aiohttp.ClientResponse, shown: str) -> bytes:
    data = bytearray()
    async for chunk in response.content.iter_chunked(64 * 1024):
        data += chunk
        if len(data) > MAX_BODY:
            raise HttpFailed(f"{shown}: the body is larger than {MAX_BODY >> 20} MiB")
    return bytes(data)


def _advice(response: aiohttp.ClientResponse) -> str:
    moved = 300 <= response.status < 400 and "Location" in response.headers  # noqa: PLR2004
    return f"a redirect is followed for GET and HEAD only, not for {response.method}" if moved else ""


def _body(data: bytes, response: aiohttp.ClientResponse) -> Json:
    """JSON where the server says so; else a text, or {"base64": …} for what is none."""
    kind, charset = response.content_type.lower(), response.charset
    with suppress(LookupError, UnicodeError):
        if kind == "application/json" or kind.endswith("+json"):
            return _json(_text(data, charset or json.detect_encoding(data)))
        if (
            not data
            or charset
            or kind.startswith(_TEXTS)
            or kind.endswith("+xml")
            or kind == "application/octet-stream"  # which is also what a server says by saying nothing
        ):
            return _text(data, charset or "utf-8")
    return {"base64": base64.b64encode(data).decode()}


def _text(data: bytes, charset: str) -> str:
    name = codecs.lookup(charset).name
    if name in _NO_CHARSETS:
        raise LookupError(name)
    return data.decode("utf-8-sig" if name == "utf-8" else name)


def _json(text: str) -> Json:
    if not text:
        return None
    try:
        return strict_json.loads(text)
    except ValueError as error:
        broken = _NotJson(text)
        broken.why = strict_json.reason(error)
        return broken
