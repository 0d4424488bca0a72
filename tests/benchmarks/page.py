"""How soon the page shows what there is, in a real browser: large runs, and a change of a run of another process."""

from __future__ import annotations

import json
import statistics
from typing import TYPE_CHECKING, Any

from tests.benchmarks.harness import Figure, Scale
from tests.browser.runs import multiply
from tests.support.browser import FLAGS, Server, chromium, once
from tests.support.project import Project, killed_at_exit, until

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

STEPS = 200
WIDE = {"name": "wide", "steps": {f"s{n}": {"value": n, "needs": [f"s{n - 7}"] if n > 6 else []} for n in range(STEPS)}}
MANY = {
    "name": "many",
    "defaults": {"provider": "simulated", "model": "m", "max_tokens": 20},
    "steps": {"many": {"foreach": ["a", "b"], "prompt": "Rate {{ item }}"}},
}
GATED = {
    "name": "gated",
    "steps": {
        "each": {
            "foreach": list(range(100)),
            "max_concurrent": 1,
            "shell": "while [ ! -e go$N ]; do sleep 0.02; done",
            "env": {"N": "{{ item }}"},
        }
    },
}
_NODES = f"document.querySelectorAll('.graph .target').length === {STEPS} && performance.now()"
_ITEMS = (
    "document.querySelectorAll('.items-table tbody tr').length === 100 && document.querySelector('.dots canvas')?.height > 100"
    " && performance.now()"
)
_DOT = "document.querySelector('.dots')?.getAttribute('aria-valuetext') === 'item {}: succeeded' && Date.now() / 1000"


def page(scale: Scale) -> list[Figure]:
    """Seconds until all of it is drawn, from the moment at which the browser is sent there."""
    path = chromium()
    if path is None:
        return [Figure(what="all of it", value=None, unit="s", note="there is no chromium on the PATH")]
    from playwright.sync_api import sync_playwright

    project = Project(scale.folder)
    for flow in (WIDE, MANY, GATED):
        project.write(f"{flow['name']}.yaml", flow)
    wide, many = (json.loads(project.run("run", f"{name}.yaml", "--json").out)["run_id"] for name in ("wide", "many"))
    count = scale.of(50_000, 5_000)
    multiply(project, many, "many", count)
    server = Server(project)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
            context = browser.new_context(viewport={"width": 1280, "height": 800})
            context.new_page().goto(server.address)  # signs in
            graph = [_drawn(context, f"{server.origin}/#/runs/{wide}", _NODES) for _ in range(scale.runs)]
            items = f"{server.origin}/#/runs/{many}?view=items&parent=many"
            dots = [_drawn(context, items, _ITEMS) for _ in range(scale.runs)]
            changes = _changes(context, server, project, max(3, scale.runs))
            browser.close()
    finally:
        server.close()
    return [
        Figure(what=f"a run of {STEPS} nodes, drawn", value=statistics.median(graph), unit="s", bar=1),
        Figure(what=f"{count:,} items, drawn", value=statistics.median(dots), unit="s", bar=2),
        Figure(what="a change on disk, seen", value=statistics.median(changes), unit="s", bar=1, note=_spread(changes)),
    ]


def _drawn(context: BrowserContext, address: str, when: str) -> float:
    opened = context.new_page()
    opened.goto(address, wait_until="commit")
    took = once(opened, when) / 1000
    opened.close()
    return float(took)


def _changes(context: BrowserContext, server: Server, project: Project, count: int) -> list[float]:
    """Seconds from the end of an item until the page shows it, of a run in another process."""
    with killed_at_exit(process := project.start("run", "gated.yaml")):
        until(lambda: len(project.run_ids()) > 2, "the run", of=process)
        run = project.run_ids()[-1]
        opened: Any = context.new_page()
        opened.goto(f"{server.origin}/#/runs/{run}?view=items&parent=each")
        opened.get_by_role("slider").focus()
        found = []
        for number in range(count):
            (project.folder / f"go{number}").touch()
            seen = once(opened, _DOT.format(number))
            ((ended,),) = project.rows("SELECT finished_at FROM nodes WHERE node_id = ?", f"each[{number}]")
            found.append(seen - ended)
            opened.keyboard.press("ArrowRight")
    return found


def _spread(values: list[float]) -> str:
    return f"{min(values):.2g} to {max(values):.2g} s"
