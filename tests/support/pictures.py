"""The pictures of the README and of docs/, of real runs on the simulated provider: python -m tests.support.pictures

Needs chromium. What it writes differs a little each time, as runs do.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pyte
from playwright.sync_api import sync_playwright
from rich.console import Console
from rich.text import Text

from tests.support.browser import FLAGS, Server, chromium
from tests.support.project import ROOT, Project, killed_at_exit, until

if TYPE_CHECKING:
    from playwright.sync_api import Browser

TO = ROOT / "docs" / "pictures"
SIZE = {"width": 1280, "height": 800}
COLUMNS, ROWS = 100, 18
SETTINGS = {
    "providers": {
        "demo": {"type": "simulated", "latency": "1500ms", "latency_sigma": 0.5},
        "quick": {"type": "simulated", "latency": "60ms", "latency_sigma": 0.4},
    }
}
TICKETS = {
    "name": "tickets",
    "defaults": {"provider": "quick", "model": "gpt-4o-mini", "max_tokens": 40},
    "limits": {"max_concurrent": 200},
    "steps": {
        "read": {
            "foreach": {"file": "tickets.csv"},
            "as": "ticket",
            "python": "./tickets.py:read",
            "with": {"text": "{{ ticket.text }}"},
            "on_error": "continue",
            "max_failed": "20%",
        },
        "variants": {
            "foreach": {
                "matrix": {
                    "tone": ["warm", "brief", "formal"],
                    "topic": ["a late parcel", "a wrong size", "a broken lamp"],
                }
            },
            "prompt": "Answer a customer who wrote of {{ item.topic }}, in a {{ item.tone }} tone.",
        },
    },
}
ANSWERS = {
    "name": "answers",
    "defaults": {"provider": "quick", "model": "gpt-4o-mini", "max_tokens": 60},
    "limits": {"max_concurrent": 20, "requests_per_minute": 6000},
    "steps": {
        "style": {"prompt": "How do we write to customers?"},
        "answer": {
            "foreach": {"file": "tickets.csv"},
            "as": "ticket",
            "prompt": "{{ style }} Answer this customer: {{ ticket.text }}",
        },
        "summary": {"prompt": "What did {{ answer | length }} customers write of?"},
    },
}
FUNCTION = '''
def read(text):
    """The order that a ticket is about."""
    words = text.split()
    order = next((word for word in words if word.startswith("#")), None)
    if order is None:
        raise ValueError(f"no order in {text!r}")
    return {"order": order, "words": len(words)}
'''


def main() -> None:
    """All of them."""
    shutil.rmtree(TO, ignore_errors=True)
    TO.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as folder:
        project = _project(Path(folder))
        _terminal(project, "terminal.svg", "run", "answers.yaml")
        tickets = json.loads(project.run("run", "tickets.yaml", "--json").out)["run_id"]
        blog = json.loads(
            project.run("run", "workflows/blog_full.yaml", "--provider", "demo", "--no-cache", "--json").out
        )
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium(), args=list(FLAGS))
            server = Server(project)
            try:
                _page(browser, server, project, tickets)
            finally:
                server.close()
            _report(browser, project, blog["run_id"])
            browser.close()
    for picture in sorted(TO.iterdir()):
        print(f"{picture.relative_to(ROOT)}  {picture.stat().st_size // 1000} kB")


def _project(folder: Path) -> Project:
    project = Project(folder)
    project.environ |= {"TERM": "xterm-256color", "COLORTERM": "truecolor", "TZ": "UTC"}
    shutil.copytree(ROOT / "workflows", folder / "workflows")
    project.write("flowllm.yaml", SETTINGS)
    project.write("tickets.yaml", TICKETS)
    project.write("answers.yaml", ANSWERS)
    project.write("tickets.py", FUNCTION)
    words = ("came late", "is broken", "does not fit", "was never sent", "is not what I ordered")
    rows = (
        f"{n},{'My parcel' if n % 97 == 41 else f'Order #{1000 + 7 * n}'} {words[n % len(words)]}" for n in range(1500)
    )
    project.write("tickets.csv", "id,text\n" + "\n".join(rows) + "\n")
    return project


def _page(browser: Browser, server: Server, project: Project, tickets: str) -> None:
    """A run that goes on, in both colours; its items beside one of them; variants."""
    context = browser.new_context(viewport=SIZE, device_scale_factor=1.5, color_scheme="light", reduced_motion="reduce")
    page = context.new_page()
    page.goto(server.address)
    with killed_at_exit(
        process := project.start("run", "workflows/blog_full.yaml", "--provider", "demo", "--no-cache")
    ):
        done = "SELECT count(*) FROM nodes WHERE status = 'succeeded' AND run_id = (SELECT run_id FROM runs ORDER BY seq DESC LIMIT 1)"
        until(lambda: project.rows(done)[0][0] in range(8, 12), "half of the run", of=process)
        page.goto(f"{server.origin}/#/runs/{project.run_ids()[-1]}")
        page.locator(".graph .target").nth(12).wait_for()
        page.wait_for_timeout(600)
        for colours in ("light", "dark"):
            page.emulate_media(color_scheme=colours)
            page.screenshot(path=TO / f"run-{colours}.png")
    page.emulate_media(color_scheme="light")
    page.goto(f"{server.origin}/#/runs/{tickets}?view=items&parent=read&node=read%5B41%5D")
    page.get_by_text("Traceback (most recent call last)").wait_for()
    page.wait_for_timeout(300)
    page.screenshot(path=TO / "items.png")
    page.goto(f"{server.origin}/#/runs/{tickets}?view=matrix&parent=variants")
    page.get_by_role("button", name="brief").click()
    page.get_by_role("region", name="Answer").nth(2).wait_for()
    page.wait_for_timeout(300)
    page.screenshot(path=TO / "matrix.png")
    context.close()


def _report(browser: Browser, project: Project, run: str) -> None:
    outcome = project.run("report", run, "--output", "report.html")
    assert outcome.code == 0, outcome.said
    context = browser.new_context(viewport=SIZE, device_scale_factor=1.5)
    page = context.new_page()
    page.goto((project.folder / "report.html").as_uri())
    page.screenshot(path=TO / "report.png")
    context.close()


def _terminal(project: Project, name: str, *words: str) -> None:
    """A command on a terminal, as it looks about half way."""
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(screen)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    command = [sys.executable, "-m", "flowllm", *words]
    process = subprocess.Popen(
        command, cwd=project.folder, env=project.environ, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    best: Text | None = None
    ends = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < ends:
        if select.select([ours], [], [], 0.2)[0]:
            try:
                stream.feed(os.read(ours, 65_536))
            except OSError:
                break
        shown = "\n".join(screen.display)
        if best is None and re.search(r"\b[4-6]\d ?%", shown) and "ETA" in shown:
            best = _text(screen)
    process.wait()
    os.close(ours)
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text(f"$ flowllm {' '.join(words)}", style="bold"), best or _text(screen), sep="\n")
    svg = console.export_svg(title="flowllm")
    (TO / name).write_text(re.sub(r"@font-face\s*{[^}]*}", "", svg), encoding="utf-8")


def _text(screen: pyte.Screen) -> Text:
    """What stands on it, with its colours."""
    found = Text()
    last = max((y for y, line in enumerate(screen.display) if line.strip()), default=0)
    for y in range(last + 1):
        for x in range(screen.columns):
            char = screen.buffer[y][x]
            colour = char.fg if char.fg != "default" else ""
            colour = (
                f"#{colour}"
                if re.fullmatch(r"[0-9a-f]{6}", colour)
                else colour.replace("brown", "yellow").replace("bright", "bright_")
            )
            found.append(char.data, " ".join(filter(None, [colour, "bold" if char.bold else ""])))
        found.append("\n")
    return found


if __name__ == "__main__":
    main()
