"""Who is answered: nobody but the page itself, on every route and method."""

from __future__ import annotations

import asyncio
import re
import shutil
from itertools import product
from pathlib import Path

import pytest
from starlette.routing import Route

from flowllm.core.errors import UsageError
from flowllm.ui.security import Access
from flowllm.ui.server import STATIC
from tests.support.page import Page, page_of

pytestmark = pytest.mark.anyio
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE")
TRIED = ("/", "/api/runs")
"""Paths on which everybody is refused; on the others a few of each kind."""


def paths(page: Page) -> list[str]:
    """Every route, with something in its place for what varies."""
    routes = [route for route in page.app.routes if isinstance(route, Route)]
    examples = {"{path:path}": "app.mjs", "{run_id}": "RUN", "{version}": "0"}
    return [re.sub(r"{[^}]*}", lambda name: examples[name[0]], route.path) for route in routes]


async def refused(page: Page, method: str, path: str, *headers: str, host: str | None = "") -> None:
    answer = await page.ask(method, path, *headers, host=host)
    assert answer.status in {400, 403, 404, 405, 415}, (method, path, headers, host, answer)
    assert not answer.header("set-cookie"), path
    assert b"RUN" not in answer.body, path


async def test_every_route_and_method_refuses_who_is_not_the_page(tmp_path: Path) -> None:
    async with page_of(tmp_path / "x.db") as page:
        cookie, mine = f"Cookie: {page.cookie}", f"http://{page.host}"
        json_type = "Content-Type: application/json"
        strangers: list[tuple[tuple[str, ...], str | None]] = [
            ((), ""),
            ((cookie,), "evil.example"),
            ((cookie, f"Host: {page.host}"), ""),
            ((cookie, "Origin: https://evil.example", json_type), ""),
            ((cookie, "Sec-Fetch-Site: cross-site", json_type), ""),
            ((f"Cookie: flowllm-{page.port}=guessed",), ""),
            ((f"Cookie: {page.cookie[:-1]}",), ""),
            (("Cookie: ;;=\x01",), ""),
            ((f"Authorization: Bearer {page.access.token}x",), ""),
            ((cookie,), f"evil.example:{page.port}"),
            ((cookie,), "127.0.0.1"),
            ((cookie,), f"127.0.0.1:{page.port + 1}"),
            ((cookie,), f"127.0.0.1.evil.example:{page.port}"),
            ((cookie,), f"0.0.0.0:{page.port}"),
            ((cookie,), f"127.0.0.2:{page.port}"),
            ((cookie,), None),
            ((cookie, "Host: evil.example"), ""),
            ((cookie, "Origin: null", json_type), ""),
            ((cookie, f"Origin: {mine}.evil.example", json_type), ""),
            ((cookie, f"Origin: {mine}", "Origin: https://evil.example", json_type), ""),
            ((cookie, "Sec-Fetch-Site: same-site", json_type), ""),
        ]
        asked = [
            refused(page, method, path, *headers, host=host)
            for method, path in product(METHODS, paths(page))
            for headers, host in (strangers if path in TRIED else strangers[:5])
        ]
        for at in range(0, len(asked), 50):
            await asyncio.gather(*asked[at : at + 50])
        for path in paths(page):  # as a form of another site sends it, or a script without a preflight
            for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
                headers = (cookie, f"Origin: {mine}", *([f"Content-Type: {kind}"] if kind else []))
                assert (await page.ask("POST", path, *headers)).status in {405, 415}, (path, kind)
            assert (await page.ask("POST", path, cookie, json_type)).status in {403, 405}, path


