"""A run's page when things change around it: its server, its run, its size and its colours; and the list of keys."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import Browser, expect

from tests.support.browser import DESK, PHONE, Server, visit
from tests.support.project import Project

FLOW = {"name": "small", "steps": {"one": {"value": "x"}, "two": {"value": "{{ one }}"}}}


def test_a_page_outlives_its_server_and_says_that_its_run_is_gone(
    browser: Browser, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(project.environ, "FLOWLLM_UI_TOKEN", "a-token-of-22-characters")
    project.write("small.yaml", FLOW)
    run = json.loads(project.run("run", "small.yaml", "--json").out)["run_id"]
    server = Server(project)
    with visit(browser, server) as page:
        page.asks_in_vain = True
        page.go("runs", run)
        page.page.get_by_role("group", name="Graph of 2 steps").wait_for()
        server.close()
        page.see("The server does not answer.")
        server = Server(project, "--port", server.origin.rpartition(":")[2])
        try:
            expect(page.page.locator(".connection")).to_have_text("live")
            page.page.keyboard.press("?")
            keys = page.page.get_by_role("dialog", name="Keys")
            for size, dark in ((DESK, False), (PHONE, True)):
                page.look(size=size, dark=dark)
                page.check(f"keys, {size}, dark {dark}")
            page.page.keyboard.press("Escape")
            expect(keys).to_be_hidden()
            page.go("runs", run, view="models", node="two")
            page.see("It asked none.")
            page.check("models, beside a node")
            assert project.run("runs", "delete", run).code == 0
            page.see(f"There is no run {run}")
        finally:
            server.close()
