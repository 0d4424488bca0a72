"""What a node's requests took, added up from its events."""

from __future__ import annotations

from dataclasses import replace

from flowllm.core.events import Event, NodeRetrying, RequestEnded, RequestSent
from flowllm.core.types import NodeId, NodeStatus, RunId, StepKind, Usage
from flowllm.runtime.invocation import NodeUsage, UsageTotals
from flowllm.storage.base import NodeRecord

RUN, NODE = RunId("r"), NodeId("a")
FAILED = NodeRecord(run_id=RUN, node_id=NODE, kind=StepKind.PROMPT, status=NodeStatus.FAILED)


def _request(usage: NodeUsage, number: int, *, model: str = "m", cost: float | None = 0.5) -> None:
    usage(RequestSent(run_id=RUN, node_id=NODE, at=1.0, attempt=number, model=model, provider="p", queue_s=0.25))
    usage(
        RequestEnded(
            run_id=RUN,
            node_id=NODE,
            at=2.0,
            attempt=number,
            model=model,
            provider="p",
            call_s=1.0,
            usage=Usage(input_tokens=3),
            cost_usd=cost,
        )
    )


def test_requests_of_all_models_are_added_up() -> None:
    usage = NodeUsage(lambda _: None, lambda: None)
    _request(usage, 1)
    _request(usage, 2)
    _request(usage, 1, model="fallback")
    record = usage.onto(FAILED)
    assert (record.attempts, record.model, record.provider) == (3, "fallback", "p")
    assert (record.queue_s, record.call_s, record.cost_usd) == (0.75, 3.0, 1.5)
    assert record.usage == Usage(input_tokens=9)


def test_one_unknown_price_makes_the_sum_unknown() -> None:
    usage = NodeUsage(lambda _: None, lambda: None)
    _request(usage, 1)
    _request(usage, 2, cost=None)
    assert usage.onto(FAILED).cost_usd is None


def test_a_node_that_sent_nothing_stays_as_it_is() -> None:
    assert NodeUsage(lambda _: None, lambda: None).onto(FAILED) is FAILED


def test_every_event_is_passed_on() -> None:
    heard: list[Event] = []
    usage = NodeUsage(heard.append, lambda: None)
    _request(usage, 1)
    retrying = NodeRetrying(run_id=RUN, node_id=NODE, at=3.0, attempt=1, delay_s=0.0, error={})
    usage(retrying)
    assert [type(event) for event in heard] == [RequestSent, RequestEnded, NodeRetrying]


RECORD = NodeRecord(
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
    item.add(RECORD)
    graph.add(RECORD)
    assert [totals.attempts for totals in (item, graph, run)] == [2, 4, 4]
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
    run.add(RECORD)
    run.add(replace(RECORD, cost_usd=None))
    run.add(RECORD)
    assert run.figures()["cost_usd"] is None


def test_it_is_cached_if_nothing_was_sent_and_something_came_from_the_memo() -> None:
    answer = replace(RECORD, attempts=0, cached=True, cost_usd=0.0)
    cached, mixed, nothing = UsageTotals(), UsageTotals(), UsageTotals()
    cached.add(answer)
    mixed.add(answer)
    mixed.add(RECORD)
    assert [totals.figures()["cached"] for totals in (cached, mixed, nothing)] == [True, False, False]


def test_requests_are_counted_upwards_as_they_go_out() -> None:
    run = UsageTotals()
    one, other = UsageTotals(run), UsageTotals(run)
    one.note_sent()
    other.note_sent()
    one.note_sent()
    assert (one.sent, other.sent, run.sent) == (2, 1, 3)
