"""Server-sent events (WHATWG HTML, 9.2)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import StreamingResponse

from flowllm.core.types import Json

HEARTBEAT = 15.0
"""Seconds after which a comment is sent, so that a connection that is gone is noticed."""


def event(name: str, data: Json, number: int | None = None) -> bytes:
    """One event; its number comes back in `Last-Event-ID`."""
    head = "" if number is None else f"id: {number}\n"
    return f"{head}event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


def comment() -> bytes:
    """Nothing, but something that is sent."""
    return b": still here\n\n"


def streamed(events: AsyncIterator[bytes]) -> StreamingResponse:
    """The answer that sends them."""
    return StreamingResponse(events, media_type="text/event-stream", headers={"cache-control": "no-store"})


def since(request: Request) -> int:
    """From which change on: where the browser was when the connection broke, or what the address says."""
    for text in (request.headers.get("last-event-id", ""), request.query_params.get("since", "")):
        if text.isascii() and text.isdecimal():
            return min(int(text), 1 << 62)
    return 0


def stopping(request: Request) -> asyncio.Event:
    """Set as the server is told to stop."""
    found: asyncio.Event = request.app.state.stopping
    return found
