"""Events with sensible values, for tests of what reads them."""

from __future__ import annotations

from typing import Any

from flowllm.core.events import (
    FallbackTaken,
    FanOutCounted,
    FanOutStarted,
    NodeEnded,
    NodeHedged,
    NodeRetrying,
    NodeStarted,
    NodeWaiting,
    Notice,
    RequestEnded,
    RequestJoined,
    RequestSent,
    RunEnded,
    RunStarted,
    StopRequested,
)
from flowllm.core.types import NodeId, NodeStatus, RunId, RunStatus, StepKind, Usage, WaitReason

RUN = RunId("20261121-abc")
ERROR = {"type": "RateLimited", "message": "too many requests", "hint": "wait a little"}


def run_started(**values: Any) -> RunStarted:
    return RunStarted(**{"run_id": RUN, "at": 0.0, "workflow": "blog", "provider": "openai", "nodes": 4} | values)


def node_started(node: str, **values: Any) -> NodeStarted:
    return NodeStarted(**{"run_id": RUN, "at": 0.0, "node_id": NodeId(node), "kind": StepKind.PROMPT} | values)


def node_ended(node: str, **values: Any) -> NodeEnded:
    known = {
        "run_id": RUN,
        "at": 0.0,
        "node_id": NodeId(node),
        "status": NodeStatus.SUCCEEDED,
        "done": 1,
        "total": 4,
        "kind": StepKind.PROMPT,
    }
    return NodeEnded(**known | values)


def request_sent(node: str, **values: Any) -> RequestSent:
    known = {
        "run_id": RUN,
        "at": 0.0,
        "node_id": NodeId(node),
        "attempt": 1,
        "model": "m",
        "provider": "openai",
        "queue_s": 0.0,
    }
    return RequestSent(**known | values)


def request_ended(node: str, **values: Any) -> RequestEnded:
    known = {
        "run_id": RUN,
        "at": 0.0,
        "node_id": NodeId(node),
        "attempt": 1,
        "model": "m",
        "provider": "openai",
        "call_s": 1.0,
        "usage": Usage(input_tokens=20, output_tokens=60),
        "cost_usd": 0.0001,
    }
    return RequestEnded(**known | values)


def request_joined(node: str) -> RequestJoined:
    return RequestJoined(run_id=RUN, at=0.0, node_id=NodeId(node))


def node_hedged(node: str) -> NodeHedged:
    return NodeHedged(run_id=RUN, at=0.0, node_id=NodeId(node), attempt=2)


def node_retrying(node: str, **values: Any) -> NodeRetrying:
    known = {"run_id": RUN, "at": 0.0, "node_id": NodeId(node), "attempt": 1, "delay_s": 1.2, "error": ERROR}
    return NodeRetrying(**known | values)


def node_waiting(node: str, reason: WaitReason, **values: Any) -> NodeWaiting:
    return NodeWaiting(**{"run_id": RUN, "at": 0.0, "node_id": NodeId(node), "reason": reason} | values)


def fallback_taken(node: str, model: str) -> FallbackTaken:
    return FallbackTaken(run_id=RUN, at=0.0, node_id=NodeId(node), model=model, error=ERROR)


def notice(message: str) -> Notice:
    return Notice(run_id=RUN, at=0.0, message=message)


def stop_requested(**values: Any) -> StopRequested:
    return StopRequested(**{"run_id": RUN, "at": 0.0, "reason": "Ctrl-C", "in_flight": 3} | values)


def run_ended(**values: Any) -> RunEnded:
    known = {
        "run_id": RUN,
        "at": 0.0,
        "status": RunStatus.SUCCEEDED,
        "duration_s": 3.4,
        "stats": {
            "requests": {"sent": 4, "cached": 1, "joined": 0, "retried": 2, "rate_limited": 1, "hedged": 3},
            "usage": {"input_tokens": 1080, "output_tokens": 240},
            "cost_usd": 0.0004,
            "latency_s": {"p50": 1.1, "p90": 1.3, "p99": 1.4},
            "duration_s": 3.4,
        },
    }
    return RunEnded(**known | values)


def fan_out_started(node: str, total: int | None, **values: Any) -> FanOutStarted:
    return FanOutStarted(**{"run_id": RUN, "at": 0.0, "node_id": NodeId(node), "total": total} | values)


def fan_out_counted(node: str, total: int, **values: Any) -> FanOutCounted:
    return FanOutCounted(**{"run_id": RUN, "at": 0.0, "node_id": NodeId(node), "total": total} | values)


def item_ended(foreach: str, place: int, **values: Any) -> NodeEnded:
    return node_ended(f"{foreach}[{place}]", **{"parent": foreach, "place": place, "total": 0} | values)
