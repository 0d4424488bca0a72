"""Foreach and graphs within, by the command line and over HTTP."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.project import Outcome, Project, killed_at_exit, until
from tests.support.replies import FAULTS, Reply, prompt_of
from tests.support.server import Server

POST = {
    "inputs": {"topic": {"type": "string"}},
    "steps": {
        "headline": {"prompt": "headline of {{ inputs.topic }} [text=H]"},
        "body": {"prompt": "body of {{ inputs.topic }}, {{ headline }} [text=B]"},
    },
    "outputs": {"body": "{{ body }}"},
}


@pytest.fixture
def posts(project: Project) -> str:
    """A workflow with a graph for each of three topics."""
    project.write("post.yaml", POST)
    step = {"foreach": "{{ inputs.topics }}", "workflow": "./post.yaml", "with": {"topic": "{{ item }}"}}
    return project.flow(
        inputs={"topics": ["tea", "ink", "tin"]},
        steps={"posts": step, "after": {"prompt": "after {{ posts | length }} [text=A]"}},
        outputs={"after": "{{ after }}"},
    )


def sent(server: Server) -> list[str]:
    """The beginnings of the prompts that were sent since this was last asked."""
    prompts = [seen.prompt.split(" [")[0].split(",")[0] for seen in server.requests]
    server.requests.clear()
    return prompts


def signalled(
    project: Project, *words: object, at: Callable[[], object], times: int, number: int = signal.SIGINT
) -> Outcome:
    process = project.start(*words)
    said = ""
    with killed_at_exit(process):
        until(at, "the moment to stop", of=process)
        process.send_signal(number)
        if times > 1:
            assert process.stderr is not None
            while "nothing new is sent" not in said:
                line = process.stderr.readline()
                assert line, said
                said += line
            process.send_signal(number)
        outcome = project.finish(process)
    return Outcome(code=outcome.code, out=outcome.out, err=said + outcome.err)


def test_show_has_the_items_and_the_nodes_within(project: Project, posts: str) -> None:
    ran = project.json("run", posts)
    assert ran["steps"]["posts"]["output"] == [{"body": "B"}] * 3
    assert ran["steps"]["posts"]["counts"]["succeeded"] == 3
    assert ran["requests"]["sent"] == 7
    names = project.rows("SELECT node_id FROM nodes ORDER BY node_id")
    assert [name for (name,) in names][:4] == ["after", "posts", "posts[0]", "posts[0].body"]
    shown = project.cli("show", "last", "posts[1].headline")
    assert shown.code == 0, shown.said
    assert "headline of ink" in shown.out


def test_refresh_of_a_step_within_asks_it_again_for_every_item(project: Project, posts: str, server: Server) -> None:
    project.json("run", posts)
    sent(server)
    project.json("run", posts, "--refresh", "posts.headline")
    assert sorted(sent(server)) == ["headline of ink", "headline of tea", "headline of tin"]


def test_refresh_of_a_graph_asks_everything_within_again(project: Project, posts: str, server: Server) -> None:
    project.json("run", posts)
    sent(server)
    project.json("run", posts, "--refresh", "posts")
    assert len(sent(server)) == 6


def test_refresh_and_until_reach_the_steps_of_every_row(project: Project, server: Server) -> None:
    project.write("rows.jsonl", '{"topic": "tea"}\n{"topic": "ink"}\n')
    project.write("post.yaml", {**POST, "defaults": {"model": "test-model"}})

    def over(output: str, *options: str) -> list[str]:
        outcome = project.cli("run", "post.yaml", "--over", "rows.jsonl", "--output", output, *options)
        assert outcome.code == 0, outcome.said
        return sorted(sent(server))

    assert len(over("1.jsonl")) == 4
    assert over("2.jsonl") == []
    assert over("3.jsonl", "--refresh", "headline") == ["headline of ink", "headline of tea"]
    assert over("4.jsonl", "--until", "headline", "--no-cache") == ["headline of ink", "headline of tea"]


def test_set_reaches_a_step_within(project: Project, posts: str, server: Server) -> None:
    project.json("run", posts, "--set", "posts.headline.model=other")
    models = {seen.prompt.split()[0]: seen.body["model"] for seen in server.requests}
    assert models == {"headline": "other", "body": "test-model", "after": "test-model"}


def test_until_runs_a_foreach_and_what_it_needs_alone(project: Project, posts: str, server: Server) -> None:
    project.json("run", posts, "--until", "posts")
    assert len(sent(server)) == 6


def test_limit_takes_the_first_items_and_the_whole_run_later_pays_for_the_rest(
    project: Project, posts: str, server: Server
) -> None:
    project.json("run", posts, "--limit", 1)
    assert sent(server) == ["headline of tea", "body of tea", "after 1"]
    project.json("run", posts)
    assert sorted(sent(server)) == ["after 3", "body of ink", "body of tin", "headline of ink", "headline of tin"]


def test_a_row_appended_to_a_file_costs_just_that_row(project: Project, server: Server) -> None:
    rows = project.write("rows.csv", "id,text\n1,a\n2,b\n")
    file = project.flow(steps={"x": {"foreach": {"file": "rows.csv"}, "prompt": "x {{ item.text }}", "as": "item"}})
    project.json("run", file)
    assert sorted(sent(server)) == ["x a", "x b"]
    rows.write_text("id,text\n3,c\n2,b\n1,a\n")
    assert project.json("run", file)["steps"]["x"]["counts"]["total"] == 3
    assert sent(server) == ["x c"]


def test_a_foreach_over_the_output_of_another(project: Project, server: Server) -> None:
    file = project.flow(
        steps={
            "a": {"foreach": "{{ range(300) | list }}", "value": "v{{ item }}"},
            "b": {"foreach": "{{ a }}", "value": "{{ item }}!"},
            "c": {"foreach": "{{ b[:2] }}", "prompt": "c {{ item }} [text=C]"},
        },
        outputs={"b": "{{ b }}"},
    )
    ran = project.json("run", file)
    assert ran["outputs"]["b"] == [f"v{n}!" for n in range(300)]
    assert sorted(sent(server)) == ["c v0!", "c v1!"]


def test_resume_with_an_edited_file_runs_what_changed_again_and_nothing_else(
    project: Project, posts: str, server: Server
) -> None:
    """Nothing is in the memo: what stands is known from the run alone."""
    steps = {name: {**step, "cache": False} for name, step in POST["steps"].items()}
    steps["body"]["prompt"] = "body of {{ inputs.topic }}, {{ headline }} [status=400]"
    project.write("post.yaml", {**POST, "steps": steps})
    assert project.cli("run", posts).code == 1
    assert len(sent(server)) == 6
    project.write("post.yaml", {**POST, "steps": {**steps, "body": {**POST["steps"]["body"], "cache": False}}})
    ran = project.json("resume", "--file", posts)
    assert ran["status"] == "succeeded"
    assert sorted(sent(server)) == ["after 3", "body of ink", "body of tea", "body of tin"]


def test_a_provider_that_dies_in_the_middle_pauses_the_run_and_nothing_is_paid_twice(
    project: Project, server: Server
) -> None:
    answered = 0

    def script(body: dict[str, Any], n: int) -> Reply:
        nonlocal answered
        answered += 1
        return FAULTS["quota"] if answered > 5 else Reply(text="fine")

    server.script = script
    file = project.flow(
        limits={"max_concurrent": 2},
        steps={"x": {"foreach": "{{ range(20) | list }}", "prompt": "x {{ item }}", "cache": False}},
    )
    outcome = project.cli("run", file)
    assert outcome.code == 3, outcome.said
    assert len(sent(server)) <= 7
    (row,) = project.rows("SELECT status FROM nodes WHERE node_id = 'x'")
    assert row == ("running",)
    server.script = lambda body, n: Reply(text="fine")
    ran = project.json("resume")
    assert ran["steps"]["x"]["counts"]["succeeded"] == 20
    assert len(sent(server)) == 15


def test_a_dead_provider_is_told_by_each_item_that_failed_for_good(project: Project, server: Server) -> None:
    server.script = lambda body, n: FAULTS["400"] if "x 3" in prompt_of(body) else Reply(text="fine")
    file = project.flow(steps={"x": {"foreach": "{{ range(5) | list }}", "prompt": "x {{ item }}"}})
    outcome = project.cli("run", file)
    assert outcome.code == 1, outcome.said
    assert "x[3]" in outcome.err
    assert len(server.requests) == 5


@pytest.mark.parametrize(("kind", "times"), [("prompts", 1), ("graphs", 1), ("graphs", 2)])
def test_signals_in_the_middle_lose_nothing_that_was_answered(
    kind: str, times: int, project: Project, server: Server
) -> None:
    work = {"prompt": "x{{ item }} [text=X]", "cache": False}
    if kind == "graphs":
        steps = {
            "one": {**work, "prompt": "x{{ inputs.n }} [text=X]"},
            "two": {**work, "prompt": "y{{ inputs.n }} {{ one }}"},
        }
        work = {
            "with": {"n": "{{ item }}"},
            "workflow": {"inputs": {"n": {"type": "integer"}}, "steps": steps, "outputs": {"two": "{{ two }}"}},
        }
    calls = 12 if kind == "prompts" else 24
    file = project.flow(limits={"max_concurrent": 2}, steps={"x": {"foreach": "{{ range(12) | list }}", **work}})
    server.latency = 0.1
    outcome = signalled(project, "run", file, at=lambda: len(server.requests) >= 5, times=times)
    assert outcome.code == 130, outcome.said
    first = sent(server)
    done = project.rows("SELECT count(*) FROM attempts WHERE status = 'succeeded'")[0][0]
    server.latency = 0.0
    ran = project.json("resume")
    counts = ran["steps"]["x"]["counts"]
    assert (counts["total"], counts["succeeded"]) == (12, 12)
    assert len(first) - done <= (2 if times > 1 else 0)
    assert len(sent(server)) == calls - done


def test_secrets_reach_a_graph_within_and_stay_masked(project: Project) -> None:
    project.write("tools.py", "def reveal(key, n):\n    return {'length': len(key), 'key': key, 'n': n}\n")
    inner = {
        "inputs": {"n": {"type": "integer"}},
        "secrets": ["API_TOKEN"],
        "steps": {
            "r": {"python": "./tools.py:reveal", "with": {"key": "{{ secrets.API_TOKEN }}", "n": "{{ inputs.n }}"}}
        },
        "outputs": {"r": "{{ r }}"},
    }
    project.write("inner.yaml", inner)
    file = project.flow(
        secrets=["API_TOKEN"],
        steps={"x": {"foreach": [1, 2], "workflow": "./inner.yaml", "with": {"n": "{{ item }}"}}},
        outputs={"x": "{{ x }}"},
    )
    ran = project.json("run", file, API_TOKEN="canary-0123456789")
    assert ran["outputs"]["x"][1] == {"r": {"length": 17, "key": "***", "n": 2}}
    assert b"canary-0123456789" not in project.database.read_bytes()


def test_graphs_within_are_never_entered_twice_by_equal_names(project: Project) -> None:
    """One file used by two steps keeps their nodes apart."""
    project.write("post.yaml", POST)
    step = {"workflow": "./post.yaml", "with": {"topic": "tea"}}
    file = project.flow(steps={"a": step, "b": {**step, "with": {"topic": "ink"}}}, outputs={"a": "{{ a.body }}"})
    project.json("run", file)
    names = {name for (name,) in project.rows("SELECT node_id FROM nodes")}
    assert names == {"a", "a.headline", "a.body", "b", "b.headline", "b.body"}
