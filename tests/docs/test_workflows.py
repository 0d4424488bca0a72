"""The workflows that come with the repository, as people see them first: offline."""

from __future__ import annotations

import pytest

from flowllm import FlowLLM, RunResult, RunStatus, load_workflow
from flowllm.explain.graph import Graph
from tests.support.documentation import ROOT

pytestmark = pytest.mark.anyio
BLOG, FULL = ROOT / "workflows" / "blog.yaml", ROOT / "workflows" / "blog_full.yaml"


async def run(path: object, **inputs: str) -> RunResult:
    async with FlowLLM(database="memory:", environ={}) as app:
        return await app.run(str(path), inputs=inputs)


async def test_the_blog_takes_four_requests_and_two_at_a_time() -> None:
    done = await run(BLOG)
    assert done.status is RunStatus.SUCCEEDED
    assert done.stats["requests"]["sent"] == 4
    assert list(done.outputs) == ["headline", "keywords"]
    assert len(done.outputs["keywords"]) == 10


async def test_the_whole_post_takes_twelve_requests() -> None:
    done = await run(FULL)
    assert done.status is RunStatus.SUCCEEDED
    assert done.stats["requests"]["sent"] == 12
    assert sum(step.kind == "prompt" for step in done.steps.values()) == 12


async def test_the_whole_post_is_put_together_in_order() -> None:
    done = await run(FULL, topic="Growing tea at home")
    post = done.outputs["post"]
    parts = ["headline", "intro", *(f"section_{number}" for number in range(1, 6)), "conclusion"]
    places = [post.index(done.steps[part].output) for part in parts]
    assert places == sorted(places)
    headings = [line for line in post.splitlines() if line.startswith("#")]
    assert headings[0] == f"# {done.outputs['headline']}"
    topics = [part["topic"].lower() for part in done.steps["outline"].output]
    assert [heading.removeprefix("## ").lower() for heading in headings[1:]] == [*topics, "conclusion"]
    assert "\n\n\n" not in post


def test_the_sections_of_the_whole_post_run_at_the_same_time() -> None:
    generations = Graph.of(load_workflow(FULL)).generations()
    assert {"headline", "keywords"} == set(generations[0])
    assert {*(f"section_{number}" for number in range(1, 6)), "conclusion"} == set(generations[3])


async def test_the_agent_asks_until_it_knows_and_then_answers_and_a_repeat_asks_nothing() -> None:
    async with FlowLLM(database="memory:", environ={}) as app:
        done = await app.run(ROOT / "workflows" / "agent.yaml")
        again = await app.run(ROOT / "workflows" / "agent.yaml")
        asked = await app.store.nodes(done.run_id, "answer")
    assert done.status is RunStatus.SUCCEEDED
    assert 2 <= len(asked) <= 5
    assert done.outputs["answer"] == asked[-1].output
    assert done.stats["requests"]["sent"] == len(asked)
    assert again.outputs == done.outputs
    assert again.stats["requests"] == {**done.stats["requests"], "sent": 0, "cached": len(asked)}