async def test_paths_that_lead_elsewhere_are_refused(tmp_path: Path) -> None:
    static = tmp_path / "static"
    shutil.copytree(STATIC, static)
    secret = tmp_path / "secret.css"
    secret.write_text("SECRET")
    (static / "link.css").symlink_to(secret)
    (static / "folder").symlink_to(tmp_path)
    (static / "notes.txt").write_text("SECRET")
    async with page_of(tmp_path / "x.db", static=static) as page:
        assert (await page.get("/static/tokens.css")).header("cache-control") == "no-cache"
        first = re.search(r"/static/v-\w+/", (await page.get("/")).body.decode())[0]
        kept = await page.get(f"{first}tokens.css")
        assert (kept.status, "immutable" in kept.header("cache-control")) == (200, True)
        (static / "app.mjs").write_text("1")  # a file is another, so all of them have new names
        assert first not in (await page.get("/")).body.decode()
        assert (await page.get(f"{first}tokens.css")).header("cache-control") == "no-cache"
        assert (await page.get(f"{first}../secret.css")).status == 400
        for path in (
            *(
                "/static/../secret.css",
                "/static/%2e%2e/secret.css",
                "/static/..%2fsecret.css",
                "/static/%2E%2E%2Fsecret.css",
            ),
            *(
                "/static/..%5csecret.css",
                "/static/..\\secret.css",
                "//etc/passwd",
                "/static//etc/passwd",
                "/static/%2Fetc/passwd",
            ),
            *("/static/link.css", "/static/folder/secret.css", "/static/notes.txt", "/static/index.html", "/static/"),
            *(
                "/static/./tokens.css",
                "/static/tokens.css/",
                "/static/tokens.css%00",
                "/%61pi/runs",
                "/api/runs/%2e%2e",
            ),
            *(
                f"/static/{tmp_path}/secret.css",
                "http://evil.example/",
                "*",
                "/static/.hidden",
                "/api/runs/..",
                "/static/~root",
            ),
        ):
            answer = await page.get(path)
            assert answer.status in {400, 403, 404}, (path, answer)
            assert b"SECRET" not in answer.body


async def test_the_token_is_exchanged_for_a_cookie_of_this_server(tmp_path: Path) -> None:
    async with page_of(tmp_path / "x.db") as page:
        for wrong in ("", "x", page.access.token + "x", page.access.token[:-1], "%00", "é"):
            assert (await page.ask("GET", f"/?token={wrong}")).status in {400, 403}, wrong
        once = page.access.once
        for token, status in ((page.access.token, 303), (once, 303), (once, 403), (page.access.token, 303)):
            answer = await page.ask("GET", f"/?token={token}")
            assert answer.status == status
        assert answer.header("location") == "/"
        cookie = answer.header("set-cookie")
        assert cookie.startswith(f"flowllm-{page.port}=")
        assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
        assert page.access.token not in cookie
        assert (await page.ask("GET", "/", "Cookie: a=b", f"Cookie: {cookie.partition(';')[0]}")).status == 200
        assert (await page.ask("GET", "/", f"Cookie: {page.cookie}", host=f"localhost:{page.port}")).status == 200
        with pytest.raises(UsageError, match="22 characters"):
            Access(1, token="guess me")
        assert Access(1, token="x" * 22).token == "x" * 22
        stranger = await page.ask("GET", "/")
        assert stranger.status == 403
        assert b"printed" in stranger.body


@pytest.mark.parametrize("path", ["/", "/static/app.mjs", "/api/runs", "/api/runs/NONE", "/nowhere"])
async def test_every_answer_keeps_the_page_to_itself(tmp_path: Path, path: str) -> None:
    async with page_of(tmp_path / "x.db") as page:
        for answer in (await page.get(path), await page.ask("GET", path)):
            assert answer.header("x-content-type-options") == "nosniff"
            assert answer.header("referrer-policy") == "no-referrer"
            csp = answer.header("content-security-policy")
            assert "default-src 'none'" in csp
            assert "frame-ancestors 'none'" in csp
            assert "unsafe" not in csp
            assert not answer.header("access-control-allow-origin")
            assert "server" not in dict(answer.headers)
            if path.startswith("/api"):
                assert answer.header("cache-control") == "no-store"
