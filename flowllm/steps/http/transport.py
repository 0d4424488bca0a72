"""How requests of `http` steps go out: redirects, and the judgement of every address that is connected to."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from flowllm import __version__
from flowllm.core.errors import HttpFailed, TemplateFailed
from flowllm.core.records import dataclass
from flowllm.core.redact import without_passwords
from flowllm.core.types import Json
from flowllm.steps.http.answer import read_answer

if TYPE_CHECKING:
    import aiohttp
    from aiohttp.abc import AbstractResolver

_NAT64: Final = IPv6Network("64:ff9b::/96")
_PRIVATE: Final = tuple(map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")))
_SHARED: Final = IPv4Network("100.64.0.0/10")
_CLOSED: Final = tuple(map(IPv4Network, ("192.0.0.0/24", "192.88.99.0/24"))) + tuple(
    map(IPv6Network, ("fec0::/10", "64:ff9b:1::/48", "2001::/23", "3fff::/20", "5f00::/16"))
)
"""Special ranges of IANA's registries that the standard library, at least of some versions, takes for public."""


def is_public(address: str) -> bool:
    """Whether an address is one of the open internet: not private, loopback, link-local, multicast, shared (carrier
    NAT), reserved, a tunnel's or unspecified; nor an IPv6 form of an IPv4 address that is. False for what is no
    address in its usual spelling."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    inner = _embedded(found) if isinstance(found, IPv6Address) else None
    return _open(found if inner is None else inner)


def described(address: str) -> str:
    """What kind of address it is, for a sentence: `a loopback address`."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return "no address in its usual spelling"
    inner = _embedded(found) if isinstance(found, IPv6Address) else None
    if inner is not None:
        return f"it stands for {inner}, {described(str(inner))}"
    return f"{next((kind for kind, holds in _kinds(found) if holds), 'a reserved')} address"


def _kinds(address: IPv4Address | IPv6Address) -> Iterator[tuple[str, bool]]:
    yield "an unspecified", address.is_unspecified
    yield "a loopback", address.is_loopback
    yield "a link-local", address.is_link_local
    yield "a multicast", address.is_multicast
    yield "a private", any(address.version == network.version and address in network for network in _PRIVATE)
    yield "a shared (carrier NAT)", address.version == _SHARED.version and address in _SHARED


def _open(address: IPv4Address | IPv6Address) -> bool:
    return (
        address.is_global
        and not (address.is_multicast or address.is_reserved or address.is_unspecified)
        and not any(address.version == network.version and address in network for network in _CLOSED)
    )


def _embedded(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that an IPv6 address stands for: mapped, 6to4, or translated (NAT64)."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    return IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else None


MOST_REQUESTS = 64
"""At the same time."""
MOST_REDIRECTS = 5
LARGEST_HEADER = 128 * 1024
"""Bytes of one header, or of a status line, of an answer."""
MOST_HEADERS = 512
_SHOWN: Final = 200
"""Characters of a URL in an error."""
_HOLDS_USER: Final = "holds a user or a password"
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_SAFE: Final = frozenset({"GET", "HEAD"})


class Blocked(OSError):
    """The address is not a public one."""

    def __init__(self, address: str) -> None:
        super().__init__(f"{address} is not a public address")
        self.address = address
        self.through = ""
        """The URL of the redirect that led there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What goes out, with the real secrets in it: never stored."""

    method: str
    url: str
    headers: Mapping[str, str]
    query: tuple[tuple[str, str], ...]
    body: bytes | None
    allow_private: bool


class Wire:
    """The connections of one run; `close` it."""

    def __init__(self, *, resolver: AbstractResolver | None = None, public: Callable[[str], bool] = is_public) -> None:
        """`resolver` finds the addresses of names, by default as the system does; `public` judges an address."""
        self._resolver = resolver
        self._public = public
        self._sessions: dict[tuple[bool, bool], aiohttp.ClientSession] = {}

    async def send(self, request: Request, *, shown: str, mask: Callable[[str], str], now: Callable[[], float]) -> Json:
        """The answer as a value; `shown`, `mask` and `now` as for `read_answer`. Raises HttpFailed, and aiohttp's
        errors."""
        url, headers, query, body = request.url, request.headers, request.query, request.body
        session = self._session(allow_private=request.allow_private, safe=request.method in _SAFE)
        for _ in range(MOST_REDIRECTS + 1):
            going = session.request(
                request.method, url, headers=headers, params=list(query) or None, data=body, allow_redirects=False
            )
            async with _naming_redirect(url if url != request.url else "", mask), going as response:
                target = response.headers.get("Location")
                if response.status not in _REDIRECTS or target is None or request.method not in _SAFE:
                    return await read_answer(response, shown, mask, now())
                before, url, query = url, _redirected(response, target, shown, mask), ()
                if _origin(before) != _origin(url):
                    headers, body = {}, None  # they were meant for the first server
        raise HttpFailed(f"{shown}: more than {MOST_REDIRECTS} redirects")

    async def close(self) -> None:
        """Give back the connections."""
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            await session.close()

    def _session(self, *, allow_private: bool, safe: bool) -> aiohttp.ClientSession:
        # aiohttp takes a tenth of a second to import, which a run without such a step should not pay
        import aiohttp  # noqa: PLC0415

        if (allow_private, safe) not in self._sessions:
            connector = aiohttp.TCPConnector(
                limit=MOST_REQUESTS,
                use_dns_cache=False,
                resolver=self._resolver,
                socket_factory=None if allow_private else self._public_socket,
                force_close=not safe,  # on one that was kept open it is not known whether the request arrived
            )
            self._sessions[allow_private, safe] = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
                trust_env=False,
                headers={"User-Agent": f"flowllm/{__version__}"},
                middlewares=(_just_once,),
                max_line_size=LARGEST_HEADER,
                max_field_size=LARGEST_HEADER,
                max_headers=MOST_HEADERS,
            )
        return self._sessions[allow_private, safe]

    def _public_socket(self, info: Any) -> socket.socket:
        """A socket for an address that a connection is about to be made to. Raises Blocked."""
        family, kind, protocol, _, address = info
        if not self._public(str(address[0])):
            raise Blocked(str(address[0]))
        return socket.socket(family=family, type=kind, proto=protocol)


