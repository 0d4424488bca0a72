"""What every store promises."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace

import pytest

from flowllm.core.errors import OwnershipLost, RunNotFound, RunOwned, UsageError
from flowllm.core.types import AttemptStatus, NodeId, NodeStatus, RunId, RunStatus
from flowllm.storage.base import NodeWrite, RunLease, RunRecord, Store
from tests.support.records import ME, OTHER, answer, attempt_of_node, lease_of, node, run

pytestmark = pytest.mark.anyio


async def finish(store: Store, record: RunRecord, status: RunStatus = RunStatus.SUCCEEDED) -> None:
    await store.finish_run(lease_of(record), status=status, finished_at=1_700_000_009.0)


# runs


async def test_a_run_comes_back_as_it_was_made(store: Store) -> None:
    given = replace(run("r1", owner=ME), tenant="acme", tags=("a", "b\0"))
    made = await store.create_run(given)
    assert made.seq == 1
    assert await store.run(RunId("r1")) == made
    assert made == replace(given, seq=1)


async def test_runs_are_found_by_status_age_tag_text_and_number(store: Store) -> None:
    async def found(**wanted: object) -> list[str]:
        return [one.run_id for one in await store.runs(**wanted)]

    for number, (status, tags) in enumerate([("succeeded", "xy"), ("failed", "y"), ("failed", ""), (None, "z")]):
        inputs = {"topic": f'Tea "{number}" \u00e9'}
        record = replace(run(f"r{number}", owner=ME), started_at=100.0 + number, tags=tuple(tags), inputs=inputs)
        made = await store.create_run(record)
        if status is not None:
            await finish(store, made, RunStatus(status))
    assert await found(status=RunStatus.FAILED) == ["r2", "r1"]
    assert await found(status=RunStatus.RUNNING) == ["r3"]
    assert await found(status=RunStatus.INTERRUPTED) == []
    assert await found(since=101.0, tag="y") == ["r1"]
    assert await found(tag="y", status=RunStatus.SUCCEEDED, workflow="blog") == ["r0"]
    assert await found(search='TEA "2" \u00e9') == ["r2"]
    assert (await found(search="R1"), await found(search="z"), await found(search="%")) == (["r1"], ["r3"], [])
    assert await found(limit=1, before_seq=3) == ["r1"]
    assert (await store.tags(), await store.workflows()) == (["x", "y", "z"], ["blog"])
    claimed = await store.claim_run(RunId("r1"), ME)
    assert claimed.tags == ("y",)
    await finish(store, claimed)
    await store.delete_runs([RunId("r1"), RunId("r0")])
    assert await store.tags() == ["z"]


async def test_an_id_is_taken_once(store: Store) -> None:
    await finish(store, await store.create_run(run("r1", owner=ME)))
    with pytest.raises(UsageError, match="already is a run r1"):
        await store.create_run(run("r1", owner=ME))
    assert (await store.run(RunId("r1"))).status is RunStatus.SUCCEEDED


async def test_the_end_of_a_run(store: Store) -> None:
    made = await store.create_run(run("r1", owner=ME))
    await store.finish_run(
        lease_of(made),
        status=RunStatus.FAILED,
        finished_at=5.0,
        outputs={"b": 1, "a": "\ud800"},
        error={"type": "X"},
        stats={"sent": 3},
    )
    ended = await store.run(RunId("r1"))
    assert ended == replace(
        made,
        status=RunStatus.FAILED,
        finished_at=5.0,
        outputs={"b": 1, "a": "\ud800"},
        error={"type": "X"},
        stats={"sent": 3},
        owner=None,
    )
    assert list(ended.outputs or ()) == ["b", "a"]


async def test_a_run_is_found_by_an_unambiguous_beginning(store: Store) -> None:
    for run_id in ("abc1", "abd2", "ab", "x_y", "xzy"):
        await store.create_run(run(run_id, owner=ME))
    assert (await store.run(RunId("abc"))).run_id == "abc1"
    assert (await store.run(RunId("ab"))).run_id == "ab"
    assert (await store.run(RunId("x_"))).run_id == "x_y"
    with pytest.raises(RunNotFound, match="abc1"):
        await store.run(RunId("a"))
    for missing in ("", "abc12", "%", "ABC", "zz"):
        with pytest.raises(RunNotFound):
            await store.run(RunId(missing))


async def test_runs_are_listed_newest_first_without_snapshots(store: Store) -> None:
    for number in range(5):
        await store.create_run(run(f"r{number}", workflow="odd" if number % 2 else "even", owner=ME))
    assert [record.run_id for record in await store.runs()] == ["r4", "r3", "r2", "r1", "r0"]
    assert [record.run_id for record in await store.runs(limit=2)] == ["r4", "r3"]
    odd = await store.runs(workflow="odd")
    assert [record.run_id for record in odd] == ["r3", "r1"]
    assert all(record.snapshot == {} for record in odd)
    assert [record.seq for record in odd] == [4, 2]


async def test_runs_are_listed_by_how_they_ended_and_when(store: Store) -> None:
    for number in range(5):
        await store.create_run(run(f"r{number}", owner=ME))
    for number, status in ((1, RunStatus.SUCCEEDED), (2, RunStatus.FAILED), (3, RunStatus.SUCCEEDED)):
        lease = RunLease(run_id=RunId(f"r{number}"), epoch=1)
        await store.finish_run(lease, status=status, finished_at=100.0 * number)
    unfinished = await store.runs(unfinished=True)
    assert [record.run_id for record in unfinished] == ["r4", "r2", "r0"]
    assert [record.run_id for record in await store.runs(limit=1, unfinished=True)] == ["r4"]
    assert [record.run_id for record in await store.runs(ended_before=250.0)] == ["r2", "r1"]
    assert await store.compact() in {None, 0}, "runs are going"


async def test_the_number_of_a_deleted_run_is_not_given_again(store: Store) -> None:
    await store.create_run(run("r1"))
    await store.delete_runs([RunId("r1")])
    assert (await store.create_run(run("r2"))).seq == 2


async def test_update_run(store: Store) -> None:
    made = await store.create_run(run("r1", owner=ME))
    await store.update_run(
        lease_of(made), snapshot={"/b.yaml": "x"}, path="/b.yaml", options={"limit": 3}, inputs={"b": 1}
    )
    assert await store.run(RunId("r1")) == replace(
        made, snapshot={"/b.yaml": "x"}, path="/b.yaml", options={"limit": 3}, inputs={"b": 1}
    )


# ownership


async def test_a_claim_raises_the_epoch_and_names_the_owner(store: Store) -> None:
    made = await store.create_run(run("r1", owner=ME))
    await finish(store, made, RunStatus.PAUSED)
    claimed = await store.claim_run(RunId("r1"), OTHER)
    assert (claimed.epoch, claimed.owner, claimed.status) == (2, OTHER, RunStatus.RUNNING)
    assert claimed.finished_at is None
    assert claimed.snapshot == made.snapshot
    assert await store.run(RunId("r1")) == claimed


async def test_a_run_has_one_owner(store: Store) -> None:
    await store.create_run(run("r1", owner=ME))
    with pytest.raises(RunOwned, match="process 4711 on here since 2023-11-14"):
        await store.claim_run(RunId("r1"), OTHER)
    assert (await store.run(RunId("r1"))).epoch == 1


async def test_of_many_claims_at_once_one_wins(store: Store) -> None:
    await finish(store, await store.create_run(run("r1", owner=ME)), RunStatus.INTERRUPTED)
    results = await asyncio.gather(*(store.claim_run(RunId("r1"), ME) for _ in range(8)), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["RunOwned"] * 7 + ["RunRecord"]
    assert (await store.run(RunId("r1"))).epoch == 2


async def test_only_a_whole_id_is_claimed(store: Store) -> None:
    await finish(store, await store.create_run(run("r1", owner=ME)), RunStatus.PAUSED)
    for missing in ("r", "r2"):
        with pytest.raises(RunNotFound):
            await store.claim_run(RunId(missing), ME)


async def test_a_claim_makes_attempts_under_way_unknown(store: Store) -> None:
    made = await store.create_run(run("r1", owner=ME))
    other = await store.create_run(run("r2", owner=ME))
    for record in (made, other):
        for name in ("a", "b"):
            sent = attempt_of_node(name, record.run_id, status=AttemptStatus.SENT)
            await store.begin_attempt(lease_of(record), sent)
    await store.commit(attempt=attempt_of_node("a", "r1"), attempt_lease=lease_of(made))
    await finish(store, made, RunStatus.INTERRUPTED)
    await store.claim_run(RunId("r1"), ME)
    after = [attempt.status for attempt in await store.attempts(RunId("r1"))]
    assert after == [AttemptStatus.SUCCEEDED, AttemptStatus.UNKNOWN]
    assert {attempt.status for attempt in await store.attempts(RunId("r2"))} == {AttemptStatus.SENT}


async def test_a_running_run_that_nobody_holds_is_shown_as_interrupted(store: Store) -> None:
    await store.create_run(run("r1"))
    assert (await store.run(RunId("r1"))).status is RunStatus.INTERRUPTED
    assert (await store.runs())[0].status is RunStatus.INTERRUPTED
    assert (await store.claim_run(RunId("r1"), ME)).status is RunStatus.RUNNING
    assert (await store.runs())[0].status is RunStatus.RUNNING


@pytest.mark.parametrize("gone", [False, True])
async def test_a_stale_fence_writes_nothing(store: Store, gone: bool) -> None:
    made = await store.create_run(run("r1", owner=ME))
    await finish(store, made, RunStatus.PAUSED)
    if gone:
        await store.delete_runs([RunId("r1")])
    else:
        await store.claim_run(RunId("r1"), OTHER)
    stale = lease_of(made)
    before = [await store.runs(), await store.nodes(RunId("r1")), await store.attempts(RunId("r1"))]
    sent = attempt_of_node("a", "r1", status=AttemptStatus.SENT)
    write = NodeWrite(lease=stale, node=node("a", "r1"))
    for verb in (
        store.begin_attempt(stale, sent),
        store.commit(attempt=attempt_of_node("a", "r1"), attempt_lease=stale, memo=answer("a")),
        store.commit(memo=answer("a"), nodes=[write]),
        store.update_run(stale, snapshot={}, path="", options={}, inputs={}),
        store.finish_run(stale, status=RunStatus.FAILED, finished_at=9.0),
    ):
        with pytest.raises(OwnershipLost, match="r1"):
            await verb
    after = [await store.runs(), await store.nodes(RunId("r1")), await store.attempts(RunId("r1"))]
    assert after == before
    assert await store.memo(answer("a").key) is None


# nodes and attempts


async def test_nodes_come_in_order_of_completion(store: Store) -> None:
    lease = lease_of(await store.create_run(run("r1", owner=ME)))
    records = [node("b", "r1", seq=2), node("c", "r1", seq=1), node("a", "r1", seq=3)]
    await store.commit(nodes=[NodeWrite(lease=lease, node=record) for record in records])
    assert await store.nodes(RunId("r1")) == [records[1], records[0], records[2]]


async def test_a_node_is_written_over_by_a_later_one(store: Store) -> None:
    lease = lease_of(await store.create_run(run("r1", owner=ME)))
    for record in (node("a", "r1", status=NodeStatus.FAILED, output=None), node("a", "r1", output="ok")):
        await store.commit(nodes=[NodeWrite(lease=lease, node=record)])
    assert [found.output for found in await store.nodes(RunId("r1"))] == ["ok"]


async def test_a_unit_written_twice_changes_nothing(store: Store) -> None:
    lease = lease_of(await store.create_run(run("r1", owner=ME)))
    sent = attempt_of_node("a", "r1", status=AttemptStatus.SENT)
    ended = attempt_of_node("a", "r1")
    write = NodeWrite(lease=lease, node=node("a", "r1"))
    for _ in range(2):
        await store.begin_attempt(lease, sent)
        await store.commit(attempt=ended, attempt_lease=lease, memo=answer("a"), nodes=[write])
    assert await store.attempts(RunId("r1")) == [ended]
    assert await store.nodes(RunId("r1")) == [write.node]
    assert await store.memo(answer("a").key) == answer("a")
    assert (await store.memo_stats()).entries == 1


async def test_attempts_come_in_order_of_recording_and_by_node(store: Store) -> None:
    lease = lease_of(await store.create_run(run("r1", owner=ME)))
    names = ["z", "a", "m", "a"]
    records = [attempt_of_node(name, "r1", number=number) for number, name in enumerate(names)]
    for record in records:
        await store.begin_attempt(lease, replace(record, status=AttemptStatus.SENT))
    for record in reversed(records):
        await store.commit(attempt=record, attempt_lease=lease)
    assert await store.attempts(RunId("r1")) == records
    assert await store.attempts(RunId("r1"), NodeId("a")) == [records[1], records[3]]


async def test_an_attempt_begins_and_ends_in_order_also_at_once(store: Store) -> None:
    lease = lease_of(await store.create_run(run("r1", owner=ME)))
    sent = attempt_of_node("a", "r1", status=AttemptStatus.SENT)
    ended = attempt_of_node("a", "r1")
    await asyncio.gather(store.begin_attempt(lease, sent), store.commit(attempt=ended, attempt_lease=lease))
    assert await store.attempts(RunId("r1")) == [ended]


async def test_what_was_set_aside_for_an_attempt_is_kept(store: Store) -> None:
    made = await store.create_run(run("r1", owner=ME))
    sent = replace(attempt_of_node("a", "r1", status=AttemptStatus.SENT), reserved_tokens=1234.5, reserved_usd=None)
    plain = attempt_of_node("b", "r1", status=AttemptStatus.SENT)
    for attempt in (sent, plain):
        await store.begin_attempt(lease_of(made), attempt)
    assert await store.attempts(RunId("r1")) == [sent, plain]
    await finish(store, made, RunStatus.INTERRUPTED)
    await store.claim_run(RunId("r1"), ME)
    unknown = [replace(attempt, status=AttemptStatus.UNKNOWN) for attempt in (sent, plain)]
    assert await store.attempts(RunId("r1")) == unknown


async def test_the_last_node_of_a_workflow(store: Store) -> None:
    for number, (workflow, status) in enumerate(
        [
            ("blog", NodeStatus.SUCCEEDED),
            ("blog", NodeStatus.SUCCEEDED),
            ("blog", NodeStatus.FAILED),
            ("other", NodeStatus.SUCCEEDED),
        ],
        start=1,
    ):
        lease = lease_of(await store.create_run(run(f"r{number}", workflow=workflow, owner=ME)))
        await store.commit(nodes=[NodeWrite(lease=lease, node=node("a", f"r{number}", status=status))])
    assert await store.last_node("blog", NodeId("a"), before_seq=None) == node("a", "r2")
    assert await store.last_node("blog", NodeId("a"), before_seq=2) == node("a", "r1")
    assert await store.last_node("blog", NodeId("a"), before_seq=1) is None
    assert await store.last_node("blog", NodeId("b"), before_seq=None) is None
    assert await store.last_node("nothing", NodeId("a"), before_seq=None) is None


async def test_hostile_values_come_back_byte_for_byte(store: Store) -> None:
    hostile = ["\ud800", "\0", "\x1b[31m", "'; DROP TABLE runs; --", "\u202e", "\ufeff", 2**100, -(2**64), 1e308]
    hostile += [{"\udfff": "\0", "": [None, True, 0.1]}, "é" * 1000, "{{7*7}}", "\\u0000"]
    record = replace(
        run("r\udcff\0'", owner=ME), workflow="w\ud800", path="/a\\b\udc80", tenant="\0", inputs={"h": hostile}
    )
    made = await store.create_run(record)
    lease = lease_of(made)
    written = node("\0n\ud800", record.run_id, output=hostile)
    await store.commit(
        attempt=attempt_of_node("\ud800", record.run_id),
        attempt_lease=lease,
        memo=answer("k\ud800", value=hostile),
        nodes=[NodeWrite(lease=lease, node=written)],
    )
    assert await store.run(record.run_id) == made
    assert (await store.runs(workflow="w\ud800"))[0].inputs == {"h": hostile}
    assert await store.nodes(record.run_id) == [written]
    assert await store.last_node("w\ud800", written.node_id, before_seq=None) == written
    assert await store.attempts(record.run_id) == [attempt_of_node("\ud800", record.run_id)]
    assert await store.memo(answer("k\ud800").key) == answer("k\ud800", value=hostile)


async def test_a_large_answer_comes_back(store: Store) -> None:
    lease = lease_of(await store.create_run(run("r1", owner=ME)))
    written = node("a", "r1", output="日\0x" * 1_000_000)
    await store.commit(nodes=[NodeWrite(lease=lease, node=written)])
    assert await store.nodes(RunId("r1")) == [written]


@pytest.mark.parametrize("value", [math.nan, math.inf, {1}, b"x"])
async def test_what_json_cannot_hold_is_refused_and_the_store_goes_on(store: Store, value: object) -> None:
    lease = lease_of(await store.create_run(run("r1", owner=ME)))
    for unit in (
        {"nodes": [NodeWrite(lease=lease, node=node("a", "r1", output=value))], "memo": answer("x")},
        {"nodes": [NodeWrite(lease=lease, node=node("a", "r1"))], "memo": answer("x", value=value)},
    ):
        with pytest.raises(ValueError):
            await store.commit(**unit)
    assert await store.nodes(RunId("r1")) == []
    assert await store.memo(answer("x").key) is None


async def test_a_row_needs_the_lease_of_its_own_run(store: Store) -> None:
    lease = lease_of(await store.create_run(run("r1", owner=ME)))
    await store.create_run(run("r2", owner=ME))
    with pytest.raises(ValueError, match="lease"):
        await store.commit(attempt=attempt_of_node("a", "r1"))
    with pytest.raises(ValueError, match="lease"):
        await store.commit(nodes=[NodeWrite(lease=lease, node=node("a", "r2"))])
    with pytest.raises(ValueError, match="lease"):
        await store.begin_attempt(lease, attempt_of_node("a", "r2"))
    assert await store.nodes(RunId("r2")) == []


async def test_one_settlement_may_end_nodes_of_several_runs_or_of_none_if_one_is_stale(store: Store) -> None:
    leases = [lease_of(await store.create_run(run(name, owner=ME))) for name in ("r1", "r2")]
    writes = [NodeWrite(lease=lease, node=node("a", lease.run_id)) for lease in leases]
    await store.commit(nodes=writes)
    assert [len(await store.nodes(lease.run_id)) for lease in leases] == [1, 1]
    late = RunLease(run_id=RunId("r2"), epoch=9)
    writes = [NodeWrite(lease=leases[0], node=node("b", "r1")), NodeWrite(lease=late, node=node("b", "r2"))]
    with pytest.raises(OwnershipLost):
        await store.commit(nodes=writes)
    assert [len(await store.nodes(lease.run_id)) for lease in leases] == [1, 1]


async def test_settling_nothing_is_allowed(store: Store) -> None:
    await store.commit()
