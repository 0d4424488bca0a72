"""The blog workflow as it ships: what is on the wire together, and what waits for what (P10)."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.project import ROOT, Project, prompts
from tests.support.replies import ByPrompt, Reply, prompt_of
from tests.support.server import Seen, Server

BLOG = ROOT / "workflows" / "blog.yaml"


def _seen(server: Server, beginning: str) -> Seen:
    (found,) = [seen for seen in server.requests if seen.prompt.startswith(beginning)]
    return found


def test_the_blog_runs_from_a_plain_shell(server: Server, project: Project) -> None:
    outcome = project.run("run", BLOG)
    assert outcome.code == 0, outcome.said
    assert [line for line in outcome.out.splitlines() if line in {"headline", "keywords"}] == ["headline", "keywords"]
    assert len(server.requests) == 4
    assert "succeeded" in outcome.err


def test_headline_and_keywords_are_on_the_wire_together(server: Server, project: Project) -> None:
    server.hold = 2  # the server answers nobody before two requests are there at the same time
    result = project.json("run", BLOG)
    assert result["status"] == "succeeded"
    assert server.peak == 2
    assert {seen.prompt.split()[1] for seen in server.requests[:2]} == {"one", "ten"}


def test_a_step_waits_for_nothing_it_does_not_need(server: Server, project: Project) -> None:
    """The outline, two steps down, has gone out before the slow sibling of the first step is answered."""

    def script(body: dict[str, object], n: int) -> Reply:
        if not prompt_of(body).startswith("List ten SEO keywords"):
            return ByPrompt()(body, n)
        server.hold = 0
        return Reply(text=json.dumps({"value": ["a"]}), after=4)

    server.script = script
    project.json("run", BLOG)
    headline, keywords = _seen(server, "Write one compelling"), _seen(server, "List ten")
    intro, outline = _seen(server, "Write an engaging"), _seen(server, "Outline the body")
    assert headline.finished is not None
    assert intro.finished is not None
    assert keywords.finished is not None
    assert headline.finished <= intro.arrived
    assert intro.finished <= outline.arrived
    assert intro.arrived < keywords.finished, "the introduction waited for the keywords, which it does not need"
    assert outline.arrived < keywords.finished, "the outline waited for the keywords, which it does not need"


def test_the_critical_path_is_three_calls(project: Project) -> None:
    plan = project.json("plan", BLOG)
    assert plan["critical_path"] == ["headline", "intro", "outline"]
    assert {name: step["generation"] for name, step in plan["steps"].items()} == {
        "headline": 1,
        "keywords": 1,
        "intro": 2,
        "outline": 3,
    }


def test_chains_side_by_side_wait_for_no_layer(server: Server, project: Project) -> None:
    """Chains side by side: each goes on by itself, while one of them hangs on its first step."""
    chains = {
        f"c{chain}_{place}": ("[after=46] [text=late] " if chain == place == 0 else "")
        + (f"chain {chain} {{{{ c{chain}_{place - 1} }}}}" if place else f"chain {chain} begins")
        for chain in range(10)
        for place in range(5)
    }
    file = project.flow(steps=prompts(**chains), limits={"max_concurrent": 50})
    assert project.json("run", file)["status"] == "succeeded"
    slow = next(seen for seen in server.requests if seen.prompt.startswith("[after="))
    assert slow.finished is not None
    others = [seen for seen in server.requests if "[after=" not in seen.prompt]
    assert sum(seen.arrived < slow.finished for seen in others) == 45


def test_what_a_person_reads_was_on_disk_before(server: Server, project: Project) -> None:
    """P1: each event of a finished step was written after its row was committed."""
    events = project.folder / "events.jsonl"
    project.json("run", BLOG, "--events", events)
    ended = [
        json.loads(line) for line in Path(events).read_text().splitlines() if json.loads(line)["event"] == "NodeEnded"
    ]
    rows = dict(project.rows("SELECT node_id, finished_at FROM nodes"))
    assert len(ended) == 4
    for event in ended:
        assert rows[event["node_id"]] <= event["at"]
