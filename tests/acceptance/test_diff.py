"""`flowllm diff` tells what differs from last time, by a real server behind the real client."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.support.compared import two_runs
from tests.support.project import Project, prompts
from tests.support.replies import Reply
from tests.support.server import Server


def test_two_runs_that_differ_in_every_way(project: Project, server: Server) -> None:
    base, run = two_runs(project, server)
    found = project.json("diff", "last~1", "last")
    assert (found["base"]["run_id"], found["run"]["run_id"], found["changed"]) == (base, run, True)
    assert {one["path"]: (one["before"], one["after"]) for one in found["given"]} == {"input tone": ("calm", "lively")}
    assert [path.rpartition("/")[2] for path in found["edited"]] == ["flow.yaml"]
    steps = {step["step"]: step for step in found["steps"]}
    assert {name: step["verdict"] for name, step in steps.items()} == {
        "title": "same",
        "classify": "changed",
        "summary": "changed",
        "closing": "added",
        "opening": "removed",
    }
    assert steps["classify"]["items"] == {"same": 2, "changed": 3, "added": 1, "removed": 1}
    assert steps["classify"]["why"] == ["prompt"]
    (mean,) = steps["classify"]["means"]
    assert (mean["path"], mean["items"], round(mean["delta"], 3)) == ("score", 2, 0.075)
    assert [(change["node"], change["verdict"]) for change in found["changes"]] == [
        *((f"classify[{number}]", "changed") for number in (3, 2, 5)),
        *(("summary", "changed"), ("classify[1]", "added"), ("classify[5]", "removed")),
        *(("closing", "added"), ("opening", "removed")),
    ]
    assert found["total_changes"] == 8
    failed = found["changes"][0]
    assert (failed["before"]["status"], failed["after"]["status"]) == ("failed", "succeeded")
    moved = next(change for change in found["changes"] if change["base_node"] == "classify[0]")
    assert moved["node"] == "classify[5]"
    assert [(one["path"], round(one["delta"], 3)) for one in moved["fields"]] == [("score", -0.1)]

    said = project.cli("diff", base, run).out
    assert re.search(rf"^{base} +base  .*\n{run} +run  ", said, re.MULTILINE), said
    assert re.search(r"^classify +3 of 5 items, 1 added, 1 removed .*prompt$", said, re.MULTILINE), said
    assert "    - What to mend first: the packaging, since two of six arrived broken.\n" in said, said
    assert "  label: neutral → good\n  score: 0.5 → 0.75 (+0.25)\n" in said, said
    assert "classify[5] (was classify[0])  Arrived broken.\n" in said, said
    assert max(map(len, said.splitlines())) <= 80, said
    short = project.cli("diff", base, run, "--limit", "1").out
    assert "and 7 more changes: a STEP or --limit shows them" in short, short
    assert project.cli("diff", base, run, "summary", "--fail-on", "change").code == 1
    assert project.cli("diff", base, run, "title", "--fail-on", "change").code == 0
    one = project.json("diff", base, run, "classify[2]")
    assert [step["step"] for step in one["steps"]] == ["classify[2]"]
    unknown = project.cli("diff", base, run, "sumary")
    assert (unknown.code, "did you mean `summary`" in unknown.err) == (2, True), unknown.said


def test_cost_and_prompt_alone_are_no_change(project: Project, server: Server) -> None:
    def flow(prompt: str) -> Any:
        return project.flow(steps=prompts(a=prompt), defaults={"model": "m"})

    server.script = lambda body, n: Reply(
        text="the same answer", usage={"prompt_tokens": 10 * n, "completion_tokens": 5}
    )
    assert project.cli("run", flow("one")).code == 0
    assert project.cli("run", flow("two")).code == 0
    outcome = project.cli("diff", "last~1", "last", "--fail-on", "change")
    assert outcome.code == 0, outcome.said
    assert "no output and no status differs" in outcome.out
    assert re.search(r"^a +same .* prompt$", outcome.out, re.MULTILINE), outcome.said
    far = project.cli("diff", "last~7", "last")
    assert (far.code, "there are not so many runs that one is last~7" in far.err) == (2, True), far.said


def test_what_a_model_wrote_moves_no_cursor(project: Project, server: Server) -> None:
    evil = "\x1b[2J\u202e\r\x07[red]\ttab"
    for number in (1, 2):
        server.script = lambda body, n, number=number: Reply(
            text=json.dumps({evil: [evil, number], "t": evil * number})
        )
        flow = project.flow(inputs={"who": evil * number}, steps={"a": {"prompt": f"x {number}", "output": "json"}})
        project.cli("run", flow)
    for words in ((), ("--json",)):
        said = project.cli("diff", "last~1", "last", *words)
        assert said.code == 0, said.said
        assert not set("\x1b\u202e\r\x07") & set(said.out), said.out
    assert "\\x1b[2J\\u202e\\r" in project.cli("diff", "last~1", "last").out


def test_a_page_that_exists_is_left_alone(project: Project, server: Server) -> None:
    project.cli("run", project.flow(steps={"a": {"value": 1}}))
    kept = project.write("r.html", "kept")
    for words in (("report", "last", "--output", "r.html"), ("diff", "last", "last", "--page", "r.html")):
        refused = project.cli(*words)
        assert (refused.code, kept.read_text()) == (2, "kept"), refused.said
        assert project.cli(*words, "--overwrite").code == 0
        assert kept.read_text().startswith("<!doctype html>")
        kept.write_text("kept")
