"""Nodes that wait for a value from outside, with a kind of step that does nothing else."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flowllm.app.flowllm import FlowLLM
from flowllm.core.events import NodeStarted, NodeSuspended
from flowllm.core.types import NodeStatus, RunStatus
from flowllm.explain.forecast import forecast
from flowllm.explain.planner import Planner
from flowllm.runtime.background import nodes_around
from flowllm.runtime.options import RunOptions
from tests.support.calls import FakeProvider
from tests.support.project import Project, as_yaml
from tests.support.random_graphs import Author, DrawnAnswers
from tests.support.run_attempts import Stage
from tests.support.virtual import run_virtual
from tests.support.waiting import approval_steps

SUCCEEDED, FAILED, WAITING = NodeStatus.SUCCEEDED, NodeStatus.FAILED, NodeStatus.WAITING
KEPT = ("foreach", "accept", "max_concurrent", "max_failed", "on_error", "when", "needs")
SIMPLE = """
    steps:
      draft: {prompt: draft}
      ok: {approve: "{{ draft }}"}
      after: {value: "{{ ok[1] }}!"}
      other: {prompt: other}
    outputs: {after: "{{ after }}", other: "{{ other | length > 0 }}", status: "{{ steps.ok.status | default('none') }}"}
    """
ITEMS = """
    steps:
      posts: {foreach: [0, 1, 2, 3, 4, 5], max_concurrent: 2, approve: "{{ item }}"}
      sum: {value: "{{ posts | map(attribute=1) | sum }}"}
    outputs: {sum: "{{ sum }}", posts: "{{ posts }}"}
    """
NESTED = """
    steps:
      posts:
        foreach: [0, 1, 2]
        workflow:
          inputs: {x: {type: integer}}
          steps:
            text: {prompt: "text {{ inputs.x }}"}
            ok: {foreach: [7, 8], approve: "{{ inputs.x }} {{ item }} {{ text | length > 0 }}"}
            done: {value: "{{ ok | map(attribute=1) | sum }}"}
          outputs: {done: "{{ done }}"}
        with: {x: "{{ item }}"}
      sum: {value: "{{ posts | map(attribute='done') | sum }}"}
    outputs: {sum: "{{ sum }}"}
    """


@pytest.fixture(autouse=True)
def _approve() -> Iterator[None]:
    with approval_steps():
        yield


async def wake(stage: Stage, node: str, value: object) -> None:
    assert (await stage.store.wake(f"r1/{node}", value)).node_id == node


def test_the_rest_goes_on_and_a_resume_hands_the_value_over() -> None:
    async def main() -> None:
        stage = Stage()
        ready = await stage.prepare(SIMPLE)
        ending = await ready.attempt()
        assert ending.status is RunStatus.PAUSED
        assert ending.outputs == {"after": None, "other": True, "status": None}
        nodes = await stage.nodes()
        assert {name: node.status for name, node in nodes.items()} == {
            "draft": SUCCEEDED, "other": SUCCEEDED, "ok": WAITING,
        }  # fmt: skip
        (wait,) = await stage.store.waits(run_id="r1")
        assert (wait.node_id, wait.kind, wait.token) == ("ok", "approval", "r1/ok")
        (event,) = [event for event in ready.events if isinstance(event, NodeSuspended)]
        assert (event.node_id, event.kind, event.token) == ("ok", "approval", "r1/ok")
        sent = len(stage.provider.sent)

        again = await stage.prepare(SIMPLE)
        assert (await again.attempt()).status is RunStatus.PAUSED  # nobody has given a value
        assert [event.token for event in again.events if isinstance(event, NodeSuspended)] == ["r1/ok"]
        assert (await stage.nodes())["ok"].status is WAITING

        await wake(stage, "ok", "fine")
        await wake(stage, "ok", "too late")
        ending = await stage.run(SIMPLE)
        assert ending.status is RunStatus.SUCCEEDED
        assert ending.outputs == {"after": "fine!", "other": True, "status": "succeeded"}
        assert len(stage.provider.sent) == sent
        assert await stage.store.waits(run_id="r1", ready_at=stage.clock.now()) == []

    run_virtual(main())


def test_a_value_that_comes_while_other_steps_run_is_used_before_the_run_ends() -> None:
    class Slow(FakeProvider):
        async def complete(self, request: object, *, timeout: float) -> object:
            if request.messages[-1]["content"] == "other":
                await asyncio.sleep(5)
                await wake(stage, "ok", "early")
            return await super().complete(request, timeout=timeout)

    async def main() -> None:
        nonlocal stage
        stage = Stage()
        stage.provider = Slow()
        assert (await stage.run(SIMPLE)).outputs["after"] == "early!"

    stage: Stage
    run_virtual(main())


def test_a_failure_of_what_was_woken_is_one_of_its_step() -> None:
    async def main() -> None:
        stage = Stage()
        await stage.run(SIMPLE)
        await wake(stage, "ok", "no")
        ending = await stage.run(SIMPLE)
        nodes = await stage.nodes()
        assert ending.status is RunStatus.FAILED
        assert (nodes["ok"].status, nodes["after"].status) == (FAILED, NodeStatus.BLOCKED)

    run_virtual(main())


def test_a_due_time_goes_on_without_a_value() -> None:
    text = SIMPLE.replace('"{{ draft }}"}', '"{{ draft }}", due: 10s}').replace("{{ ok[1] }}!", "{{ ok[1] is none }}")

    async def main() -> None:
        stage = Stage()
        assert (await stage.run(text)).status is RunStatus.PAUSED
        await asyncio.sleep(9)
        assert (await stage.run(text)).status is RunStatus.PAUSED
        await asyncio.sleep(2)
        assert (await stage.run(text)).outputs["after"] is True

    run_virtual(main())


def test_suspended_items_hold_no_place_in_the_window_and_no_task() -> None:
    async def main() -> None:
        stage = Stage()
        assert (await stage.run(ITEMS)).status is RunStatus.PAUSED
        assert (await stage.nodes())["posts"].status is WAITING
        items = await stage.store.items("r1", "posts")
        assert [item.status for item in items] == [WAITING] * 6
        for index in (4, 1):
            await wake(stage, f"posts[{index}]", index)
        assert (await stage.run(ITEMS)).status is RunStatus.PAUSED
        items = await stage.store.items("r1", "posts")
        assert [item.place for item in items if item.status is SUCCEEDED] == [1, 4]
        for index in (0, 2, 3, 5):
            await wake(stage, f"posts[{index}]", index)
        ending = await stage.run(ITEMS)
        assert ending.outputs == {"sum": 15, "posts": [[index, index] for index in range(6)]}

    run_virtual(main())


def test_items_and_graphs_within_go_on_in_the_process_that_runs_them() -> None:
    """While the run has something else to do, values come one by one, and in an order of their own."""
    nodes = [f"posts[{post}].ok[{number}]" for number in (1, 0) for post in (2, 0, 1)]
    text = NESTED.replace("sum: {value", "slow: {prompt: slow}\n      sum: {value")

    class Slow(FakeProvider):
        async def complete(self, request: object, *, timeout: float) -> object:
            if request.messages[-1]["content"] == "slow":
                for number, node in enumerate(nodes):
                    await asyncio.sleep(3)
                    await wake(stage, node, number)
                    await asyncio.sleep(3)
                    assert await ready.context.suspended.look()
            return await super().complete(request, timeout=timeout)

    async def main() -> None:
        nonlocal stage, ready
        stage = Stage()
        stage.provider = Slow()
        ready = await stage.prepare(text)
        ending = await ready.attempt()
        assert (ending.status, ending.outputs) == (RunStatus.SUCCEEDED, {"sum": 15})
        assert len(stage.provider.sent) == 4
        posts = (await stage.nodes())["posts"]
        assert posts.attempts == 3  # nothing that was executed again is counted twice
        assert posts.usage.total == 3 * (await stage.store.node("r1", "posts[0].text")).usage.total

    stage: Stage
    ready: object
    run_virtual(main())


@pytest.mark.parametrize("together", [1, 2, 6])
def test_graphs_within_go_on_by_resumes(together: int) -> None:
    nodes = [f"posts[{post}].ok[{number}]" for number in (1, 0) for post in (2, 0, 1)]

    async def main() -> None:
        stage = Stage()
        assert (await stage.run(NESTED)).status is RunStatus.PAUSED
        assert {node.status for node in await stage.store.items("r1", "posts")} == {WAITING}
        for first in range(0, 6, together):
            for number, node in enumerate(nodes[first : first + together], first):
                await wake(stage, node, number)
            ending = await stage.run(NESTED)
            assert ending.status is (RunStatus.SUCCEEDED if first + together == 6 else RunStatus.PAUSED)
        assert ending.outputs == {"sum": 15}
        assert len(stage.provider.sent) == 3

    run_virtual(main())


def test_items_that_are_not_needed_any_more_wait_no_longer() -> None:
    text = """
        steps:
          posts:
            foreach: [0, 1, 2, 3]
            max_concurrent: 4
            approve: "{{ item }}"
            accept: {when: "{{ output[1] > 0 }}", count: 1, overshoot: 2}
        outputs: {posts: "{{ posts }}"}
        """

    async def main() -> None:
        stage = Stage()
        assert (await stage.run(text)).status is RunStatus.PAUSED
        assert [node.node_id for node in await stage.store.items("r1", "posts")] == ["posts[0]", "posts[1]"]
        await wake(stage, "posts[0]", 5)
        ending = await stage.run(text)
        assert (ending.status, ending.outputs) == (RunStatus.SUCCEEDED, {"posts": [[0, 5]]})
        assert await stage.store.waits(run_id="r1") == []

    run_virtual(main())


def test_a_step_that_was_edited_starts_anew() -> None:
    async def main() -> None:
        stage = Stage()
        await stage.run(SIMPLE)
        await wake(stage, "ok", "for the old one")
        other = SIMPLE.replace('"{{ draft }}"', '"{{ draft }} 2"')
        ready = await stage.prepare(other)
        assert (await ready.attempt()).status is RunStatus.PAUSED
        assert NodeStarted in {type(event) for event in ready.events}
        await wake(stage, "ok", "new")
        assert (await stage.run(other)).outputs["after"] == "new!"

    run_virtual(main())


def test_the_nodes_that_a_node_is_within() -> None:
    assert nodes_around("posts[1].body.lines[2]") == ["posts", "posts[1]", "posts[1].body", "posts[1].body.lines"]
    assert nodes_around("top") == []


class Waking(DrawnAnswers):
    """Gives suspended nodes their values while others are asked."""

    def __init__(self, stage: Stage, draw: random.Random) -> None:
        super().__init__(rejects=True)
        self.stage, self.draw, self.look = stage, draw, None

    async def complete(self, request: object, *, timeout: float) -> object:
        found = await super().complete(request, timeout=timeout)
        if self.look is not None and self.draw.random() < 0.5:
            await wake_some(self.stage, self.draw)
            await self.look()
        return found


async def wake_some(stage: Stage, draw: random.Random) -> int:
    waits = await stage.store.waits(run_id="r1")
    some = draw.sample(waits, draw.randint(min(1, len(waits)), len(waits)))
    for wait in some:
        await stage.store.wake(wait.token, "yes")
    return len(some)


def variants(step: object, draw: random.Random) -> tuple[object, object]:
    """A part of a workflow with some steps that wait, and with values in their place."""
    if not isinstance(step, dict):
        return step, step
    if "value" in step or ("prompt" in step and "output" not in step and draw.random() < 0.3):
        kept = {name: value for name, value in step.items() if name in KEPT}
        text = step.get("value", step.get("prompt"))
        return {**kept, "approve": text}, {**kept, "value": [text, "yes"]}
    pairs = {name: variants(value, draw) for name, value in step.items()}
    return {name: pair[0] for name, pair in pairs.items()}, {name: pair[1] for name, pair in pairs.items()}


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 1_000_000))
@example(335_981)  # the item that was woken is further on than `accept` would pull now
def test_a_run_with_waits_comes_to_what_it_would_have_come_to_without(seed: int) -> None:
    async def main() -> None:
        draw = random.Random(seed)
        graph = {"name": "sim", **Author(draw).graph(draw.randint(3, 8), depth=0, unique=True)}
        waiting, plain = (as_yaml(one) for one in variants(graph, draw))
        stage, other = Stage(), Stage()
        other.provider = DrawnAnswers(rejects=True)
        expected = await other.run(plain)
        stage.provider = Waking(stage, draw)
        for attempt in range(100):
            ready = await stage.prepare(waiting)
            if attempt == 0:
                planner = Planner(ready.run, RunOptions(), kinds=ready.kinds, store=stage.store)
                plan = await forecast(planner, ready.checked, ready.checked.steps, "fake")
            stage.provider.look = ready.context.suspended.look
            ending = await ready.attempt()
            if ending.status is not RunStatus.PAUSED:
                break
            assert await wake_some(stage, draw)
        assert (ending.status, ending.outputs) == (expected.status, expected.outputs)
        nodes, others = await stage.nodes(), await other.nodes()
        assert {name: node.status for name, node in nodes.items()} == {
            name: node.status for name, node in others.items()
        }
        for node in plan.nodes:
            assert not node.estimate.known or node.estimate.status is nodes[node.step].status

    run_virtual(main())


def test_a_person_reads_what_a_run_waits_for_and_goes_on_with_it(project: Project) -> None:
    steps = {"ok": {"approve": "the text"}, "after": {"value": "{{ ok[1] }}!"}}
    flow = project.flow(steps=steps, outputs={"after": "{{ after }}"})
    outcome = project.cli("run", flow)
    (run_id,) = project.run_ids()
    waits = f"approval, token {run_id}/ok"
    assert outcome.code == 3, outcome.said
    assert f"ok waits: {waits}" in outcome.err
    assert f"flowllm resume {run_id}" in outcome.err
    shown = project.cli("show", run_id)
    assert "paused" in shown.out
    assert f"waits: {waits}" in shown.out
    assert f"waits for    {waits}" in project.cli("show", run_id, "ok").out
    assert f"(approval) under the token {run_id}/ok" in project.cli("why", run_id, "ok").out
    assert project.json("show", run_id)["steps"]["ok"]["status"] == "waiting"

    async def give() -> None:
        async with FlowLLM(database=project.database) as app:
            await app.store.wake(f"{run_id}/ok", "fine")

    asyncio.run(give())
    assert project.json("resume", run_id)["outputs"] == {"after": "fine!"}
