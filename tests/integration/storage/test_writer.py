"""Group commit, cancellation, crashes and faults of the storage."""

from __future__ import annotations

import asyncio
import math
import random
import sqlite3
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from flowllm.core.clock import SystemClock
from flowllm.core.errors import OwnershipLost, StorageFailed
from flowllm.core.types import RunId
from flowllm.storage.base import NodeWrite, RunLease
from flowllm.storage.open import open_store
from flowllm.storage.sql import statements
from flowllm.storage.sql.statements import Unit
from flowllm.storage.sql.store import SqlStore
from flowllm.storage.sql.writer import Failpoints, Writer
from flowllm.storage.sqlite.engine import at
from tests.support.process import worker
from tests.support.records import ME, answer, attempt_of_node, lease_of, node, run

pytestmark = pytest.mark.anyio
WORKER = "tests.integration.storage.worker"


class Gate:
    """Counts commits, and can hold the writer back so that units gather behind it."""

    def __init__(self) -> None:
        self.commits = 0
        self.open = threading.Event()
        self.open.set()
        self.failures: list[Exception] = []

    def __call__(self) -> None:
        self.open.wait()
        if self.failures:
            raise self.failures.pop(0)
        self.commits += 1


async def opened(path: Path, **failpoints: object) -> SqlStore:
    await (await open_store(str(path), clock=SystemClock())).close()
    return SqlStore(at(path, 0.2), owner=ME, failpoints=Failpoints(**failpoints))


def node_write(lease: RunLease, name: str, **changes: object) -> NodeWrite:
    return NodeWrite(lease=lease, node=replace(node(name, lease.run_id), **changes))


