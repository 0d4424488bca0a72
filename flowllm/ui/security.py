"""Who may ask: this machine's user alone, with the token, from the page itself.

A page on another site can make a browser send requests to 127.0.0.1, under a name of its own too (DNS rebinding); so what is
checked is the Host (RFC 9112, 3.2: exactly one), where the request comes from (Origin; Sec-Fetch-Site of W3C Fetch Metadata), and a
cookie that only the address with the token gives.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Mapping, Sequence
from http.cookies import CookieError, SimpleCookie
from typing import Final

from flowllm.core.errors import UsageError
from flowllm.core.records import dataclass

_PATH: Final = re.compile(r"/(?:[A-Za-z0-9_~-][A-Za-z0-9._~-]*(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*/?)?")
"""No percent signs, no empty part, none that begins with a point. Ids of nodes stand in queries."""
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{22,200}")
"""128 bits at least, if it is random."""
_FROM_HERE: Final = {"same-origin", "none"}
_READS: Final = {"GET", "HEAD"}
_METHODS: Final = {*_READS, "POST"}
_LOCALHOST: Final = {"127.0.0.1", "::1"}

HEADERS: Final = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
}
"""Of every answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a request is not answered, as an HTTP status and in words."""

    status: int
    error: str
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What of a request decides. Names of headers are lower case."""

    method: str
    path: str
    """As it was sent, without the query."""
    headers: Sequence[tuple[str, str]]

    def all(self, name: str) -> list[str]:
        """All values of a header."""
        return [value for key, value in self.headers if key == name]


class Access:
    """The secrets of one server, and what it asks of a request."""

    def __init__(self, port: int, *, host: str = "127.0.0.1", token: str | None = None) -> None:
        """`host`: the address that is listened on; `token`: in place of one that nobody knows yet. Raises UsageError for one
        that could be guessed."""
        if token is not None and _TOKEN.fullmatch(token) is None:
            raise UsageError(
                "FLOWLLM_UI_TOKEN must have 22 characters or more, of letters, digits, - and _",
                hint='python -c "import secrets; print(secrets.token_urlsafe(32))" makes one',
            )
        self.token = token or secrets.token_urlsafe(32)
        """In the address that is printed."""
        self._once = secrets.token_urlsafe(32)
        self._session = hmac.digest(self.token.encode(), b"session", "sha256").hex()
        """Of a token that is given it outlives the process: an open page goes on when the next one is started."""
        self.cookie = f"flowllm-{port}"
        """Cookies belong to a host with all its ports."""
        names = {host, "localhost"} if host in _LOCALHOST else {host}
        self._hosts = {f"[{name}]:{port}" if ":" in name else f"{name}:{port}" for name in names}

    @property
    def once(self) -> str:
        """A token for one use: the command line of the browser that is opened can be read by others."""
        return self._once

    def refusal(self, asked: Asked) -> Refusal | None:
        """What is wrong with a request, whoever sends it."""
        hosts = asked.all("host")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return Refusal(status=403, error="this page is served to this machine under its own name alone", hint=_HOST)
        if _PATH.fullmatch(asked.path) is None:
            return Refusal(status=400, error="this is no path of the page")
        if asked.method not in _METHODS:
            return Refusal(status=405, error=f"the method {asked.method} is not used here")
        return self._elsewhere(asked, hosts[0].lower())

    def _elsewhere(self, asked: Asked, host: str) -> Refusal | None:
        """Whether another site has made the browser ask."""
        origins, sites = asked.all("origin"), asked.all("sec-fetch-site")
        if any(origin.lower() != f"http://{host}" for origin in origins) or any(
            site not in _FROM_HERE for site in sites
        ):
            return Refusal(status=403, error="another page asked for this", hint=_BY_HAND)
        if asked.method in _READS:
            return None
        if not origins and "same-origin" not in sites:
            return Refusal(status=403, error="only the page itself may change something")
        if [kind.partition(";")[0].strip().lower() for kind in asked.all("content-type")] != ["application/json"]:
            return Refusal(status=415, error="what is sent must be application/json")
        return None

    def admits(self, asked: Asked) -> bool:
        """Whether it comes with the cookie."""
        try:
            found = SimpleCookie("; ".join(asked.all("cookie"))).get(self.cookie)
        except CookieError:
            return False
        return found is not None and _equal(found.value, self._session)

    def bears(self, asked: Asked) -> bool:
        """Whether it comes with the token itself, as a program that gathers figures has it."""
        return any(_equal(value, f"Bearer {self.token}") for value in asked.all("authorization"))

    def session_for(self, token: str) -> str | None:
        """The `Set-Cookie` that a token is exchanged for."""
        if not _equal(token, self.token):
            if not self._once or not _equal(token, self._once):
                return None
            self._once = ""
        return f"{self.cookie}={self._session}; HttpOnly; SameSite=Strict; Path=/"


def policy(*, scripts: Sequence[str] = (), styles: Sequence[str] = ()) -> str:
    """The Content-Security-Policy: scripts and styles of this server alone, and those that stand in the page by their hashes."""
    rules: Mapping[str, str] = {
        "default-src": "'none'",
        "script-src": _sources(scripts),
        "style-src": _sources(styles),
        "img-src": "'self' data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _sources(hashes: Sequence[str]) -> str:
    return " ".join(["'self'", *(f"'sha256-{one}'" for one in hashes)])


def _equal(one: str, other: str) -> bool:
    return secrets.compare_digest(one.encode(), other.encode())


_HOST: Final = "Open the address that `flowllm ui` printed. Through a tunnel, use the same port on both sides."
_BY_HAND: Final = "Copy the address that `flowllm ui` printed into the browser's address bar."
