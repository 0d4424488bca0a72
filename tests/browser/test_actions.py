"""What the page does with `--allow-actions`: real runs are stopped, resumed and retried by its buttons."""

from __future__ import annotations

from playwright.sync_api import Browser, expect

from tests.support.browser import DESK, PHONE, Server, visit
from tests.support.project import Project, killed_at_exit, until

FLOW = {
    "name": "acted",
    "steps": {
        "slow": {"shell": "while [ ! -e go ]; do sleep 0.02; done; echo gone"},
        "picky": {"shell": "test -e mended", "retry": {"max_attempts": 1}},
        "last": {"value": "{{ slow }} {{ picky }}"},
    },
}


def test_a_run_is_stopped_resumed_and_retried_by_the_buttons(
    browser: Browser, server: Server, project: Project
) -> None:
    project.write("acted.yaml", FLOW)
    acting, before = Server(project, "--allow-actions"), len(project.run_ids())
    process = project.start("run", "acted.yaml", "--grace", "0s", "--quiet", anew=True)
    try:
        with killed_at_exit(process), visit(browser, acting) as page, visit(browser, acting) as deaf:
            until(lambda: len(project.run_ids()) > before, "a run", of=process)
            run, button = project.run_ids()[-1], page.page.get_by_role
            deaf.page.route("**/changes?**", lambda _: None)
            deaf.go("runs", run)
            late = deaf.page.get_by_role("button", name="Stop")
            late.wait_for()
            with visit(browser, server) as reading:
                reading.go("runs", run).see("Graph and timeline")
                expect(reading.page.locator(".actions button")).to_have_count(0)

            page.go("runs", run)
            head = page.page.locator(".run-head")
            head.get_by_text("running", exact=True).wait_for()
            button("button", name="Stop").dblclick()
            head.get_by_text("interrupted", exact=True).wait_for()
            assert project.finish(process).code == 130
            expect(button("button", name="Stop")).to_have_count(0)
            deaf.asks_in_vain = True
            late.click()
            expect(deaf.page.get_by_role("alert")).to_have_text(f"Run {run} does not go on")
            expect(late).to_be_enabled()

            button("button", name="Resume").focus()
            page.page.keyboard.press("Enter")
            head.get_by_text("Elapsed in 2 attempts").wait_for()
            page.page.locator(".line-axis .stopped").wait_for()
            (project.folder / "go").touch()
            head.get_by_text("failed", exact=True).wait_for()
            button("button", name="Retry failed").click()  # it fails once more: the same status, another attempt
            head.get_by_text("Took in 3 attempts").wait_for()
            expect(head.get_by_text("Starting")).to_have_count(0)
            (project.folder / "mended").touch()
            button("button", name="Retry failed").click()
            head.get_by_text("succeeded", exact=True).wait_for()
            expect(page.page.locator(".actions button")).to_have_count(0)
            for size, dark in ((DESK, False), (DESK, True), (PHONE, False), (PHONE, True)):
                page.look(size=size, dark=dark)
                page.check(f"acted, {size}, dark {dark}")
    finally:
        acting.close()
