"""What a node's requests took, added up from its events."""

from __future__ import annotations

from flowllm.core.events import Event, NodeRetrying, RequestEnded, RequestSent
from flowllm.core.types import NodeId, NodeStatus, RunId, StepKind, Usage
from flowllm.runtime.node_usage import NodeUsage
from flowllm.storage.base import NodeRecord

RUN, NODE = RunId("r"), NodeId("a")
FAILED = NodeRecord(run_id=RUN, node_id=NODE, kind=StepKind.PROMPT, status=NodeStatus.FAILED)


def _request(spent: NodeUsage, number: int, *, model: str = "m", cost: float | None = 0.5) -> None:
    spent(RequestSent(run_id=RUN, node_id=NODE, at=1.0, attempt=number, model=model, provider="p", queue_s=0.25))
    spent(
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
    spent = NodeUsage(lambda _: None, lambda: None)
    _request(spent, 1)
    _request(spent, 2)
    _request(spent, 1, model="fallback")
    record = spent.onto(FAILED)
    assert (record.attempts, record.model, record.provider) == (3, "fallback", "p")
    assert (record.queue_s, record.call_s, record.cost_usd) == (0.75, 3.0, 1.5)
    assert record.usage == Usage(input_tokens=9)


def test_one_unknown_price_makes_the_sum_unknown() -> None:
    spent = NodeUsage(lambda _: None, lambda: None)
    _request(spent, 1)
    _request(spent, 2, cost=None)
    assert spent.onto(FAILED).cost_usd is None


def test_a_node_that_sent_nothing_stays_as_it_is() -> None:
    assert NodeUsage(lambda _: None, lambda: None).onto(FAILED) is FAILED


def test_every_event_is_passed_on() -> None:
    heard: list[Event] = []
    spent = NodeUsage(heard.append, lambda: None)
    _request(spent, 1)
    retrying = NodeRetrying(run_id=RUN, node_id=NODE, at=3.0, attempt=1, delay_s=0.0, error={})
    spent(retrying)
    assert [type(event) for event in heard] == [RequestSent, RequestEnded, NodeRetrying]
