"""`flowllm ui` as a process: its address, its port, its end."""

from __future__ import annotations

import http.client
import signal
import socket
from pathlib import Path
from urllib.parse import urlsplit

from tests.support.project import Project, killed_at_exit, until

TOKEN = "a-token-of-ones-own-1234"


def test_the_page_is_served_until_ctrl_c_also_with_an_open_stream(tmp_path: Path) -> None:
    project = Project(tmp_path)
    browser = project.write("browser", '#!/bin/sh\necho "$1" > opening; mv opening opened\n')
    browser.chmod(0o755)
    process = project.start("ui", "--port", 0, "--host", "127.0.0.3", FLOWLLM_UI_TOKEN=TOKEN, BROWSER=str(browser))
    with killed_at_exit(process):
        assert process.stdout is not None
        address = urlsplit(process.stdout.readline().strip())
        assert (address.hostname, address.query) == ("127.0.0.3", f"token={TOKEN}")
        page = http.client.HTTPConnection(address.netloc)
        page.request("GET", f"/?{address.query}")
        entered = page.getresponse()
        assert (entered.status, entered.read()) == (303, b"")
        cookie = (entered.getheader("set-cookie") or "").partition(";")[0]
        until((tmp_path / "opened").exists, "the browser", of=process)
        opened = urlsplit((tmp_path / "opened").read_text().strip())
        assert TOKEN not in opened.query, "others may see the command line of the browser"
        for status in (303, 403):
            page.request("GET", f"/?{opened.query}")
            answer = page.getresponse()
            assert (answer.status, bool(answer.read())) == (status, status != 303)
        page.request("GET", "/api/runs/changes", headers={"Cookie": cookie})
        stream = page.getresponse()
        assert stream.readline() == b"event: list\n"
        taken = project.cli("ui", "--no-open", "--host", address.hostname, "--port", address.port)
        assert (taken.code, f"port {address.port} of 127.0.0.3 cannot be used" in taken.err) == (2, True), taken.said
        process.send_signal(signal.SIGINT)
        outcome = project.finish(process)
        assert (outcome.code, outcome.out) == (0, ""), outcome.said
        assert outcome.err == "  for you alone; Ctrl-C ends it\n"
        assert not project.database.exists(), "to look makes no database"
        page.close()
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind((address.hostname, address.port or 0))


def test_what_cannot_be_served_is_refused(tmp_path: Path) -> None:
    project = Project(tmp_path)
    for words, said in (
        (("--host", "0.0.0.0"), "only this machine reaches"),
        (("--host", "example.org"), "only this machine reaches"),
        (("--db", "memory:"), "name a file with --db"),
    ):
        outcome = project.cli("ui", *words)
        assert (outcome.code, said in outcome.err) == (2, True), outcome.said
    assert "22 characters" in project.cli("ui", "--no-open", "--port", 0, FLOWLLM_UI_TOKEN="guess").err
