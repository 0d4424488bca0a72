"""The openai client, built the way flowllm needs it, and what its faults mean.

Importing this module imports openai, which takes a second: whoever needs it does so late."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, cast

import aiohttp
import httpx2
from openai import AsyncOpenAI, AsyncStream, DefaultAioHttpClient, Omit

from flowllm import __version__
from flowllm.core.encoding import encoder
from flowllm.core.errors import BadAnswer, ConnectionFailed, ProviderDown, ProviderError, RequestRejected
from flowllm.core.types import Json
from flowllm.providers.openai.errors import LARGEST_ERROR_BODY, RequestInfo

CONNECT_TIMEOUT = 30.0
"""Seconds to reach a server, apart from the time it takes to answer."""
LARGEST_HEADER = 128 * 1024
"""Bytes of one header; a policy that a gateway sends along may have tens of thousands."""
MAX_HEADERS = 512
_PATHS = {"chat": "/chat/completions", "responses": "/responses", "embeddings": "/embeddings"}
_JSON = {"Content-Type": "application/json", "Accept": "application/json"}
_ENCODE = encoder(ascii_only=False)
_STREAM = AsyncStream[Any]
_PLATFORMS: dict[str, Any] = {"linux": "Linux", "darwin": "MacOS", "win32": "Windows"}
_CONNECTIONS = 100_000  # the limiter decides, not the pool
_KEEPALIVE = 4.0  # uvicorn closes an idle connection after 5 s; reusing it just then would be a reset


class _LimitedBody(httpx2.AsyncByteStream):
    """The first bytes of an error's body, decompressed, however large the whole is."""

    def __init__(self, response: httpx2.Response, decodable: frozenset[str], size: int) -> None:
        self._compressed = cast("httpx2.AsyncByteStream", response.stream)
        self._response = httpx2.Response(response.status_code, headers=response.headers, stream=self._compressed)
        self._decodable = decodable
        self._size = size

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = self._size
        try:
            _check_encoding(self._response, self._decodable)
            async for chunk in self._response.aiter_bytes():
                yield chunk[:left]
                left -= len(chunk)
                if left <= 0:
                    return
        except (Unreadable, httpx2.DecodingError) as error:
            yield f"(its text cannot be read: {error})".encode()

    async def aclose(self) -> None:
        await self._compressed.aclose()


def _check_encoding(response: httpx2.Response, decodable: frozenset[str]) -> None:
    """Raises Unreadable if the body is compressed in a way that cannot be undone here; none was asked for."""
    names = [name.strip() for name in response.headers.get("content-encoding", "").lower().split(",")]
    names = [name.removeprefix("x-") for name in names if name not in ("", "identity")]
    unknown = [name for name in names if name not in decodable]
    if unknown:
        raise Unreadable(f"it is packed as {unknown[0]!r}, though it was asked for without")
    if names:
        response.headers["content-encoding"] = ", ".join(names)  # `x-gzip` is an old name of gzip


class _AioHttpClient(DefaultAioHttpClient):
    """Its sessions take larger heads than aiohttp's own, and keep no cookies: accounts share them.

    The hooks are private to httpx2 and openai, which is why pyproject.toml has an upper bound for both.
    """

    def _init_transport(self, *args: Any, **kwargs: Any) -> httpx2.AsyncBaseTransport:
        return _with_own_session(super()._init_transport(*args, **kwargs))

    def _init_proxy_transport(self, *args: Any, **kwargs: Any) -> httpx2.AsyncBaseTransport:
        return _with_own_session(super()._init_proxy_transport(*args, **kwargs))


def _with_own_session(transport: Any) -> httpx2.AsyncBaseTransport:
    def session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=_CONNECTIONS, keepalive_timeout=_KEEPALIVE, ssl=transport.ssl_context),
            cookie_jar=aiohttp.DummyCookieJar(),
            max_line_size=LARGEST_HEADER,
            max_field_size=LARGEST_HEADER,
            max_headers=MAX_HEADERS,
        )

    transport.client = session
    return cast("httpx2.AsyncBaseTransport", transport)


def http_client(*, through_proxy: bool) -> httpx2.AsyncClient:
    """A pool of connections. `through_proxy`, for https: HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE and SSL_CERT_DIR are heeded.

    Raises OSError if those certificates cannot be read.
    """
    client = _AioHttpClient(
        verify=through_proxy or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),  # the latter trusts nobody, at once
        trust_env=through_proxy,
        follow_redirects=False,
        timeout=httpx2.Timeout(None, connect=CONNECT_TIMEOUT),
        limits=httpx2.Limits(
            max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS, keepalive_expiry=_KEEPALIVE
        ),
        cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
    )
    decodable = frozenset(name.strip() for name in client.headers["accept-encoding"].split(","))

    async def check_response(response: httpx2.Response) -> None:
        if response.status_code >= httpx2.codes.MULTIPLE_CHOICES:
            response.stream = _LimitedBody(response, decodable, LARGEST_ERROR_BODY)
            response.headers.pop("content-encoding", None)
        else:
            response.headers.encoding = "latin-1"  # else it is found out from all of them
            _check_encoding(response, decodable)

    client.event_hooks = {"response": [check_response]}
    return client


