"""What `plan` says is held against a run of the same workflow, for random graphs."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from flowllm.core.types import NodeStatus, StepKind, is_within
from flowllm.explain.estimate import Estimate
from flowllm.explain.forecast import forecast
from flowllm.explain.planner import Planner
from flowllm.language.workflow import Step, WorkflowBody
from flowllm.runtime.options import RunOptions
from flowllm.storage.base import NodeRecord
from tests.support.answering import all_nodes
from tests.support.random_graphs import Author, DrawnAnswers
from tests.support.run_attempts import Stage
from tests.support.virtual import run_virtual


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 1_000_000), st.booleans(), st.sampled_from([None, 2]))
def test_a_run_does_what_its_plan_says(seed: int, rejects: bool, limit: int | None) -> None:
    text = Author(random.Random(seed)).workflow()
    options = RunOptions(limit=limit)

    async def main() -> None:
        stage = Stage()
        stage.provider = DrawnAnswers(rejects=rejects)
        for run_id in ("first", "again"):
            ready = await stage.prepare(text, run_id=run_id, options=options)
            planner = Planner(ready.run, options, kinds=ready.kinds, store=stage.store)
            plan = await forecast(planner, ready.checked, ready.checked.steps, "fake")
            before = len(stage.provider.sent)
            await ready.attempt()
            nodes = {node.node_id: node for node in await all_nodes(stage, run_id)}
            for node in plan.nodes:
                step = ready.checked.steps[node.step]
                compare(node.step, step, node.estimate, nodes, exact=not rejects)
            sent, requests = len(stage.provider.sent) - before, plan.total.takes.requests
            assert requests.high is None or sent <= requests.high
            assert rejects or requests.low <= sent, "what is sent for certain was not"

    run_virtual(main())


def compare(name: str, step: Step, planned: Estimate, nodes: dict[str, NodeRecord], *, exact: bool) -> None:
    """`exact`: no request fails."""
    record = nodes[name]
    asked = [
        node
        for node in nodes.values()
        if is_within(node.node_id, (name,)) and node.kind is StepKind.PROMPT and node.counts is None
        and node.status in {NodeStatus.SUCCEEDED, NodeStatus.FAILED}
    ]  # fmt: skip
    if planned.known:
        assert (record.status, record.counts) == (planned.status, planned.counts), name
        cached = sum(node.cached for node in asked)
        assert record.attempts == planned.requests, name
        assert cached == planned.cached or (accepts(step) and cached > planned.cached), (
            name
        )  # items that were under way
        assert step.foreach is not None or record.output == planned.output
    elif planned.requests is not None:
        assert record.attempts <= planned.requests, name
    if planned.status is NodeStatus.FAILED:
        assert record.status is NodeStatus.FAILED, name
    certain = planned.requests is not None and planned.cached is not None
    if exact and certain and not accepts(step):
        assert len(asked) == planned.requests + planned.cached, name


def accepts(step: Step) -> bool:
    inner = step.body.graph.steps.values() if isinstance(step.body, WorkflowBody) else ()
    return (step.foreach is not None and step.foreach.accept is not None) or any(map(accepts, inner))
