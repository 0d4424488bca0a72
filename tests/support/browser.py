"""A real browser before the real page: one for all tests of a process, and what must hold wherever it is led."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from axe_playwright_python.base import AXE_SCRIPT

from tests.support.project import HANG, Project

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--mute-audio"),
)
DESK, PHONE = (1280, 800), (375, 740)
SERIOUS = {"serious", "critical"}
WATCH = """
window.shifts = 0;
window.policies = [];
document.addEventListener("securitypolicyviolation", (event) => policies.push(`${event.violatedDirective} ${event.blockedURI}`));
"""


def chromium() -> str | None:
    """The browser of this machine."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Server:
    """A `flowllm ui` process over a project's database."""

    def __init__(self, project: Project, *words: str) -> None:
        self.process = project.start("ui", "--port", "0", "--no-open", *words)
        self.address = self.process.stdout.readline().strip()
        assert self.address.startswith("http://127.0.0.1:"), project.finish(self.process).said
        self.origin = "http://" + urlsplit(self.address).netloc

    def close(self) -> None:
        self.process.terminate()
        self.process.communicate(timeout=HANG)


class Visit:
    """A page in a context of its own, signed in. It keeps what went wrong: see `check`."""

    def __init__(self, page: Page, server: Server) -> None:
        self.page, self.origin = page, server.origin
        self.wrong: list[str] = []
        self.asks_in_vain = False
        """What is asked for is not there on purpose: the browser itself tells of it on the console."""
        page.set_default_timeout(HANG * 1000)
        page.add_init_script(WATCH)
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.wrong.append(f"script: {error.stack}"))
        page.on("dialog", lambda dialog: (self.wrong.append("a script ran"), dialog.dismiss()))
        page.on("request", self._requested)
        page.goto(server.address)

    def _said(self, message: Any) -> None:
        in_vain = self.asks_in_vain and message.text.startswith("Failed to load resource")
        if message.type in {"error", "warning"} and not in_vain:
            self.wrong.append(f"console: {message.text}")

    def _requested(self, request: Any) -> None:
        if not request.url.startswith((self.origin, "data:", "blob:")):
            self.wrong.append(f"request to {request.url}")

    def go(self, *path: str, **query: str) -> Visit:
        """To a place of the page: `go("runs", id, view="items")`."""
        text = "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items())
        self.page.goto(f"{self.origin}/#/{'/'.join(quote(part, safe='') for part in path)}{'?' + text if text else ''}")
        return self

    def look(self, *, size: tuple[int, int], dark: bool) -> None:
        """At that size, in those colours."""
        self.page.set_viewport_size({"width": size[0], "height": size[1]})
        self.page.emulate_media(color_scheme="dark" if dark else "light", reduced_motion="reduce")

    def see(self, text: str) -> None:
        """Wait until that text is seen."""
        self.page.get_by_text(text).filter(visible=True).first.wait_for()

    def check(self, what: str = "", *, axe: bool = True, rules: Sequence[str] = ()) -> None:
        """Nothing went wrong so far, no part is wider than the screen, and axe finds no serious violation, of these rules if any are named."""
        wide = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        policies = self.page.evaluate("window.policies")
        assert (self.wrong, policies, wide) == ([], [], 0), f"{what}: {self.wrong} {policies}, {wide} px too wide"
        if axe:
            assert violations(self.page, *rules) == [], what


def once(page: Page, expression: str) -> Any:
    """What it gives in the page in the first frame in which that is true. The page's policy forbids `wait_for_function`."""
    looks = f"const look = () => {{ const found = ({expression}); if (found) done(found); else requestAnimationFrame(look); }}"
    return page.evaluate(f"new Promise((done) => {{ {looks}; look(); }})")


def violations(page: Page, *rules: str) -> list[str]:
    """What axe-core finds that is serious or critical, of all rules or of some: rule, element, what is wrong."""
    if not page.evaluate("typeof axe === 'object'"):
        page.evaluate(AXE_SCRIPT)
    options = {"resultTypes": ["violations"]} | ({"runOnly": list(rules)} if rules else {})
    found = page.evaluate("(options) => axe.run(document, options).then(({violations}) => violations)", options)
    return [
        f"{one['id']}: {node['target']} {node['failureSummary'][:300]}"
        for one in found
        if one["impact"] in SERIOUS
        for node in one["nodes"][:3]
    ]


@contextmanager
def visit(browser: Browser, server: Server, *, size: tuple[int, int] = DESK, dark: bool = False) -> Iterator[Visit]:
    """A page of that size and colours, closed at the end, when all must have gone well."""
    context = browser.new_context()
    try:
        found = Visit(context.new_page(), server)
        found.look(size=size, dark=dark)
        yield found
        found.check(axe=False)
    finally:
        context.close()
