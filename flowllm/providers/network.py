"""Why no answer came: whatever a client raised, in plain words. Pure, and knows no client."""

from __future__ import annotations

import errno
import socket
import ssl
from typing import TYPE_CHECKING

from flowllm.errors import ConnectionFailed, ProviderError, RequestRejected

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowllm.providers.failures import Asked

_DEEPEST = 20
_LOST = frozenset({errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED})
_UNREACHABLE = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT, errno.EHOSTDOWN})
_CLIENTS = ("aiohttp", "httpx2", "httpcore2", "openai")


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it stands for, the outermost first."""
    current: BaseException | None = error
    for _ in range(_DEEPEST):
        if current is None:
            return
        yield current
        inner = getattr(current, "os_error", None)
        current = inner if isinstance(inner, BaseException) else current.__cause__ or current.__context__


def broken(error: BaseException, asked: Asked) -> ProviderError:
    """The error for a request that brought no whole answer. `reason` of a ConnectionFailed says which kind."""
    chain = list(causes(error))
    for cause in chain:
        reason = _reason(cause)
        if reason:
            return _failed(reason, asked, str(cause))
    if any(type(cause).__module__.startswith(_CLIENTS) or isinstance(cause, OSError) for cause in chain):
        return _failed("closed", asked, "")
    last = chain[-1]
    return RequestRejected(
        f"the request to {asked.provider} ({asked.server}) could not be sent: {type(last).__name__}: {last}",
        hint="check the provider's base_url, headers and params",
    )


def _reason(error: BaseException) -> str:
    name = type(error).__name__
    number = error.errno if isinstance(error, OSError) else None
    signs = {
        "proxy": "Proxy" in name,
        "unknown_host": isinstance(error, socket.gaierror) or "DNS" in name,
        "tls": isinstance(error, ssl.SSLError) or "SSL" in name or "Certificate" in name,
        "refused": number == errno.ECONNREFUSED,
        "reset": number in _LOST or isinstance(error, ConnectionResetError),
        "unreachable": number in _UNREACHABLE or "ConnectionTimeout" in name,
    }
    return next((reason for reason, seen in signs.items() if seen), "")


def _failed(reason: str, asked: Asked, words: str) -> ConnectionFailed:
    what, hint = {
        "refused": ("refused the connection", "is the server running, and is the provider's base_url right?"),
        "unknown_host": ("is not known by that name", "check the provider's base_url, and the network"),
        "reset": ("broke the connection off", ""),
        "closed": ("closed the connection before a whole answer came", ""),
        "tls": (
            f"could not be trusted (TLS): {words}",
            "an http address written as https? a company's certificate?",
        ),
        "unreachable": ("could not be reached", "check the provider's base_url, and the network"),
        "proxy": ("could not be reached through the proxy", "check HTTPS_PROXY and NO_PROXY"),
    }[reason]
    return ConnectionFailed(f"{asked.provider} ({asked.server}) {what}", hint=hint, reason=reason)
