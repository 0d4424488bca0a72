"""The page as people use it: every view in both colours and at both sizes, by mouse and by keyboard alone, and while a run goes on."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

from playwright.sync_api import Browser, expect

from tests.browser.runs import HOSTILE, MANY, TAG, Runs
from tests.support.browser import DESK, PHONE, Server, Visit, once, visit
from tests.support.project import Project, killed_at_exit, until


def _views(runs: Runs) -> dict[str, tuple[tuple[str, ...], dict[str, str], str]]:
    """Every view by its name: the path, the query, and what is seen there once it is ready."""
    one = ("runs", runs.reviews)
    return {
        "runs": ((), {}, "many"),
        "run": (one, {}, "Graph and timeline"),
        "values": (one, {"view": "values"}, "Outputs"),
        "throttled": (one, {"view": "throttled"}, "Am I throttled?"),
        "items": (one, {"view": "items", "parent": "checked"}, "ValueError: 3 is no good"),
        "drawer": (one, {"node": "headline"}, "Write one headline about tea."),
        "failed": (
            one,
            {"view": "items", "parent": "checked", "node": "checked[2]"},
            "Traceback (most recent call last)",
        ),
        "compare": (("compare",), {"base": runs.reviews, "run": runs.again}, "6 of 6 items"),
        "matrix": (one, {"view": "matrix", "parent": "variants"}, "coffee"),
    }


def test_every_view_is_sound_in_both_colours_at_both_sizes(browser: Browser, server: Server, runs: Runs) -> None:
    with visit(browser, server) as page:
        for name, (path, query, seen) in _views(runs).items():
            page.go(*path, **query)
            for size, dark in product((DESK, PHONE), (False, True)):
                page.look(size=size, dark=dark)
                page.see(seen)
                rules = ("color-contrast",) if dark else ()  # all others find the same as in the light
                page.check(f"{name}, {size}, {'dark' if dark else 'light'}", rules=rules)


def test_a_run_of_another_process_is_seen_as_it_goes_on(browser: Browser, server: Server, project: Project) -> None:
    waits = "while [ ! -e go$N ]; do sleep 0.02; done; echo said $N"
    each = {"foreach": [0, 1, 2, 3], "max_concurrent": 2, "shell": waits, "env": {"N": "{{ item }}"}}
    project.write("slow.yaml", {"name": "slow", "steps": {"each": each}})
    with visit(browser, server) as page, killed_at_exit(process := project.start("run", "slow.yaml")):
        page.page.get_by_role("link", name="slow", exact=True).click()
        page.page.get_by_role("link", name="Items of each").click()
        dots = page.page.get_by_role("slider")
        running = page.page.get_by_role("link", name="running")
        running.wait_for()
        (project.folder / "go0").touch()
        page.see("said 0")
        dots.focus()
        expect(dots).to_have_attribute("aria-valuetext", "item 0: succeeded")
        for number in (1, 2, 3):
            (project.folder / f"go{number}").touch()
        page.page.locator(".run-head").get_by_text("succeeded").wait_for()
        page.see("said 3")
        expect(running).to_have_count(0)
        assert project.finish(process).code == 0


def test_the_start_page_goes_on_by_itself_and_a_run_whose_process_is_gone_is_told(
    browser: Browser, tmp_path: Path
) -> None:
    project = Project(tmp_path)
    project.write("wait.yaml", {"name": "wait", "steps": {"a": {"shell": "touch begun; sleep 60"}}})
    server = Server(project)
    try:
        with visit(browser, server) as page:
            page.see("There is no database at")
            page.check("start")
            with killed_at_exit(process := project.start("run", "wait.yaml")):
                page.page.get_by_role("row", name="running wait").wait_for()
                until((project.folder / "begun").exists, "the step", of=process)
                process.kill()
                page.page.get_by_role("row", name="interrupted wait").wait_for()
            page.page.get_by_role("combobox", name="Status").select_option("succeeded")
            page.see("No run is like that")
            page.page.get_by_role("link", name="Show all runs").click()
            page.page.get_by_role("row", name="interrupted wait").wait_for()
    finally:
        server.close()


def test_the_drawer_by_keyboard_alone(browser: Browser, server: Server, runs: Runs) -> None:
    with visit(browser, server) as page:
        page.go("runs", runs.reviews, view="items", parent="checked")
        page.see("ValueError: 3 is no good")
        keys = page.page.keyboard
        dots = page.page.get_by_role("slider")
        dots.focus()
        for key, told in (
            ("f", "item 2: failed"),
            ("End", "item 7: succeeded"),
            ("F", "item 5: failed"),
            ("ArrowLeft", "item 4: succeeded"),
        ):
            keys.press(key)
            expect(dots).to_have_attribute("aria-valuetext", told)
        keys.press("Enter")
        drawer = page.page.get_by_role("dialog")
        title = drawer.get_by_role("heading", level=2)
        drawer.get_by_text("Output").wait_for()
        expect(drawer).to_be_focused()
        for key, name in (("j", "checked[5]"), ("k", "checked[4]"), ("J", "checked[5]"), ("K", "checked[2]")):
            keys.press(key)
            title.get_by_text(name).wait_for()
            drawer.get_by_text("In a terminal").wait_for()
        keys.press("Escape")
        drawer.wait_for(state="detached")
        expect(dots).to_be_focused()
        expect(dots).to_have_attribute("aria-valuetext", "item 2: failed")
        assert "node=" not in page.page.url
        page.page.go_back()
        title.get_by_text("checked[2]").wait_for()


def test_from_the_list_into_a_step_by_keyboard_alone(browser: Browser, server: Server, runs: Runs) -> None:
    with visit(browser, server) as page:
        keys = page.page.keyboard
        page.page.get_by_role("searchbox").fill(runs.many[-5:])
        expect(page.page.get_by_role("row")).to_have_count(2)
        page.page.get_by_role("combobox", name="Workflow").select_option("many")
        assert page.page.url.endswith(f"#/?search={runs.many[-5:]}&workflow=many")
        page.page.reload()
        expect(page.page.get_by_role("row")).to_have_count(2)
        page.page.get_by_role("link", name="Clear").click()
        page.see("evil")
        _tab_to(page, "many", arrows=True)
        keys.press("Enter")
        page.see("Graph and timeline")
        _tab_to(page, "many, prompt", begins=True)
        keys.press("Enter")
        page.page.get_by_role("dialog").get_by_text("Show its").wait_for()
        keys.press("Escape")
        _tab_to(page, "Items of many")
        keys.press("Enter")
        page.page.get_by_role("slider").wait_for()
        _tab_to(page, "Open item 0")
        keys.press("End")
        keys.press("ArrowUp")
        assert page.page.evaluate("document.activeElement.getAttribute('aria-label')") == "Open item 98"


def _tab_to(page: Visit, wanted: str, *, begins: bool = False, arrows: bool = False) -> None:
    """Press Tab until what has the focus is called that; with `arrows` the arrow, once it is in a row."""
    name = "(document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent).trim()"
    seen = []
    for _ in range(60):
        row = arrows and page.page.evaluate("document.activeElement.matches('[data-row]')")
        page.page.keyboard.press("ArrowDown" if row else "Tab")
        seen.append(page.page.evaluate(name)[:40])
        if seen[-1].startswith(wanted) if begins else seen[-1] == wanted:
            return
    raise AssertionError(seen)


def test_long_values_are_cut_copied_and_shown_whole(browser: Browser, server: Server, runs: Runs) -> None:
    with visit(browser, server) as page:
        page.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.go("runs", runs.reviews, node="checked[7]")
        drawer = page.page.get_by_role("dialog")
        drawer.get_by_text("… 61 more numbers").wait_for()
        drawer.get_by_role("button", name="Copy Output").click()
        drawer.get_by_text("Copied").first.wait_for()
        copied = json.loads(page.page.evaluate("navigator.clipboard.readText()"))
        assert (len(copied["vector"]), len(copied["text"])) == (64, 45_000)
        drawer.get_by_role("button", name="Show all").click()
        once(page.page, "document.querySelector('.drawer .text').textContent.length > 45_000")


def test_fifty_thousand_items(browser: Browser, server: Server, runs: Runs) -> None:
    with visit(browser, server) as page:
        page.go("runs", runs.many, view="items", parent="many")
        page.see(f"1 to 100 of {MANY:,}")
        page.page.get_by_role("link", name="failed 50").click()
        page.see("Rejected: no good")
        with page.page.expect_download() as download:
            page.page.get_by_role("link", name="CSV").click()
        assert download.value.suggested_filename == f"{runs.many}-many.csv"
        assert download.value.path().read_text().count("no good") == 50
        page.page.get_by_role("link", name=f"All {MANY:,}").click()
        page.page.get_by_role("button", name="Next").click()
        page.see(f"101 to 200 of {MANY:,}")
        page.page.get_by_role("searchbox").fill("no good")
        page.see("Rejected: no good")
        dots = page.page.get_by_role("slider")
        dots.focus()
        page.page.keyboard.press("End")
        page.page.keyboard.press("F")
        expect(dots).to_have_attribute("aria-valuetext", f"item {MANY - 500}: failed")
        page.page.keyboard.press("Enter")
        page.page.get_by_role("dialog").get_by_text(f"many[{MANY - 500}]").first.wait_for()
        page.check("fifty thousand items")


def test_a_matrix_opens_in_place(browser: Browser, server: Server, runs: Runs) -> None:
    with visit(browser, server) as page:
        page.go("runs", runs.reviews, view="items", parent="variants")
        page.page.get_by_role("link", name="As a matrix").click()
        page.page.get_by_role("combobox", name="Columns").select_option("tone")
        page.page.get_by_role("columnheader", name="stern").wait_for()
        page.page.get_by_role("button", name="coffee").click()
        answers = page.page.get_by_role("region", name="Answer")
        answers.nth(1).wait_for()
        expect(answers).to_have_count(2)
        page.check("an open row")


def test_scripts_in_texts_never_run(browser: Browser, server: Server, runs: Runs) -> None:
    """Prompts, answers, names, errors and models that are markup: each is seen as it is, on every view."""
    one = ("runs", runs.evil)
    with visit(browser, server, size=PHONE) as page:
        page.asks_in_vain = True
        for path, query in (
            ((), {}),
            ((), {"search": HOSTILE, "workflow": HOSTILE}),
            (one, {}),
            (one, {"view": "items", "parent": "each"}),
            (one, {"view": "items", "parent": "each", "find": HOSTILE, "only": HOSTILE, "sort": HOSTILE}),
            (one, {"view": "matrix", "parent": "each"}),
            (one, {"view": "throttled"}),
            (one, {"view": HOSTILE, "parent": HOSTILE, "node": HOSTILE}),
            (("runs", HOSTILE), {}),
            (("compare",), {"base": HOSTILE, "run": HOSTILE}),
            (("compare",), {"base": runs.evil, "run": runs.evil}),
        ):
            page.go(*path, **query)
            page.page.locator("main > *").first.wait_for()
            page.check("hostile", axe=False)
        for node in ("echo", "ask", "each", "each[0]"):
            page.go(*one, node=node)
            page.page.get_by_role("dialog").get_by_text("In a terminal").wait_for()
            page.check(node, axe=False)
        page.go(*one, node="ask")
        page.see("<img src=x onerror=alert(1)>")
        page.see(TAG)
        assert page.page.locator("main img, main script, [onerror], [onload]").count() == 0


def test_two_runs_are_compared_by_a_baseline_that_is_chosen(browser: Browser, server: Server, runs: Runs) -> None:
    with visit(browser, server) as page:
        page.go("runs", runs.again).page.get_by_role("link", name="Compare").click()
        page.see("6 of 6 items")  # the run before is the baseline
        page.page.get_by_role("button", name="Show 1 that is the same").click()
        page.see("checked")
        page.page.get_by_role("link", name="variants", exact=True).click()
        page.see("6 changes in variants")
        page.page.get_by_role("link", name="variants[0]").click()
        page.page.get_by_role("dialog").wait_for()
        page.page.go_back()
        page.page.get_by_role("button", name="Swap").click()
        page.page.locator(".side").first.get_by_role("link", name=runs.again).wait_for()
        assert page.page.get_by_label("Baseline").input_value() == runs.again
        page.page.get_by_label("Run", exact=True).select_option(runs.again)
        page.see("No output and no status differs")
        page.go("compare", run=runs.reviews)
        page.see("This is the first run of its workflow.")


def test_a_comparison_goes_on_while_its_run_does(browser: Browser, server: Server, project: Project) -> None:
    waits = {
        "shell": "while [ ! -e end$N ]; do sleep 0.02; done; echo $SAID",
        "env": {"N": "{{ item }}", "SAID": "{{ inputs.said }}"},
    }
    project.write(
        "said.yaml", {"name": "said", "inputs": {"said": "this"}, "steps": {"each": {"foreach": [0, 1], **waits}}}
    )
    ends = [project.folder / f"end{number}" for number in (0, 1)]
    for end in ends:
        end.touch()
    assert project.run("run", "said.yaml").code == 0
    for end in ends:
        end.unlink()
    with (
        visit(browser, server) as page,
        killed_at_exit(process := project.start("run", "said.yaml", "-i", "said=that")),
    ):
        page.page.get_by_role("link", name="said", exact=True).nth(1).wait_for()
        page.go("compare").see("this goes on with the run")
        for count, end in enumerate(ends, 1):
            end.touch()
            page.see(f"{count} change")
        assert project.finish(process).code == 0
        page.see("2 of 2 items")
