"""What a reader of a run asks for again and again: changes, totals, running nodes, waits, gauges."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from flowllm.core.types import AttemptStatus, NodeId, NodeStatus, RunId, RunStatus
from flowllm.storage.base import ItemKey, NodeWrite, Store
from flowllm.storage.monitoring import Gauge, Learned, RunTotals, SuspensionRecord
from flowllm.storage.sql.store import SqlStore
from tests.support.records import ME, attempt_of_node, lease_of, node, run

pytestmark = pytest.mark.anyio
R1 = RunId("r1")


async def changed(store: Store, since: int = 0, limit: int = 500) -> list[tuple[int, str, str]]:
    nodes = await store.briefs(R1, since=since, limit=limit)
    items = await store.item_changes(R1, since=since, limit=limit)
    found = [(one.change_no, one.node_id, one.status.value) for one in nodes]
    found += [(one.change_no, f"{one.parent}[{one.place}]", one.status.value) for one in items]
    return sorted(found)[:limit]


async def test_every_change_of_a_node_has_a_number_of_its_own_across_attempts_at_the_run(store: Store) -> None:
    lease = lease_of(await store.create_run(run("r1", owner=ME)))
    other = lease_of(await store.create_run(run("r2", owner=ME)))
    for name in ("a", "b", "a"):
        await store.commit(nodes=[NodeWrite(lease=lease, node=node(name, "r1", seq=1))])
        await store.commit(nodes=[NodeWrite(lease=other, node=node(name, "r2"))])
    assert await changed(store) == [(2, "b", "succeeded"), (3, "a", "succeeded")]
    item = replace(node("f[0]", "r1", seq=7), parent=NodeId("f"), place=0, content="c")
    await store.commit(nodes=[NodeWrite(lease=lease, node=item), NodeWrite(lease=lease, node=node("c", "r1", seq=9))])
    await store.finish_run(lease, status=RunStatus.INTERRUPTED, finished_at=1.0)
    claimed = await store.claim_run(R1, ME)
    assert (claimed.totals.last_seq, claimed.totals.changes) == (9, 5)
    lease = lease_of(claimed)
    await store.adopt(lease, NodeId("f"), [ItemKey(place=0, content="c")])
    await store.commit(nodes=[NodeWrite(lease=lease, node=replace(node("b", "r1"), status=NodeStatus.FAILED, epoch=2))])
    assert await changed(store, since=3) == [(5, "c", "succeeded"), (6, "f[0]", "succeeded"), (7, "b", "failed")]
    assert await changed(store, since=3, limit=1) == [(5, "c", "succeeded")]
    assert await changed(store, since=7) == []


async def test_totals_are_those_of_the_rows_however_often_they_are_written(store: Store) -> None:
    lease = lease_of(await store.create_run(run("r1", owner=ME)))
    assert (await store.run(R1)).totals == RunTotals()
    for number in range(3):
        sent = attempt_of_node("a", "r1", number=number, status=AttemptStatus.SENT)
        await store.begin_attempt(lease, sent)
        for _ in range(number):
            ended = attempt_of_node("a", "r1", number=number)
            await store.commit(
                attempt=ended, attempt_lease=lease, nodes=[NodeWrite(lease=lease, node=node(f"n{number}", "r1"))]
            )
    local = replace(attempt_of_node("s", "r1", number=9), model="")
    await store.commit(attempt=local, attempt_lease=lease)
    (listed,) = await store.runs()
    spend = await store.spend(R1, NodeId("a"))
    assert (spend.requests, spend.unknown, spend.tokens, spend.reserved_usd) == (3, 1, 260.0, 0.0005)
    assert listed.totals.spend == await store.spend(R1) == spend
    assert listed.totals.nodes == {NodeStatus.SUCCEEDED: 2}
    await store.commit(attempt=attempt_of_node("a", "r1", number=0), attempt_lease=lease)
    await store.commit(nodes=[NodeWrite(lease=lease, node=node("n1", "r1", status=NodeStatus.FAILED))])
    totals = (await store.run(R1)).totals
    assert totals.nodes == {NodeStatus.SUCCEEDED: 1, NodeStatus.FAILED: 1}
    assert (totals.spend.unknown, totals.spend.reserved_usd) == (0, 0.0)
    await store.finish_run(lease, status=RunStatus.FAILED, finished_at=1.0)
    await store.delete_runs([R1])
    await store.create_run(run("r1", owner=ME))
    assert (await store.run(R1)).totals == RunTotals()


async def test_a_node_that_runs_has_a_row_that_rides_and_never_writes_over_what_ended(store: Store) -> None:
    lease = lease_of(await store.create_run(run("r1", owner=ME)))
    begun = replace(node("a", "r1", status=NodeStatus.RUNNING), content="c", place=None)
    store.note_running(lease, begun)
    assert await store.nodes(R1) == []
    await store.begin_attempt(lease, attempt_of_node("a", "r1", status=AttemptStatus.SENT))
    (found,) = await store.nodes(R1)
    assert (found.status, found.key, found.content, found.damaged) == (NodeStatus.RUNNING, "", "c", False)
    await store.commit(nodes=[NodeWrite(lease=lease, node=node("a", "r1"))])
    store.note_running(lease, begun)  # late
    store.note_running(replace(lease, epoch=9), replace(begun, node_id=NodeId("not-ours")))
    await store.commit(nodes=[NodeWrite(lease=lease, node=node("b", "r1", status=NodeStatus.CANCELLED))])
    assert [one.status for one in await store.nodes(R1)] == [NodeStatus.SUCCEEDED, NodeStatus.CANCELLED]
    await store.finish_run(lease, status=RunStatus.INTERRUPTED, finished_at=1.0)
    lease = lease_of(await store.claim_run(R1, ME))
    for name in "ab":
        store.note_running(lease, replace(begun, node_id=NodeId(name), epoch=2))
    await store.mark_output(lease, 1)
    assert {one.node_id: one.status.value for one in await store.nodes(R1)} == {"a": "succeeded", "b": "running"}


async def test_a_suspended_node_waits_as_a_row_until_it_ends(store: Store) -> None:
    lease = lease_of(await store.create_run(run("r1", owner=ME)))
    waiting = [node(name, "r1", status=NodeStatus.WAITING, output=None) for name in "ab"]
    waits = [
        SuspensionRecord(run_id=R1, node_id=NodeId("a"), kind="approval", token="t\0a", payload={"who": "me"}),
        SuspensionRecord(run_id=R1, node_id=NodeId("b"), kind="batch", token="tb", due_at=50.0),
    ]
    for row, wait in zip(waiting, waits, strict=True):
        await store.suspend(lease, row, wait)
    with pytest.raises(ValueError, match="cannot hold"):
        await store.suspend(lease, waiting[0], replace(waits[0], token="tb"))
    assert await store.waits() == [waits[1], waits[0]]
    assert await store.waits(run_id=R1, due_before=50.0) == []
    assert await store.waits(due_before=51.0) == [waits[1]]
    assert await store.wake("unknown", 1) is None
    woken = replace(waits[0], woken=True, value={"ok": True})
    assert await store.wake("t\0a", {"ok": True}) == woken
    assert await store.wake("t\0a", "second") == woken
    assert await store.waits() == [waits[1]]
    totals = (await store.run(R1)).totals
    assert totals.nodes == {NodeStatus.WAITING: 2}
    await store.commit(nodes=[NodeWrite(lease=lease, node=replace(waiting[0], status=NodeStatus.SUCCEEDED))])
    assert await store.wake("t\0a", 1) is None
    with pytest.raises(ValueError, match="status waiting"):
        await store.suspend(lease, node("b", "r1"), waits[1])


async def test_gauges_ride_and_are_kept_for_ten_minutes(store: Store) -> None:
    gauge = Gauge(
        process="here:1",
        account="acc",
        at=1000.0,
        in_flight=3,
        waiting=9,
        rate=2.5,
        tokens=None,
        pause_s=0.5,
        waits={"slot": {"normal": 9}},
    )
    store.note_gauges([gauge])
    store.note_gauges([])
    assert await store.gauges(since=0) == []
    await store.learn([Learned(account="acc", name="x", value=1.0, at=1.0)])
    assert await store.gauges(since=0) == [gauge]
    for at in (
        1020.5,
        1021.0,
        1049.0,
        1050.0,
        1051.0,
        1660.0,
    ):  # one in half a minute stays of what is older than ten minutes
        store.note_gauges([replace(gauge, at=at), replace(gauge, at=at, account="b")])
    await store.learn([Learned(account="acc", name="x", value=2.0, at=1.0)])
    found = await store.gauges(since=0)
    assert {one.at for one in found if one.account == "acc"} == {1000.0, 1020.5, 1050.0, 1660.0}
    assert {one.at for one in found if one.account == "b"} == {1020.5, 1050.0, 1660.0}
    assert {one.at for one in await store.gauges(since=1020.5, until=1050.0)} == {1050.0}
    store.note_gauges([replace(gauge, at=1050.0 + 7 * 86_400.0)])
    await store.learn([Learned(account="acc", name="x", value=3.0, at=1.0)])
    assert [one.at for one in await store.gauges(since=0, until=1e5)] == [1050.0, 1050.0, 1660.0, 1660.0]


async def test_what_a_node_waits_is_noted_while_it_runs_and_by_the_attempt_that_has_the_run_alone(store: Store) -> None:
    lease = lease_of(await store.create_run(run("r1", owner=ME)))
    store.note_running(lease, replace(node("a", "r1", status=NodeStatus.RUNNING), finished_at=None))
    await store.commit(nodes=[NodeWrite(lease=lease, node=replace(node("b", "r1"), waits={"slot": 1.0}))])
    store.note_waits(lease, {NodeId("a"): {"rate": 2.5}, NodeId("b"): {"rate": 9.0}})
    store.note_waits(replace(lease, epoch=0), {NodeId("a"): {"rate": 7.0}})
    await store.learn([Learned(account="acc", name="x", value=1.0, at=1.0)])
    assert {one.node_id: dict(one.waits) for one in await store.nodes(R1)} == {"a": {"rate": 2.5}, "b": {"slot": 1.0}}


async def test_an_item_that_a_resume_takes_over_while_it_ran_is_whole_when_its_waits_are_noted(store: Store) -> None:
    lease = lease_of(await store.create_run(run("r1", owner=ME)))
    item = replace(node("f[0]", "r1"), parent="f", place=0, content="c", status=NodeStatus.RUNNING, finished_at=None)
    store.note_running(lease, item)
    await store.finish_run(lease, status=RunStatus.INTERRUPTED, finished_at=3.0)
    lease = lease_of(await store.claim_run(R1, ME))
    await store.adopt(lease, NodeId("f"), [ItemKey(place=0, content="c")])
    store.note_waits(lease, {NodeId("f[0]"): {"rate": 2.5}})
    await store.finish_run(lease, status=RunStatus.INTERRUPTED, finished_at=4.0)
    (found,) = await store.items(R1, NodeId("f"))
    assert (found.status, dict(found.waits), found.damaged) == (NodeStatus.RUNNING, {"rate": 2.5}, False)
    assert list(store.outputs(R1, NodeId("f"))) == [None]


async def test_gauges_are_written_also_while_nothing_is_committed_as_all_wait(disk: SqlStore) -> None:
    gauge = Gauge(process="here:1", account="acc", at=1.0, in_flight=0, waiting=9)
    for second in range(3):
        disk.note_gauges([replace(gauge, at=second)])
    await asyncio.to_thread(disk._writer.loss)  # it looks when it has written what it was given
    assert [one.at for one in await disk.gauges(since=-1.0)] == [0.0, 1.0]
