"""What it costs a run that somebody looks at it: on its terminal, by `flowllm watch`, or on the page, in a real browser."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from tests.benchmarks.harness import FLOWLLM, LIMIT, Figure, Scale, alternately, ratio, seconds
from tests.support.browser import FLAGS, Server, chromium
from tests.support.project import Project, until

if TYPE_CHECKING:
    from playwright.sync_api import Page

BAR = 1.05
_MANY = {
    "name": "many",
    "defaults": {"provider": "quick", "model": "m", "max_tokens": 20},
    "providers": {"quick": {"type": "simulated", "latency": "0ms", "limits": {"max_concurrent": 100}}},
}


def seen(scale: Scale) -> list[Figure]:
    """Whole processes of a run of quick items, with nobody looking and with somebody."""
    path = chromium()
    if path is None:
        return [Figure(what="all of it", value=None, note="there is no chromium on the PATH")]
    from playwright.sync_api import sync_playwright

    count = scale.of(10_000, 2_000)
    project = Project(scale.folder)
    project.write(
        "many.yaml", {**_MANY, "steps": {"many": {"foreach": list(range(count)), "prompt": "Rate {{ item }}"}}}
    )
    server = Server(project)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.goto(server.address)
            sides: dict[str, Callable[[], float]] = {
                "nobody": lambda: _quiet(project),
                "a terminal": lambda: _on_a_terminal(project),
                "`watch`": lambda: _quiet(project, lambda run: _watching(project, run)),
                "the page": lambda: _quiet(project, lambda run: _page(page, f"{server.origin}/#/runs/{run}")),
            }
            nobody, *looked = alternately(
                scale.runs * 2 + 1, *((lambda _, side=side: side()) for side in sides.values())
            )
            browser.close()
    finally:
        server.close()
    return [
        Figure(what=f"{name}, of nobody looking", value=ratio(took, nobody), bar=BAR, note=seconds(took, nobody))
        for name, took in zip(list(sides)[1:], looked, strict=True)
    ]


def _quiet(project: Project, looking: Callable[[str], contextlib.AbstractContextManager[None]] | None = None) -> float:
    """Seconds of a run that shows nothing; from when it is on record until its end somebody may look."""
    known = len(project.run_ids())
    began = time.perf_counter()
    with _process(project, "run", "many.yaml", "--no-cache", "--quiet", out=subprocess.DEVNULL) as process:
        if looking is None:
            return _ended(process, began)
        until(lambda: len(project.run_ids()) > known, "the run")
        with looking(project.run_ids()[-1]):
            return _ended(process, began)


def _on_a_terminal(project: Project) -> float:
    began = time.perf_counter()
    with _terminal() as end, _process(project, "run", "many.yaml", "--no-cache", out=end) as process:
        return _ended(process, began)


@contextlib.contextmanager
def _watching(project: Project, run: str) -> Iterator[None]:
    with _terminal() as end, _process(project, "watch", run, out=end):
        yield


@contextlib.contextmanager
def _page(page: Page, address: str) -> Iterator[None]:
    page.goto(address)
    yield
    page.get_by_text("succeeded").first.wait_for()


@contextlib.contextmanager
def _process(project: Project, *words: str, out: int) -> Iterator[subprocess.Popen[bytes]]:
    command, kept = [str(FLOWLLM), *words], {**project.environ, "TERM": "xterm-256color"}
    with subprocess.Popen(
        command, cwd=project.folder, env=kept, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=out
    ) as process:
        yield process


def _ended(process: subprocess.Popen[bytes], began: float) -> float:
    assert process.wait(LIMIT) == 0
    return time.perf_counter() - began


@contextlib.contextmanager
def _terminal() -> Iterator[int]:
    """An end to write to, and somebody who reads at the other."""
    ours, theirs = pty.openpty()

    def read() -> None:
        with contextlib.suppress(OSError):
            while os.read(ours, 65536):
                pass

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield theirs
    finally:
        os.close(theirs)
        reader.join()
        os.close(ours)
