"""The server of the local page: its routes, its guard, its beginning and its end."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import re
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flowllm.core.clock import Clock
from flowllm.core.errors import FlowLLMError, RunNotFound, RunOwned, UsageError
from flowllm.language.workflow import Workflow
from flowllm.storage.base import RunRecord
from flowllm.ui import routes_actions, routes_compare, routes_graph, routes_items, routes_runs
from flowllm.ui.actions import Actions
from flowllm.ui.database import Database
from flowllm.ui.security import HEADERS, Access, Asked, Refusal, policy
from flowllm.ui.workflows import Workflows

STATIC: Final = Path(__file__).parent / "static"
_API: Final = "/api/"
_METRICS: Final = "/metrics"
_TYPES: Final = {".mjs": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_VERSION: Final = "v-"
_FOREVER: Final = "private, max-age=31536000, immutable"
_INLINE: Final = re.compile(r"<script type=\"importmap\">(.*?)</script>", re.DOTALL)
_LAST_SECOND: Final = 1
"""Seconds that answers get to end when the server is told to stop; streams end at once."""
_STYLE: Final = (
    ":root{color-scheme:light dark}body{max-width:36rem;margin:18vh auto;padding:0 1rem;font:16px/1.5 system-ui,sans-serif}"
    "h1{font-size:20px}code{font-family:ui-monospace,monospace}"
)
_PLAIN: Final = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    f"<title>flowllm</title><style>{_STYLE}</style>"
)
"""A page without anything else, for who is not let in."""
_STATUSES: Final = {RunNotFound: 404, RunOwned: 409, UsageError: 400}
_SIGN_IN: Final = Refusal(
    status=403,
    error="this page is for who started it",
    hint="Open the address that `flowllm ui` printed: it holds a token.",
)


def create_app(
    database: Database,
    access: Access,
    *,
    clock: Clock,
    workflow_of: Callable[[RunRecord], Workflow],
    actions: Actions | None = None,
    static: Path = STATIC,
) -> Starlette:
    """The page over a database. Without `actions` it only reads. `workflow_of` loads the workflow that a run has on record."""
    files = {str(one.relative_to(static)): one for one in static.rglob("*") if one.suffix in _TYPES and _is_plain(one)}

    version, contents = _contents(files)

    async def page(_request: Request) -> Response:
        nonlocal version, contents
        version, contents = await asyncio.to_thread(_contents, files)
        text = await asyncio.to_thread((static / "index.html").read_text, encoding="utf-8")
        preloads = (f'<link rel="modulepreload" href="/static/{name}">\n' for name in files if name.endswith(".mjs"))
        text = text.replace("</head>", f"{''.join(preloads)}</head>")  # all at once, not as each is found to be needed
        text = text.replace("/static/", f"/static/{_VERSION}{version}/")
        hashes = [_sha256(script) for script in _INLINE.findall(text)]
        return HTMLResponse(
            text, headers={"content-security-policy": policy(scripts=hashes), "cache-control": "no-cache"}
        )

    async def file(request: Request) -> Response:
        found = files.get(request.path_params["path"])
        if found is None:
            raise HTTPException(404, "there is no such file")
        same = request.path_params.get("version") == version
        headers = {"cache-control": _FOREVER if same else "no-cache"}
        return Response(contents[request.path_params["path"]], media_type=_TYPES[found.suffix], headers=headers)

    routes = [
        Route("/", page),
        Route(f"/static/{_VERSION}{{version}}/{{path:path}}", file),
        Route("/static/{path:path}", file),
        *routes_runs.ROUTES,
        *routes_actions.ROUTES,
        *routes_graph.ROUTES,
        *routes_items.ROUTES,
        *routes_compare.ROUTES,
    ]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Guard, access=access, database=database)],
        exception_handlers={FlowLLMError: _told, HTTPException: _told_http, Exception: _bug},
    )
    app.router.redirect_slashes = False
    app.state.database, app.state.clock, app.state.workflows = database, clock, Workflows(workflow_of)
    app.state.actions, app.state.stopping = actions, asyncio.Event()
    return app


class Guard:
    """Answers what may not be asked, and gives every answer the headers that keep it here."""

    def __init__(self, app: ASGIApp, access: Access, database: Database) -> None:
        self._app, self._access, self._database = app, access, database

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return
        guarded = _with_headers(send, api=scope["path"].startswith((_API, _METRICS)))
        answer = await self._answer(scope)
        await (self._app if answer is None else answer)(scope, receive, guarded)

    async def _answer(self, scope: Scope) -> Response | None:
        """What is answered here; None: the request goes on, with the store at hand."""
        headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        asked = Asked(method=scope["method"], path=scope.get("raw_path", b"").decode("latin-1"), headers=headers)
        if refusal := self._access.refusal(asked):
            return _refused(refusal, asked)
        if asked.path == "/" and "token" in (query := Request(scope).query_params):
            return self._signed_in(query["token"], asked)
        if not self._access.admits(asked) and not (asked.path == _METRICS and self._access.bears(asked)):
            return _refused(_SIGN_IN, asked)
        if asked.path.startswith((_API, _METRICS)):
            try:
                scope["app"].state.store = await self._database.store()
            except FlowLLMError as error:
                return _error(503, error.message, error.hint)
        return None

    def _signed_in(self, token: str, asked: Asked) -> Response:
        cookie = self._access.session_for(token)
        if cookie is None:
            return _refused(_SIGN_IN, asked)
        return RedirectResponse("/", status_code=303, headers={"set-cookie": cookie, "cache-control": "no-store"})


def _with_headers(send: Send, *, api: bool) -> Send:
    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = {name.lower() for name, _ in message["headers"]}
            more = {**HEADERS, "content-security-policy": policy()} | ({"cache-control": "no-store"} if api else {})
            added = [(name.encode(), value.encode()) for name, value in more.items() if name.encode() not in given]
            message = {**message, "headers": [*message["headers"], *added]}
        await send(message)

    return guarded


def _refused(refusal: Refusal, asked: Asked) -> Response:
    """In words that a person reads, where a person asks."""
    if asked.path != "/":
        return _error(refusal.status, refusal.error, refusal.hint)
    title = refusal.error[:1].upper() + refusal.error[1:]
    hint = re.sub("`(.*?)`", r"<code>\1</code>", refusal.hint)
    headers = {"content-security-policy": policy(styles=[_sha256(_STYLE)])}
    return HTMLResponse(f"{_PLAIN}<h1>{title}.</h1><p>{hint}</p>", refusal.status, headers)


def _error(status: int, error: str, hint: str = "") -> Response:
    return JSONResponse({"error": error, "hint": hint}, status)


async def _told(_request: Request, error: Any) -> Response:
    status = next((status for kind, status in _STATUSES.items() if isinstance(error, kind)), 503)
    return _error(status, error.message, error.hint)


async def _told_http(_request: Request, error: Any) -> Response:
    return _error(error.status_code, str(error.detail))


async def _bug(_request: Request, error: Exception) -> Response:
    return _error(500, f"this is a bug of flowllm, please report it: {type(error).__name__}")


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _contents(files: Mapping[str, Path]) -> tuple[str, dict[str, bytes]]:
    """What is in files, and the version of all: another one as soon as a file is another, so that a browser asks for each
    version of a file once."""
    contents = {name: path.read_bytes() for name, path in sorted(files.items())}
    made = hashlib.sha256()
    for name, content in contents.items():
        made.update(f"{name}\n".encode() + content)
    return made.hexdigest()[:16], contents


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the command line's."""
        yield


async def serve(app: Starlette, listener: socket.socket, *, stop: Callable[[], Awaitable[object]]) -> None:
    """Answer on that socket until `stop` returns; then open streams are ended, and answers get a second."""
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=_LAST_SECOND,
    )
    server = _Server(config)

    async def end() -> None:
        await stop()
        app.state.stopping.set()
        app.state.database.wake()
        server.should_exit = True

    ending = asyncio.ensure_future(end())
    try:
        await server.serve(sockets=[listener])
    finally:
        ending.cancel()
        await app.state.database.close()
