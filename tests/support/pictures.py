"""The pictures of the README and of docs/, of real runs against a server on this machine: python -m tests.support.pictures

Needs chromium. What it writes differs a little each time, as runs do.
"""

from __future__ import annotations

import base64
import fcntl
import io
import json
import math
import os
import pty
import random
import re
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
import time
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

import pyte
from playwright.sync_api import sync_playwright
from rich.console import Console
from rich.text import Text

from flowllm.providers.simulated.provider import _text
from tests.support.browser import FLAGS, Server, chromium
from tests.support.project import ROOT, Project, killed_at_exit, until
from tests.support.replies import Reply, Script, failed, prompt_of
from tests.support.server import running_server

if TYPE_CHECKING:
    from playwright.sync_api import Page

TO = ROOT / "docs" / "pictures"
PICTURES = ("terminal.svg", "run-light.png", "run-dark.png", "items.png", "matrix.png", "report.png")
MOST = 120_000
"""Bytes that one may have."""
SIZE = {"width": 1280, "height": 800}
COLUMNS, ROWS = 100, 18
FAILING = 0.1
"""The share of what customers wrote at which the server fails."""
TICKETS = {
    "name": "tickets",
    "defaults": {"provider": "quick", "model": "gpt-4o-mini", "max_tokens": 40},
    "limits": {"max_concurrent": 200},
    "steps": {
        "read": {
            "foreach": {"file": "tickets.csv"},
            "as": "ticket",
            "prompt": "Which order does this customer write of? {{ ticket.text }}",
            "retry": {"max_attempts": 2, "initial_delay": "100ms"},
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
    "limits": {"max_concurrent": 60, "requests_per_minute": 3000},
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


PIXELS = """async (picture) => {
    const image = new Image();
    image.src = "data:image/png;base64," + picture;
    await image.decode();
    const canvas = Object.assign(document.createElement("canvas"), {width: image.width, height: image.height});
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0);
    const bytes = context.getImageData(0, 0, image.width, image.height).data;
    let text = "";
    for (let at = 0; at < bytes.length; at += 30000) text += String.fromCharCode(...bytes.subarray(at, at + 30000));
    return {width: image.width, pixels: btoa(text)};
}"""


def main() -> None:
    """All of them."""
    slow, quick = (running_server(answering(seconds)) for seconds in (8.0, 0.06))
    with tempfile.TemporaryDirectory() as folder, slow as demo, quick as rapid:
        project = _project(Path(folder), demo=demo.url, quick=rapid.url)
        made = {"terminal.svg": _terminal(project, "run", "answers.yaml")}
        tickets = json.loads(project.run("run", "tickets.yaml", "--json").out)["run_id"]
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium(), args=list(FLAGS))
            context = browser.new_context(viewport=SIZE, reduced_motion="reduce")
            server = Server(project)
            try:
                page = context.new_page()
                page.goto(server.address)
                made |= _run(page, server, project) | _items(page, server, project, tickets)
            finally:
                server.close()
            made["report.png"] = _report(page := context.new_page(), project)
            page.goto("about:blank")
            made = {
                name: _smaller(page, picture) if name.endswith(".png") else picture for name, picture in made.items()
            }
            browser.close()
    assert set(made) == set(PICTURES)
    shutil.rmtree(TO, ignore_errors=True)
    TO.mkdir(parents=True)
    for name, picture in made.items():
        print(f"{name}  {len(picture) / 1000:.0f} kB")
        assert len(picture) <= MOST, name
        (TO / name).write_bytes(picture)


def answering(median: float) -> Script:
    """Texts like those of simulated models, after about so many seconds; of what customers wrote some cannot be read."""

    def script(body: dict[str, Any], number: int) -> Reply:
        draw = random.Random(number)
        fails = prompt_of(body).startswith("Which order") and draw.random() < FAILING
        reply = (
            failed(500, "The server had an error while processing your request")
            if fails
            else Reply(text=_text(body, draw))
        )
        return replace(reply, delay=draw.lognormvariate(math.log(median), 0.4))

    return script


def _project(folder: Path, **servers: str) -> Project:
    project = Project(folder)
    project.environ |= {"TERM": "xterm-256color", "COLORTERM": "truecolor", "TZ": "UTC"}
    shutil.copytree(ROOT / "workflows", folder / "workflows")
    project.write(
        "flowllm.yaml", {"providers": {name: {"type": "openai", "base_url": url} for name, url in servers.items()}}
    )
    project.write("tickets.yaml", TICKETS)
    project.write("answers.yaml", ANSWERS)
    words = ("came late", "is broken", "does not fit", "was never sent", "is not what I ordered")
    rows = (f"{n},Order #{1000 + 7 * n} {words[n % len(words)]}" for n in range(1500))
    project.write("tickets.csv", "id,text\n" + "\n".join(rows) + "\n")
    return project


def _run(page: Page, server: Server, project: Project) -> dict[str, bytes]:
    """A run that goes on, in both colours: at a time when nothing has just ended, so that all of the page tells the same."""
    ended = "SELECT count(*) FROM nodes WHERE status = 'succeeded' AND run_id = ?"
    words = ("workflows/blog_full.yaml", "--provider", "demo", "--no-cache")
    before = len(project.run_ids())
    with killed_at_exit(process := project.start("run", *words)):
        until(lambda: len(project.run_ids()) > before, "a run", of=process)
        run = project.run_ids()[-1]
        page.goto(f"{server.origin}/#/runs/{run}")
        page.locator(".graph .target").nth(12).wait_for()
        while True:
            count = project.rows(ended, run)
            page.wait_for_timeout(1200)
            made = {f"run-{colours}.png": _in(page, colours) for colours in ("light", "dark")}
            if count[0][0] in range(6, 12) and count == project.rows(ended, run):
                break
            assert process.poll() is None, "the run never stood still"
        assert project.finish(process).code == 0
    page.emulate_media(color_scheme="light")
    return made


def _in(page: Page, colours: Literal["light", "dark"]) -> bytes:
    page.emulate_media(color_scheme=colours)
    return page.screenshot()


def _items(page: Page, server: Server, project: Project, run: str) -> dict[str, bytes]:
    """Items beside one that failed; variants."""
    failed = (
        "SELECT node_id FROM nodes WHERE run_id = ? AND status = 'failed' ORDER BY length(node_id), node_id LIMIT 1"
    )
    node = quote(project.rows(failed, run)[0][0])
    made = {}
    page.goto(f"{server.origin}/#/runs/{run}?view=items&parent=read&node={node}")
    page.get_by_text("ServerFailed").first.wait_for()
    page.wait_for_timeout(300)
    made["items.png"] = page.screenshot()
    page.goto(f"{server.origin}/#/runs/{run}?view=matrix&parent=variants")
    page.get_by_role("button", name="brief").click()
    page.get_by_role("region", name="Answer").nth(2).wait_for()
    page.wait_for_timeout(300)
    made["matrix.png"] = page.screenshot()
    return made


def _report(page: Page, project: Project) -> bytes:
    outcome = project.run("report", "last", "--output", "report.html")
    assert outcome.code == 0, outcome.said
    page.goto((project.folder / "report.html").as_uri())
    return page.screenshot()


def _smaller(page: Page, picture: bytes) -> bytes:
    """The same PNG in its 256 commonest colours (a palette, PNG specification 11.2.2): a third of the size."""
    found = page.evaluate(PIXELS, base64.b64encode(picture).decode())
    pixels = memoryview(base64.b64decode(found["pixels"])).cast("I")
    counts = Counter(pixels)
    palette = [colour.to_bytes(4, sys.byteorder)[:3] for colour, _ in counts.most_common(256)]
    nearest = {
        colour: min(range(len(palette)), key=lambda place: math.dist(rgb, palette[place]))
        for colour in counts
        for rgb in [colour.to_bytes(4, sys.byteorder)[:3]]
    }
    width = found["width"]
    lines = (bytes(map(nearest.__getitem__, pixels[at : at + width])) for at in range(0, len(pixels), width))
    header = struct.pack(">IIBBBBB", width, len(pixels) // width, 8, 3, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + line for line in lines), 9)
    chunks = ((b"IHDR", header), (b"PLTE", b"".join(palette)), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def _terminal(project: Project, *words: str) -> bytes:
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
            best = _shown(screen)
    process.wait()
    os.close(ours)
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text(f"$ flowllm {' '.join(words)}", style="bold"), best or _shown(screen), sep="\n")
    svg = console.export_svg(title="flowllm")
    return re.sub(r"@font-face\s*{[^}]*}", "", svg).encode()


def _shown(screen: pyte.Screen) -> Text:
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