async def test_units_that_wait_together_share_a_commit(path: Path) -> None:
    gate = Gate()
    store = await opened(path, before_commit=gate)
    lease = lease_of(await store.create_run(run("r1", owner=ME)))
    gate.open.clear()
    first = asyncio.ensure_future(store.commit(nodes=[node_write(lease, "first")]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    others = [asyncio.ensure_future(store.commit(nodes=[node_write(lease, f"n{n}")])) for n in range(100)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not first.done()
    gate.open.set()
    await asyncio.gather(first, *others)
    assert gate.commits <= 3  # the run's, the first unit's, and one for all others
    assert len(await store.nodes(RunId("r1"))) == 101
    await store.close()


BAD = {
    "a null where none may be": ({"queue_s": math.nan}, ValueError),
    "an integer that is too large": ({"attempts": 2**70}, ValueError),
    "a type that no column takes": ({"call_s": object()}, ValueError),
}


@pytest.mark.parametrize("bad", BAD)
async def test_one_bad_unit_of_a_group_fails_alone(disk: SqlStore, bad: str) -> None:
    changes, kind = BAD[bad]
    lease = lease_of(await disk.create_run(run("r1", owner=ME)))
    units = [[node_write(lease, f"n{n}")] for n in range(20)]
    units[7] = [node_write(lease, "with_it"), node_write(lease, "bad", **changes)]
    results = await asyncio.gather(*(disk.commit(nodes=unit) for unit in units), return_exceptions=True)
    assert [number for number, result in enumerate(results) if result is not None] == [7]
    assert isinstance(results[7], kind)
    assert {found.node_id for found in await disk.nodes(RunId("r1"))} == {f"n{n}" for n in range(20)} - {"n7"}


async def test_a_stale_unit_of_a_group_fails_alone_and_in_one_commit(path: Path) -> None:
    gate = Gate()
    store = await opened(path, before_commit=gate)
    lease = lease_of(await store.create_run(run("r1", owner=ME)))
    stale = RunLease(run_id=RunId("r1"), epoch=7)
    before = gate.commits
    results = await asyncio.gather(
        *(store.commit(nodes=[node_write(stale if n == 3 else lease, f"n{n}")]) for n in range(10)),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [type(None)] * 3 + [OwnershipLost] + [type(None)] * 6
    assert gate.commits == before + 1
    assert len(await store.nodes(RunId("r1"))) == 9
    await store.close()


async def test_a_fault_at_the_commit_is_tried_unit_by_unit_and_loses_nothing(path: Path) -> None:
    gate = Gate()
    store = await opened(path, before_commit=gate)
    lease = lease_of(await store.create_run(run("r1", owner=ME)))
    gate.failures = [ValueError("group"), ValueError("first unit")]
    results = await asyncio.gather(
        *(store.commit(nodes=[node_write(lease, f"n{n}")]) for n in range(5)), return_exceptions=True
    )
    assert [str(result) for result in results if result is not None] == ["first unit"]
    assert [found.node_id for found in await store.nodes(RunId("r1"))] == ["n1", "n2", "n3", "n4"]
    await store.close()


async def test_a_fault_after_the_commit_still_wakes_the_waiters(path: Path) -> None:
    gate = Gate()
    store = await opened(path, after_commit=gate)
    gate.failures = [ValueError("late")]
    with pytest.raises(ValueError, match="late"):
        await store.create_run(run("r1", owner=ME))
    assert (await store.create_run(run("r2", owner=ME))).seq == 2
    await store.close()


async def test_each_waiter_of_a_failed_group_gets_an_error_of_its_own(path: Path) -> None:
    store = await opened(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        results = await asyncio.gather(*(store.commit(memo=answer(f"k{n}")) for n in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [StorageFailed] * 3
    assert len({id(result) for result in results}) == 3
    await store.commit(memo=answer("k"))
    assert (await store.memo_stats()).entries == 4  # they were kept meanwhile
    await store.close()


async def test_500_cancellations_at_random_finished_but_absent_0(disk: SqlStore) -> None:
    lease = lease_of(await disk.create_run(run("r1", owner=ME)))
    rng = random.Random(17)
    finished: set[str] = set()
    refused: set[str] = set()

    async def one(name: str) -> None:
        task = asyncio.ensure_future(disk.commit(nodes=[node_write(lease, name)], memo=answer(name)))
        for _ in range(rng.randrange(12)):
            await asyncio.sleep(0)
        for _ in range(rng.randrange(4)):
            task.cancel()
            await asyncio.sleep(0)
        try:
            await task
            finished.add(name)
        except asyncio.CancelledError:
            # Once the cancelled caller goes on, its unit is there, or was never handed over.
            if await disk.memo(answer(name).key) is None:
                refused.add(name)

    for start in range(0, 500, 50):
        await asyncio.gather(*(one(f"n{number}") for number in range(start, start + 50)))
    there = {str(found.node_id) for found in await disk.nodes(RunId("r1"))}
    assert there == {f"n{number}" for number in range(500)} - refused
    assert finished
    assert finished <= there


async def test_a_cancelled_caller_waits_for_its_unit(path: Path) -> None:
    gate = Gate()
    store = await opened(path, before_commit=gate)
    lease = lease_of(await store.create_run(run("r1", owner=ME)))
    gate.open.clear()
    task = asyncio.ensure_future(store.commit(nodes=[node_write(lease, "a")]))
    await asyncio.sleep(0)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
    gate.open.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(await store.nodes(RunId("r1"))) == 1
    await store.close()


async def test_a_cancelled_claim_leaves_the_run_free(path: Path) -> None:
    gate = Gate()
    store = await opened(path, before_commit=gate)
    gate.open.clear()
    task = asyncio.ensure_future(store.create_run(run("r1", owner=ME)))
    await asyncio.sleep(0)
    task.cancel()
    gate.open.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await store.claim_run(RunId("r1"), ME)).epoch == 2
    await store.close()


async def test_writing_after_the_close_is_refused(disk: SqlStore) -> None:
    await disk.close()
    with pytest.raises(StorageFailed, match="closed"):
        await disk.commit(memo=answer("a"))


async def test_an_action_that_refuses_leaves_its_neighbours_alone(path: Path) -> None:
    await (await open_store(str(path), clock=SystemClock())).close()
    writer = Writer(at(path))

    def refuse(connection: sqlite3.Connection) -> None:
        raise OwnershipLost("no")

    rows = Unit(rows=((statements.WRITE_MEMO, ("k", "p", "m", 1.0, 1, "h", "1")),))
    results = await asyncio.gather(
        writer.write(rows), writer.write(Unit(action=refuse)), writer.write(rows), return_exceptions=True
    )
    assert [type(result) for result in results] == [type(None), OwnershipLost, type(None)]
    await writer.close()


@pytest.mark.parametrize(("where", "kept"), [("before_commit", False), ("after_commit", True), ("before_wake", True)])
async def test_a_kill_in_a_commit_loses_nothing_that_was_acknowledged(path: Path, where: str, kept: bool) -> None:
    with worker(WORKER, "killed", path, where, 9) as child:
        told, code = child.rest()
    assert code == -9
    assert told == [str(number) for number in range(7)]  # the first commit made the run, the ninth died
    store = await open_store(str(path), clock=SystemClock())
    expected = {f"n{number}" for number in range(8 if kept else 7)}
    assert {found.node_id for found in await store.nodes(RunId("r1"))} == expected
    assert {found.node_id for found in await store.attempts(RunId("r1"))} == expected
    assert (await store.memo_stats()).entries == len(expected)

    claimed = await store.claim_run(RunId("r1"), ME)
    again = node_write(lease_of(claimed), "n7", seq=7)
    for _ in range(2):
        await store.commit(
            attempt=attempt_of_node("n7", "r1"), attempt_lease=again.lease, memo=answer("n7"), nodes=[again]
        )
    assert len(await store.nodes(RunId("r1"))) == 8
    assert len(await store.attempts(RunId("r1"))) == 8
    assert (await store.memo_stats()).entries == 8
    await store.close()


async def test_a_lock_of_another_process_is_waited_for(path: Path) -> None:
    store = await open_store(str(path), clock=SystemClock())
    with worker(WORKER, "hold", path) as child:
        assert child.hear() == "held"
        task = asyncio.ensure_future(store.commit(memo=answer("a")))
        assert await store.memo(answer("a").key) is None  # readers do not wait
        done, _ = await asyncio.wait([task], timeout=0.3)
        assert not done
        child.tell()
        await task
    assert await store.memo(answer("a").key) == answer("a")
    await store.close()


async def test_a_full_disk_is_told_and_survived(path: Path) -> None:
    with worker(WORKER, "full", path, 600_000) as child:
        (error, written, there), code = child.rest()
    assert code == 0
    assert error.startswith("StorageFailed: The database")
    assert "resume the run" in error
    assert int(written) > 10
    assert there == written


async def test_a_store_that_was_not_closed_does_not_hold_up_the_end_of_its_process(path: Path) -> None:
    with worker(WORKER, "unclosed", path) as child:
        told, code = child.rest()
    assert (told, code) == (["used"], 0)