@contextlib.asynccontextmanager
async def _naming_redirect(through: str, mask: Callable[[str], str]) -> AsyncIterator[None]:
    """An address that is refused meanwhile is that of a redirect."""
    try:
        yield
    except Exception as error:
        refused = blocked(error)
        if refused is not None:
            refused.through = mask(through)[:_SHOWN]
        raise


async def _just_once(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Keep aiohttp from sending a GET, PUT or DELETE again by itself, which it does for two kinds of errors."""
    import aiohttp  # noqa: PLC0415 - as above

    try:
        return await send(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise aiohttp.ClientConnectionError(describe_error(error)) from error


def blocked(error: BaseException | None) -> Blocked | None:
    """The refusal that an error comes of, however it was wrapped."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, Blocked):
            return one
        waiting += [one.__cause__, one.__context__, getattr(one, "os_error", None)]
        waiting += getattr(one, "exceptions", ())
    return None


def describe_error(error: BaseException) -> str:
    """What went wrong on the way, for people."""
    import aiohttp  # noqa: PLC0415 - as above

    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"there is no host {error.host}, or it could not be looked up"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"the server's certificate is not valid: {error.certificate_error}"
    if isinstance(error, aiohttp.ClientConnectorError):
        known = error.os_error.errno
        return f"no connection: {os.strerror(known) if known and known > 0 else error.os_error}"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the server closed the connection without an answer"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the answer broke off, or is not packed as it says"
    return str(error) or type(error).__name__


def checked_url(url: str, mask: Callable[[str], str] = str) -> str:
    """A URL that can be asked; `mask` takes the secrets out of what errors say of it. Raises TemplateFailed."""
    url = url.strip()
    shown, fault = repr(mask(url))[:_SHOWN], _fault(url, mask)
    if fault is not None:
        what, hint = fault
        gives = "`url`" if what == _HOLDS_USER else f"`url` gives {shown}, which"
        raise TemplateFailed(f"{gives} {what}", hint=hint)
    return url


def _fault(url: str, mask: Callable[[str], str]) -> tuple[str, str] | None:
    """What is wrong with a URL, and what to do; None if nothing is."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
        _ = parts.port
        url.encode()
    except ValueError as error:
        return f"is not an address: {mask(str(error))}", ""
    if parts.scheme not in {"http", "https"} or not host:
        known = parts.scheme in {"http", "https"}
        return ("names no host" if known else "does not begin with https:// or http://", "write https://host/path")
    if any(c.isspace() or c < " " for c in url):
        return "has white space in it", "give values by `query`, or write `| urlencode` behind them"
    if parts.username is not None or parts.password is not None:
        return _HOLDS_USER, "put it into `headers`: Authorization: {{ secrets.NAME }}"
    if _odd_number(host):
        return ("has a host that is a number in an unusual form", "write an IPv4 address as four numbers from 0 to 255")
    return None


def _odd_number(host: str) -> bool:
    """A host that some programs read as an IPv4 address, such as 127.1, 0177.0.0.1 or 2130706433, and others do not.

    WHATWG URL Standard, section 3.5, "ends in a number".
    """
    last = host.removesuffix(".").rpartition(".")[2]
    if ":" in host or not (last.isdecimal() or last.startswith("0x")):
        return False
    try:
        IPv4Address(host)
    except ValueError:
        return True
    return False


def _redirected(response: aiohttp.ClientResponse, target: str, shown: str, mask: Callable[[str], str]) -> str:
    try:
        url = str(response.url.join(type(response.url)(target)))
        fault = _fault(url, mask)
    except ValueError as error:
        url, fault = "", (f"is not an address: {mask(str(error))}", "")
    if fault is not None:
        where = mask(without_passwords(target))[:_SHOWN]
        raise HttpFailed(f"{shown} redirects to {where!r}, which is not followed: it {fault[0]}")
    return url.strip()


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port
