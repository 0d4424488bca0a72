"""The graph and the timeline of a run that goes on, by keyboard alone."""

from __future__ import annotations

import math

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.support.browser import DESK, PHONE, Server, visit
from tests.support.project import Project, killed_at_exit

WAIT = {"shell": "while [ ! -e go-$N ]; do sleep 0.02; done; echo $N"}
FLOW = {
    "name": "drawn",
    "steps": {
        "first": {"value": "x"},
        "each": {"foreach": [0, 1, 2], **WAIT, "env": {"N": "{{ item }}"}},
        "whole": {
            "workflow": {
                "inputs": {"of": None},
                "steps": {"inner": {**WAIT, "env": {"N": "{{ inputs.of }}"}}, "after": {"value": "{{ inner }}"}},
                "outputs": {"text": "{{ after }}"},
            },
            "with": {"of": "{{ first }}"},
        },
        "last": {"value": "{{ each }} {{ whole }}"},
    },
}


def test_the_graph_and_the_timeline_by_keyboard_while_a_run_goes_on(
    browser: Browser, server: Server, project: Project
) -> None:
    project.write("drawn.yaml", FLOW)
    with visit(browser, server) as page, killed_at_exit(process := project.start("run", "drawn.yaml")):
        page.page.get_by_role("link", name="drawn", exact=True).click()
        keys = page.page.keyboard
        graph, line = page.page.get_by_role("group", name="Graph of 4 steps"), page.page.get_by_role("tree")
        graph.get_by_role("button", name="whole, workflow, running").focus()
        keys.press("Space")
        inner = page.page.get_by_role("button", name="inner, shell, running")
        inner.wait_for()
        drawn = page.page.get_by_role("group", name="Graph of 6 steps")
        first = drawn.get_by_role("button", name="first, value, succeeded").bounding_box()
        whole = drawn.get_by_role("button", name="whole, workflow, running").bounding_box()
        assert first is not None
        assert whole is not None
        back, on = (
            ("ArrowUp", "ArrowDown") if whole["y"] > first["y"] + first["height"] else ("ArrowLeft", "ArrowRight")
        )
        for key, name in ((back, "first, value"), (on, "whole, workflow"), (on, "last, value"), (on, "last, value")):
            keys.press(key)
            assert page.page.evaluate("document.activeElement.getAttribute('aria-label')").startswith(name)
        assert _zoomed(page.page, inner, -30) == pytest.approx(math.exp(30 / 300), rel=0.01)
        inner.focus()
        keys.press("Enter")
        page.page.get_by_role("dialog").get_by_role("heading", level=2).get_by_text("whole.inner").wait_for()
        keys.press("Escape")
        page.page.get_by_role("dialog").wait_for(state="detached")

        line.focus()
        keys.press("End")
        keys.press("Home")
        while line.get_attribute("aria-activedescendant") != "line-each":
            keys.press("ArrowDown")
        keys.press("ArrowRight")
        second = line.get_by_role("treeitem", name="each[1], shell, running")
        second.wait_for()
        keys.press("f")
        for number in (0, 1, 2):
            (project.folder / f"go-{number}").touch()
        page.page.get_by_role("button", name="changes held back").wait_for()
        graph_each = drawn.get_by_role("button", name="each, shell for each item, succeeded, 3 of 3")
        graph_each.wait_for()
        expect(second).to_have_count(1)
        keys.press("f")
        line.get_by_role("treeitem", name="each[1], shell, succeeded").wait_for()
        expect(second).to_have_count(0)
        for _ in range(4):
            keys.press("+")
        page.page.get_by_role("button", name="Fit").last.click()
        (project.folder / "go-x").touch()
        line.get_by_role("treeitem", name="last, value, succeeded").wait_for()
        page.page.get_by_role("button", name="inner, shell, succeeded").wait_for()
        for size, dark in ((DESK, True), (PHONE, False)):
            page.look(size=size, dark=dark)
            page.check(f"the graph, {size}")
        page.page.get_by_role("link", name="Am I throttled?").click()
        page.see("No request waited for a limit.")
        assert project.finish(process).code == 0


def _zoomed(page: Page, box: Locator, turn: float) -> float:
    """How many times as wide a box becomes by one turn of the wheel."""
    wide = "(box) => box.getBoundingClientRect().width"
    box.hover()
    before = box.evaluate(wide)
    page.keyboard.down("Control")
    page.mouse.wheel(0, turn)
    page.keyboard.up("Control")
    while (after := box.evaluate(wide)) == before:
        page.wait_for_timeout(10)
    return after / before
