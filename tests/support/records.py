"""Records for the tests of the store, with everything but the name filled in."""

from __future__ import annotations

from flowllm.core.types import AttemptStatus, Json, NodeId, NodeStatus, RunId, RunStatus, StepKind, Usage
from flowllm.storage.base import AttemptRecord, MemoRecord, NodeRecord, Owner, RunLease, RunRecord

ME = Owner(pid=4711, host="here", since=1_700_000_000.0)
OTHER = Owner(pid=4712, host="there", since=1_700_000_100.0)
USAGE = Usage(input_tokens=20, output_tokens=60)


def run(run_id: str, *, workflow: str = "blog", owner: Owner | None = None) -> RunRecord:
    return RunRecord(
        run_id=RunId(run_id),
        workflow=workflow,
        path=f"/flows/{workflow}.yaml",
        status=RunStatus.RUNNING,
        started_at=1_700_000_000.0,
        provider="simulated",
        inputs={"topic": "tea"},
        options={"limit": None},
        snapshot={f"/flows/{workflow}.yaml": "steps: {}\n"},
        owner=owner,
    )


def lease_of(record: RunRecord) -> RunLease:
    return RunLease(run_id=record.run_id, epoch=record.epoch)


def node(
    node_id: str,
    run_id: str,
    *,
    output: Json = "An answer of some words.",
    status: NodeStatus = NodeStatus.SUCCEEDED,
    seq: int = 1,
) -> NodeRecord:
    return NodeRecord(
        run_id=RunId(run_id),
        node_id=NodeId(node_id),
        kind=StepKind.PROMPT,
        status=status,
        key=f"{node_id:0>64}",
        parts={"body": {"model": "m", "messages": [{"role": "user", "content": f"Ask {node_id}."}]}},
        output=output,
        model="m",
        provider="simulated",
        attempts=1,
        usage=USAGE,
        cost_usd=0.0001,
        queue_s=0.1,
        call_s=1.2,
        started_at=1_700_000_001.0,
        finished_at=1_700_000_002.0,
        seq=seq,
    )


def attempt_of_node(
    node_id: str, run_id: str, *, number: int = 1, status: AttemptStatus = AttemptStatus.SUCCEEDED
) -> AttemptRecord:
    sent = status is AttemptStatus.SENT
    return AttemptRecord(
        attempt_id=f"{run_id}/{node_id}/{number}",
        run_id=RunId(run_id),
        node_id=NodeId(node_id),
        key=f"{node_id:0>64}",
        number=number,
        provider="simulated",
        model="m",
        started_at=1_700_000_001.0,
        status=status,
        finished_at=None if sent else 1_700_000_002.0,
        usage=Usage() if sent else USAGE,
        cost_usd=None if sent else 0.0001,
        reserved_tokens=100.0,
        reserved_usd=0.0005,
    )


def answer(name: str, *, value: Json = "An answer of some words.", created_at: float = 1_700_000_002.0) -> MemoRecord:
    return MemoRecord(
        key=f"{name:0>64}",
        provider="simulated",
        model="m",
        answer={
            "value": value,
            "model": "m",
            "provider": "simulated",
            "usage": USAGE.as_dict(),
            "cost_usd": 0.0001,
            "truncated": False,
        },
        created_at=created_at,
    )
