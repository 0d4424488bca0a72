"""Why no answer came: what a client raised, as a ConnectionFailed with its reason. Imports no client."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Iterator, Mapping

from flowllm.core.errors import BadAnswer, ConnectionFailed, ProviderDown, ProviderError, RequestRejected
from flowllm.providers.openai.errors import RequestInfo

_DEEPEST = 20
_LOST = frozenset({errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED})
_FULL = frozenset({errno.EMFILE, errno.ENFILE})
_UNREACHABLE = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT, errno.EHOSTDOWN})
_LONGEST_DETAIL = 300
_CERTIFICATE_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_CLIENTS = ("aiohttp", "httpx2", "httpcore2", "openai")


_REASONS = {
    "files": (
        "could not be asked: this process has too many files and connections open",
        "raise the limit with `ulimit -n`, or lower max_concurrent",
    ),
    "refused": ("refused the connection", "is the server running, and is the provider's base_url right?"),
    "unknown_host": ("is not known by that name", "check the provider's base_url, and the network"),
    "reset": ("broke the connection off", ""),
    "closed": ("closed the connection before a whole answer came", ""),
    "tls": (
        "could not be trusted (TLS): {detail}",
        "an http address written as https? a company's certificate? {certificates}",
    ),
    "protocol": (
        "sent an answer that cannot be read as HTTP: {short}",
        "is the provider's base_url right, and what stands between?",
    ),
    "unreachable": ("could not be reached", "check the provider's base_url, and the network"),
    "proxy": ("could not be reached through the proxy", "check HTTPS_PROXY and NO_PROXY"),
}


class Unreadable(Exception):
    """A body that came cannot be read; the text says why."""


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it stands for, the outermost first."""
    current: BaseException | None = error
    for _ in range(_DEEPEST):
        if current is None:
            return
        yield current
        inner = getattr(current, "os_error", None)
        current = inner if isinstance(inner, BaseException) else current.__cause__ or current.__context__


def connection_error(error: BaseException, info: RequestInfo) -> ProviderError:
    """The error for a request that brought no whole answer. `reason` of a ConnectionFailed says which kind."""
    chain = list(causes(error))
    for cause in chain:
        if isinstance(cause, Unreadable) or type(cause).__name__ == "DecodingError":
            unreadable = BadAnswer(
                f"{info.who} sent an answer whose body cannot be read: {cause}",
                hint="turn off compression in the server, or in the proxy before it",
            )
            unreadable.retryable = not isinstance(cause, Unreadable)
            return unreadable
        reason = _reason(cause)
        if reason:
            return _failed(reason, info, str(getattr(cause, "message", "") or cause))
    if any(type(cause).__module__.startswith(_CLIENTS) or isinstance(cause, OSError) for cause in chain):
        return _failed("closed", info, "")
    last = chain[-1]
    return RequestRejected(
        f"the request to {info.who} could not be sent: {type(last).__name__}: {last}",
        hint="check the provider's base_url, headers and params",
    )


def _reason(error: BaseException) -> str:
    name = type(error).__name__
    number = error.errno if isinstance(error, OSError) else None
    signs = {
        "proxy": "Proxy" in name,
        "unknown_host": isinstance(error, socket.gaierror) or "DNS" in name,
        "tls": isinstance(error, ssl.SSLError) or "SSL" in name or "Certificate" in name,
        "files": number in _FULL,
        "refused": number == errno.ECONNREFUSED,
        "protocol": _is_no_http(error),
        "reset": number in _LOST or isinstance(error, ConnectionResetError),
        "unreachable": number in _UNREACHABLE or "ConnectionTimeout" in name,
    }
    return next((reason for reason, seen in signs.items() if seen), "")


def _is_no_http(error: BaseException) -> bool:
    """The head of an answer could not be read; a body that ends early is another matter."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return "BadHttpMessage" in names and "PayloadEncodingError" not in names


def bad_certificates(error: OSError, environ: Mapping[str, str] = os.environ) -> ProviderDown:
    """The error for certificates of the environment's that cannot be loaded."""
    what = error.strerror or str(error)
    return ProviderDown(
        f"no connection can be made over https: the certificates cannot be loaded ({what}); {_certificates(environ)}",
        hint="set SSL_CERT_FILE to a file of certificates in PEM format, or unset it",
    )


def _certificates(environ: Mapping[str, str]) -> str:
    found = [f"{name} is {environ[name]!r}" for name in _CERTIFICATE_VARIABLES if environ.get(name)]
    return " and ".join(found) or "neither SSL_CERT_FILE nor SSL_CERT_DIR is set"


def _failed(reason: str, info: RequestInfo, detail: str) -> ConnectionFailed:
    message, hint = _REASONS[reason]
    message, hint = (
        message.format(detail=detail, short=_shortened(detail)),
        hint.format(certificates=_certificates(os.environ)),
    )
    error = ConnectionFailed(f"{info.who} {message}", hint=hint, reason=reason)
    error.retryable = reason != "protocol"  # it came, and was paid for; another like it would be too
    return error


def _shortened(detail: str) -> str:
    flat = " ".join(detail.split()).removesuffix(" ^")  # aiohttp points at the place
    return flat if len(flat) <= _LONGEST_DETAIL else flat[:_LONGEST_DETAIL] + " …"
