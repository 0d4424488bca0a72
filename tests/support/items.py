"""A foreach and its items, for the tests of the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flowllm.core.types import Counts, NodeId, NodeStatus, RunId, RunStatus, StepKind, item_id
from flowllm.storage.base import ItemKey, MatchedItem, NodeRecord, NodeWrite, RunLease, RunRecord, Store
from tests.support.records import ME, lease_of, node, run

POSTS = NodeId("posts")
R1 = RunId("r1")


def item(
    place: int,
    content: str,
    *,
    epoch: int = 1,
    status: NodeStatus = NodeStatus.SUCCEEDED,
    number: int | None = None,
    parent: NodeId = POSTS,
) -> NodeRecord:
    name = item_id(parent, place if number is None else number)
    whole = node(name, R1, output=f"out {content}", status=status, seq=place + 1)
    return replace(
        whole, parent=parent, place=place, item={"text": content}, content=content, epoch=epoch, key=content * 9
    )


def foreach(*, epoch: int = 1, status: NodeStatus = NodeStatus.SUCCEEDED) -> NodeRecord:
    whole = node(POSTS, R1, output=None, status=status)
    return replace(whole, kind=StepKind.WORKFLOW, counts=Counts(total=3, succeeded=3), epoch=epoch)


async def write(store: Store, lease: RunLease, *records: NodeRecord) -> None:
    await store.commit(nodes=[NodeWrite(lease=lease, node=record) for record in records])


async def written(store: Store, contents: Sequence[str], *, status: NodeStatus = NodeStatus.SUCCEEDED) -> RunRecord:
    """A run in its first run attempt with a foreach over these; `status` is the foreach's."""
    begun = await store.create_run(run(R1, owner=ME))
    records = [item(place, content) for place, content in enumerate(contents)]
    await write(store, lease_of(begun), *records, foreach(status=status))
    return begun


async def again(store: Store, lease: RunLease) -> RunLease:
    """Another run attempt, in which the foreach has begun."""
    await store.finish_run(lease, status=RunStatus.INTERRUPTED, finished_at=1.0)
    claimed = lease_of(await store.claim_run(R1, ME))
    await write(store, claimed, foreach(epoch=claimed.epoch, status=NodeStatus.RUNNING))
    return claimed


async def adopt(store: Store, lease: RunLease, contents: Sequence[str], *, batch: int = 100) -> list[MatchedItem]:
    keys = [ItemKey(place=place, content=content) for place, content in enumerate(contents)]
    found: list[MatchedItem] = []
    for start in range(0, len(keys), batch):
        found += await store.adopt(lease, POSTS, keys[start : start + batch])
    return found


def told(adopted: Sequence[MatchedItem]) -> list[tuple[int, str | None]]:
    """The number of each item, and the content of its row."""
    return [(one.number, None if one.node is None else one.node.content) for one in adopted]
