"""The same work again: only what changed is sent (P3, P4), `plan` says so before and `why` after."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.project import Project, prompts
from tests.support.replies import Reply, prompt_of
from tests.support.server import Server

BLOG = """
    name: blog
    inputs: {topic: tea}
    defaults: {model: test-model}
    steps:
      headline:
        prompt: Write a headline about {{ inputs.topic }}.
      keywords:
        prompt: List keywords about {{ inputs.topic }}.
        output: {type: array, items: {type: string}}
      intro:
        prompt: Introduce "{{ headline }}".
      outline:
        prompt: Outline "{{ headline }}" after {{ intro }}.
    outputs: {headline: "{{ headline }}"}
    """


@pytest.fixture
def project(project: Project, server: Server) -> Project:
    """The blog has run once, and the server has forgotten it."""
    project.write("blog.yaml", BLOG)
    project.json("run", "blog.yaml")
    assert len(server.requests) == 4
    server.requests.clear()
    return project


def _states(project: Project, *words: object) -> dict[str, str]:
    plan = project.json("plan", "blog.yaml", *words)
    return {name: step["state"] for name, step in plan["steps"].items()}


def _run(project: Project, server: Server, *words: object) -> tuple[dict[str, Any], list[str]]:
    """The result, and the first words of what was sent."""
    server.requests.clear()
    result = project.json("run", "blog.yaml", *words)
    assert result["status"] == "succeeded"
    assert result["requests"]["sent"] == len(server.requests)
    return result, sorted(seen.prompt.split()[0] for seen in server.requests)


def test_the_same_run_again_sends_nothing_and_costs_nothing(project: Project, server: Server) -> None:
    assert set(_states(project).values()) == {"cached"}
    result, sent = _run(project, server)
    assert sent == []
    assert result["requests"] == {"sent": 0, "cached": 4, "joined": 0, "retried": 0, "rate_limited": 0, "hedged": 0}
    assert result["usage"] == {**result["usage"], "input_tokens": 0, "output_tokens": 0}
    assert all(step["cached"] for step in result["steps"].values())


def test_the_same_run_from_another_process_sends_nothing(project: Project, server: Server) -> None:
    outcome = project.run("run", "blog.yaml", "--json")
    assert outcome.code == 0, outcome.said
    assert outcome.json["requests"]["cached"] == 4
    assert server.requests == []


def test_an_edited_prompt_costs_itself_and_what_its_answer_changes(project: Project, server: Server) -> None:
    project.write("blog.yaml", BLOG.replace("Introduce", "Present"))
    assert _states(project) == {"headline": "cached", "keywords": "cached", "intro": "send", "outline": "maybe"}
    assert project.json("plan", "blog.yaml")["steps"]["intro"]["why"] == "changed: prompt"
    _, sent = _run(project, server)
    assert sent == ["Outline", "Present"]
    why = project.json("why", "last", "intro")
    assert [change["path"] for change in why["changes"]] == ["prompt"]
    assert "Introduce" in why["changes"][0]["before"]
    assert "Present" in why["changes"][0]["after"]
    assert any(cause.endswith("blog.yaml was edited") for cause in why["causes"])
    assert any("intro" in cause for cause in project.json("why", "last", "outline")["causes"])
    assert project.json("why", "last", "headline")["changes"] == []


@pytest.mark.parametrize(
    ("edit", "part"),
    [
        ("defaults: {model: test-model, temperature: 0.5}", "temperature"),
        ("defaults: {model: other-model}", "model"),
        ("defaults: {model: test-model, params: {user: me}}", "user"),
    ],
)
def test_why_names_the_part_of_the_request_that_changed(edit: str, part: str, project: Project, server: Server) -> None:
    project.write("blog.yaml", BLOG.replace("defaults: {model: test-model}", edit))
    assert project.json("plan", "blog.yaml")["steps"]["headline"]["why"] == f"changed: {part}"
    _run(project, server)
    assert [change["path"] for change in project.json("why", "last", "headline")["changes"]] == [part]


def test_a_changed_input_is_named_as_the_cause(project: Project, server: Server) -> None:
    _, sent = _run(project, server, "-i", "topic=coffee")
    assert sent == ["Introduce", "List", "Outline", "Write"]
    assert "input topic changed" in project.json("why", "last", "headline")["causes"]


def test_refresh_asks_that_step_only_while_its_answer_stays_the_same(project: Project, server: Server) -> None:
    assert _states(project, "--refresh", "headline")["headline"] == "send"
    _, sent = _run(project, server, "--refresh", "headline")
    assert sent == ["Write"]


def test_refresh_with_another_answer_reaches_its_dependents(project: Project, server: Server) -> None:
    old = server.script
    server.script = lambda body, n: Reply(text="Something new") if prompt_of(body).startswith("Write") else old(body, n)
    _, sent = _run(project, server, "--refresh", "headline")
    assert sent == ["Introduce", "Outline", "Write"]
    assert "the output of headline changed" in project.json("why", "last", "intro")["causes"]
    assert _run(project, server)[1] == [], "the new answer was not kept"


@pytest.mark.parametrize(
    "edited",
    [
        BLOG.replace("steps:", "# a comment\n\n    steps:   # and another\n"),
        BLOG.replace("\n      intro:", "\n\n\n      intro:").replace("prompt: List", "prompt:   List"),
        BLOG.replace(
            "prompt: List keywords about {{ inputs.topic }}.\n        output: {type: array, items: {type: string}}",
            "output: {items: {type: string}, type: array}\n        prompt: List keywords about {{ inputs.topic }}.",
        ),
        BLOG.replace("{{ inputs.topic }}", "{{inputs.topic}}"),
        BLOG.replace("intro", "opening"),
        BLOG.replace("name: blog", "name: article"),
        BLOG + "x-notes: mine\n    limits: {max_concurrent: 1}\n",
    ],
    ids=["comments", "blank lines", "key order", "white space", "renamed step", "renamed workflow", "limits"],
)
def test_a_cosmetic_edit_sends_nothing(edited: str, project: Project, server: Server) -> None:
    assert edited != BLOG
    project.write("blog.yaml", edited)
    assert _run(project, server)[1] == []


def test_no_cache_asks_everything_again_and_keeps_nothing(project: Project, server: Server) -> None:
    assert len(_run(project, server, "--no-cache")[1]) == 4
    project.json("cache", "stats")
    project.write("blog.yaml", BLOG.replace("Introduce", "Present"))
    assert _run(project, server, "--no-cache")[1] == ["List", "Outline", "Present", "Write"]
    assert _run(project, server)[1] == ["Outline", "Present"]


def test_clearing_the_memo_removes_no_result(project: Project, server: Server) -> None:
    (run_id,) = project.run_ids()
    assert project.cli("cache", "clear", "--yes").code == 0
    assert project.json("show", run_id)["outputs"]["headline"].startswith("answer ")
    assert len(_run(project, server)[1]) == 4


def test_until_runs_that_step_and_what_it_needs(project: Project, server: Server) -> None:
    project.cli("cache", "clear", "--yes")
    result, sent = _run(project, server, "--until", "intro")
    assert sent == ["Introduce", "Write"]
    assert set(result["steps"]) == {"headline", "intro"}


def test_equal_steps_of_one_run_are_sent_once(project: Project, server: Server) -> None:
    file = project.flow(steps=prompts(**{f"s{n}": "the same [sleep=0.2]" for n in range(20)}))
    server.requests.clear()
    result = project.json("run", file)
    assert len(server.requests) == 1
    assert result["requests"]["sent"] == 1
    assert result["requests"]["joined"] + result["requests"]["cached"] == 19
    assert sum(step["attempts"] for step in result["steps"].values()) == 1
