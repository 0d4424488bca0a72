"""A budget of a run that workers execute."""

from __future__ import annotations

from tests.support.dataset import each_once, texts
from tests.support.over import one_step
from tests.support.project import Project
from tests.support.server import Server


def test_a_budget_holds_for_all_workers_together(project: Project, server: Server) -> None:
    server.rule(answer_tokens=(30, 30))
    texts(project.folder / "rows.jsonl", 80)
    defaults = {"model": "test-model", "max_tokens": 40}
    file = one_step(project, limits={"max_concurrent": 10}, defaults=defaults)
    words = ("run", file, "--over", "rows.jsonl", "--output", "out.jsonl", "--workers", 2)
    outcome = project.cli(*words, "--budget", "tokens=1500", "--json")
    assert outcome.code == 3, outcome.said
    spent = sum(outcome.json["usage"].values())
    assert spent <= 1500
    assert server.counts["tokens"] == spent
    assert spent >= 1500 - 200, "all that a request may take was there"
    assert project.rows("SELECT count(*) FROM portions WHERE tokens > 0") == [(0,)]
    outcome = project.cli("resume", "--budget", "tokens=1000000", "--json")
    assert outcome.code == 0, outcome.said
    each_once(project.folder / "out.jsonl", 80)