class Client(AsyncOpenAI):
    """Has one request to a path built in full; all others differ from it in their bodies alone. What is built for each by the
    client takes more than half of the time of a quick call. The hook is private, as those above; openai's Azure client
    uses it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._platform = _PLATFORMS.get(sys.platform, "Unknown")  # which the client would start a process to find out
        self._first: dict[str, Any] = {}
        """The options of the first request to each path."""
        self._built: dict[str, tuple[httpx2.Request, httpx2.Headers]] = {}

    async def send(self, body: Mapping[str, Json], *, api: str) -> httpx2.Response:
        """Send the body, exactly as it is, and give the response with its body still unread; close it.

        Raises openai.APIStatusError for a status that is not 2xx, openai.APIConnectionError for none at all.
        """
        # Encoded here, and posted to the path as it stands: what is in the key is what is sent, and the client need not
        # go through a body that is right already.
        content, path = _ENCODE(dict(body)).encode(), _PATHS[api]
        how: Any = {"cast_to": httpx2.Response, "stream": True, "stream_cls": _STREAM}
        first = self._first.get(path)
        if first is None:
            response = await self.post(path, content=content, options=self._options(), **how)
        else:
            response = await self.request(options=first.model_copy(update={"content": content}), **how)
        return cast("httpx2.Response", response)  # with this cast_to it is given itself

    def _options(self) -> Any:
        # The client wants to see a missing Authorization confirmed with every request.
        without = isinstance(self.default_headers.get("Authorization"), Omit)
        return {
            "headers": {**_JSON, "Authorization": Omit()} if without else _JSON,
            "security": {"bearer_auth": True},
            "idempotency_key": "-",  # sent to nobody; without one the client draws a random one for each request
        }

    # The client looks here, anew for each request, for the other ways to prove who one is that it knows; it is given a key.

    async def _prepare_options(self, options: Any) -> Any:
        return options

    async def _prepare_request(self, request: httpx2.Request) -> None: ...

    async def _send_request(self, request: httpx2.Request, *, stream: bool, **how: Any) -> httpx2.Response:
        return await self._client.send(request, stream=stream, **how)

    custom_auth = None

    def _build_request(self, options: Any, *, retries_taken: int = 0) -> httpx2.Request:
        built = self._built.get(options.url)
        if built is None:
            request = super()._build_request(options, retries_taken=retries_taken)
            headers = request.headers.copy()
            del headers["Content-Length"]
            built = self._built[options.url] = (request, headers)
            self._first[options.url] = options
        first, headers = built
        content: bytes = options.content
        request = httpx2.Request(
            first.method, first.url, headers=headers, stream=httpx2.ByteStream(content), extensions=first.extensions
        )
        request.headers.encoding = "ascii"  # else it is found out anew
        request.headers["Content-Length"] = str(len(content))
        request.read()
        return request


def content_of(response: httpx2.Response) -> AsyncIterator[bytes]:
    """The body, in pieces as they come. What is not packed need not go through the layers that unpack."""
    return (
        response.aiter_bytes()
        if "content-encoding" in response.headers
        else cast("httpx2.AsyncByteStream", response.stream).__aiter__()
    )


def openai_client(
    http: httpx2.AsyncClient,
    *,
    base_url: str,
    api_key: str,
    headers: Mapping[str, str],
    query: Mapping[str, str],
    own_host: bool,
) -> Client:
    """The client for one server. It never retries, and takes nothing from the environment that is another's:
    OPENAI_ORG_ID and OPENAI_PROJECT_ID go to OpenAI's `own_host` only, OPENAI_CUSTOM_HEADERS nowhere."""
    custom = os.environ.get("OPENAI_CUSTOM_HEADERS", "")
    unwanted = [line.partition(":")[0].strip() for line in custom.split("\n") if ":" in line]
    unwanted += [] if own_host else ["OpenAI-Organization", "OpenAI-Project"]
    authorization = f"Bearer {api_key}" if api_key else Omit()
    given: dict[str, str | Omit] = {
        "User-Agent": f"flowllm/{__version__}",
        "Accept-Encoding": "identity",
        "Authorization": authorization,
        **headers,
    }
    written = {name.lower() for name in given}
    removed = {name: Omit() for name in unwanted if name.lower() not in written}
    return Client(
        base_url=base_url,
        api_key=api_key or "none",  # the client wants one; the header is what counts
        admin_api_key="none",
        max_retries=0,
        default_headers=cast("dict[str, str]", {**removed, **_unique(given)}),
        default_query=dict(query),
        http_client=http,
    )


def _unique(headers: Mapping[str, str | Omit]) -> dict[str, str | Omit]:
    """Of headers whose names differ by case only, the last."""
    last = {name.lower(): name for name in headers}
    return {name: headers[name] for name in last.values()}


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
