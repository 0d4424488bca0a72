from __future__ import annotations

from dataclasses import replace

from flowllm.core.types import NodeStatus, StepKind, Usage
from flowllm.runtime.invocation import UsageTotals
from flowllm.storage.base import NodeRecord

NODE = NodeRecord(
    run_id="r1",
    node_id="a",
    kind=StepKind.PROMPT,
    status=NodeStatus.SUCCEEDED,
    attempts=2,
    usage=Usage(input_tokens=3, output_tokens=5),
    cost_usd=0.5,
    queue_s=1.0,
    call_s=2.0,
)


def test_what_a_node_took_is_added_to_all_it_stands_in() -> None:
    run = UsageTotals()
    graph = UsageTotals(run)
    item = UsageTotals(graph)
    item.add(NODE)
    graph.add(NODE)
    assert [tally.attempts for tally in (item, graph, run)] == [2, 4, 4]
    assert run.figures() == {
        "attempts": 4,
        "cached": False,
        "usage": Usage(input_tokens=6, output_tokens=10),
        "cost_usd": 1.0,
        "queue_s": 2.0,
        "call_s": 4.0,
    }


def test_a_cost_that_is_not_known_makes_the_sum_unknown_and_never_zero() -> None:
    run = UsageTotals()
    run.add(NODE)
    run.add(replace(NODE, cost_usd=None))
    run.add(NODE)
    assert run.figures()["cost_usd"] is None


def test_it_is_cached_if_nothing_was_sent_and_something_came_from_the_memo() -> None:
    answer = replace(NODE, attempts=0, cached=True, cost_usd=0.0)
    cached, mixed, nothing = UsageTotals(), UsageTotals(), UsageTotals()
    cached.add(answer)
    mixed.add(answer)
    mixed.add(NODE)
    assert [tally.figures()["cached"] for tally in (cached, mixed, nothing)] == [True, False, False]


def test_requests_are_counted_upwards_as_they_go_out() -> None:
    run = UsageTotals()
    one, other = UsageTotals(run), UsageTotals(run)
    one.note_sent()
    other.note_sent()
    one.note_sent()
    assert (one.sent, other.sent, run.sent) == (2, 1, 3)
