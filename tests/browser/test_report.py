"""Pages that stand alone run nothing, load nothing, and can be read at every size and in both colours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.browser.runs import HOSTILE, MANY, Runs
from tests.support.browser import DESK, PHONE, violations
from tests.support.project import Project

if TYPE_CHECKING:
    from playwright.sync_api import Browser

OPEN_ALL = "document.querySelectorAll('details').forEach((one) => { one.open = true; })"
FOREIGN = "document.querySelectorAll('script, img, iframe, object, base, form, link, [onload], [onerror], [style], a:not([href^=\"#\"])').length"
STYLE = "document.body.setAttribute('style', 'background: red'); getComputedStyle(document.body).backgroundColor"


def looked_at(browser: Browser, page_file: Any, *, size: tuple[int, int], dark: bool) -> str:
    """The text of a page with which nothing is wrong."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme="dark" if dark else "light"
    )
    page = context.new_page()
    events: list[str] = []
    page.on("request", lambda request: events.append(request.url))
    page.on("console", lambda message: events.append(message.text))
    page.on("dialog", lambda dialog: (events.append("a script ran"), dialog.dismiss()))
    page.goto(page_file.as_uri())
    page.evaluate(OPEN_ALL)
    wide = page.evaluate("document.documentElement.scrollWidth") - size[0]
    assert (events[1:], page.evaluate(FOREIGN), wide) == ([], 0, 0), page_file.name
    assert violations(page) == [], page_file.name
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) < 300) is dark, ground
    assert page.evaluate(STYLE) == ground, "its policy lets a style in"
    text = str(page.inner_text("body"))
    context.close()
    return text


def test_pages_that_stand_alone(browser: Browser, project: Project, runs: Runs) -> None:
    def written(*words: str, to: str) -> Any:
        outcome = project.run(*words, project.folder / to)
        assert outcome.code == 0, outcome.said
        return project.folder / to

    evil = written("report", runs.evil, "--output", to="evil.html")
    text = looked_at(browser, evil, size=DESK, dark=False)
    assert text.count(HOSTILE) >= 6
    assert "<img src=x onerror=alert(9)>" in text
    text = looked_at(browser, written("report", runs.reviews, "--output", to="one.html"), size=PHONE, dark=True)
    assert text.index("What failed") < text.index("Steps over time") < text.index("Write one headline about tea.")
    assert "ValueError: 3 is no good" in text
    many = written("report", runs.many, "--items", "20", "--output", to="many.html")
    text = looked_at(browser, many, size=PHONE, dark=False)
    assert f"{MANY - 20:,} more items: flowllm export {runs.many} many" in text
    assert "many[7500] and 12 more\nRejected: no good\n" in text.replace("\n\n", "\n")
    assert f"30 more failed items of many: flowllm export {runs.many} many --status failed --output failed.csv" in text
    text = looked_at(browser, written("diff", runs.reviews, runs.again, "--page", to="two.html"), size=DESK, dark=True)
    assert "8 items" not in text
    assert "6 of 6 items" in text
    looked_at(browser, written("diff", runs.reviews, runs.evil, "--page", to="evil2.html"), size=PHONE, dark=False)
