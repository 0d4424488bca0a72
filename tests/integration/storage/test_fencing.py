"""What processes that were held for dead, or whose transactions were undone, cannot do to others."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from flowllm.app.run_worker import RunWorker
from flowllm.app.worker import Worker
from flowllm.core.clock import SystemClock
from flowllm.core.errors import OwnershipLost, RunOwned, StorageFailed
from flowllm.core.types import NodeId, RunId, RunStatus
from flowllm.datasets.layouts import layout_of
from flowllm.datasets.output import OutputFile
from flowllm.runtime.row_sink import RowSink
from flowllm.storage.base import NodeWrite, RunLease
from flowllm.storage.ranges import OfferedRange, RangeItem
from flowllm.storage.sql import presence
from flowllm.storage.sql import store as sql
from flowllm.storage.sql.store import SqlStore
from flowllm.storage.sql.writer import Failpoints
from tests.support.items import item
from tests.support.owners import Stranger, end, execute, silence
from tests.support.records import ME, OTHER, lease_of, node, run

pytestmark = pytest.mark.anyio
R1 = RunId("r1")


def offered(number: int) -> OfferedRange:
    return OfferedRange(number=number, foreach=NodeId("row"), items=[RangeItem(number, number, "c", "x")], terms={})


def gone(store: SqlStore, numbers: list[int]) -> set[int]:
    with closing(store._engine.writer()) as connection:
        connection.begin()
        found = store.presence.ended(connection, numbers)
        connection.commit()
        return found


async def test_a_silent_process_is_dead_after_two_looks_between_which_nothing_was_heard(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(presence, "time", SimpleNamespace(monotonic=lambda: now))
    one, other = Stranger(store._engine, "one"), Stranger(store._engine, "other")
    numbers = [one.number, other.number]
    assert gone(store, [*numbers, 99]) == {99}, "nobody knows it"
    silence(store._engine)  # or the clock was set forth by an hour
    now += 3600
    assert gone(store, numbers) == set()
    now += presence.SECOND_LOOK - 1
    assert gone(store, [one.number]) == set()
    execute(store._engine, "UPDATE processes SET lease_until = lease_until + 1 WHERE process_id = ?", one.number)
    now += 1
    assert gone(store, numbers) == {other.number}, "the other one has said something"
    now += presence.SECOND_LOOK
    assert gone(store, [one.number]) == {one.number}


async def test_a_number_that_was_undone_is_not_that_of_the_process_that_got_it_then(store: SqlStore) -> None:
    fails = [True]

    def fail() -> None:
        if fails.pop():
            raise OSError("the disk is full")

    mine = SqlStore(store._engine, owner=ME, failpoints=Failpoints(before_commit=fail))
    with pytest.raises(StorageFailed):
        await mine.create_run(run("r1", owner=ME))
    fails += [False] * 9
    stranger = Stranger(store._engine)
    await mine.create_run(run("r1", owner=ME))
    assert mine.presence.number != stranger.number
    await mine.close()
    (found,) = execute(store._engine, "SELECT ended_at FROM processes WHERE process_id = ?", stranger.number)
    assert found == (None,)


async def test_a_worker_that_was_held_for_dead_takes_nothing_more_until_it_joins_anew(store: SqlStore) -> None:
    lease = lease_of(await store.create_run(run("r1", owner=ME)))
    await store.offer_ranges(lease, [offered(1), offered(2)])
    worker = SqlStore(store._engine, owner=OTHER)
    assert await worker.lease_range(R1) is not None
    execute(store._engine, "UPDATE processes SET ended_at = 1 WHERE process_id = ?", worker.presence.number)
    with pytest.raises(OwnershipLost, match="nothing was heard"):
        await worker.lease_range(R1)
    with pytest.raises(OwnershipLost, match="nothing was heard"):  # of what it had before
        await worker.commit(nodes=[NodeWrite(lease=lease, node=node("row[1]", "r1"))])
    assert (await store.range_news(R1)).free == {2}
    worker.leave_run(R1)
    again = await worker.lease_range(R1)
    assert again is not None
    assert again.number == 2
    await worker.close()


async def test_who_holds_its_own_row_is_alive_and_not_waited_for(store: SqlStore) -> None:
    """It may wait itself for the run's row, which is locked here."""
    lease = lease_of(await store.create_run(run("r1", owner=ME)))
    stranger = Stranger(store._engine)
    execute(
        store._engine,
        "INSERT INTO ranges (run_id, number, epoch, foreach, status, process, leases, items) "
        "VALUES ('r1', 1, 1, 'row', 'leased', ?, 1, ?)",
        *(stranger.number, b"x"),
    )
    other = SqlStore(store._engine, owner=OTHER)
    verbs = (stranger.number, store.free_ranges(lease)), (store.presence.number, other.claim_run(R1, OTHER))
    for number, verb in verbs:
        with closing(store._engine.writer()) as connection:
            connection.begin()
            if connection.for_update:  # else nobody else writes at all
                connection.execute("UPDATE processes SET lease_until = lease_until + 1 WHERE process_id = ?", (number,))
            else:
                connection.rollback()
            task = asyncio.ensure_future(verb)
            waits = (await asyncio.wait([task], timeout=8))[1]
            connection.rollback()
            assert not waits
    assert isinstance(task.exception(), RunOwned)
    await other.close()


async def test_a_run_is_deleted_once_nothing_was_heard_of_its_process_between_two_looks(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the database was away the lease of a process that goes on may be over, too."""
    await store.create_run(run("r1", owner=ME))
    stranger, sleep = Stranger(store._engine), asyncio.sleep
    execute(store._engine, "UPDATE runs SET process = ?", stranger.number)
    monkeypatch.setattr(sql, "SECOND_LOOK", 0.0123)

    async def hearing(seconds: float) -> None:
        if seconds == sql.SECOND_LOOK:
            execute(store._engine, "UPDATE processes SET lease_until = database_now() + 60")
        await sleep(seconds)

    stranger.dies()
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(asyncio, "sleep", hearing)
        with pytest.raises(RunOwned):
            await store.delete_runs([R1])
    stranger.dies()
    assert await store.delete_runs([R1]) == 1


async def test_a_range_of_another_attempt_at_the_run_is_given_back(store: SqlStore) -> None:
    old = lease_of(await store.create_run(run("r1", owner=ME)))
    end(store._engine)
    claimed = lease_of(await store.claim_run(R1, ME))
    await store.offer_ranges(claimed, [offered(1)])
    worker = SqlStore(store._engine, owner=OTHER)
    self = SimpleNamespace(_first=None, _runners={}, _store=worker, _going=True)
    context = SimpleNamespace(run=SimpleNamespace(run_id=R1), lease=old)
    assert await RunWorker._lease(cast("Any", self), cast("Any", context), any_foreach=True) is None
    assert not self._going
    assert (await store.range_news(R1)).free == {1}
    await worker.close()


async def test_a_worker_gives_back_what_it_has_of_a_run_whose_coordinator_is_silent(store: SqlStore) -> None:
    told: list[bool] = []

    async def report(_: object, *, leaving: bool) -> None:
        told.append(leaving)

    self = SimpleNamespace(_going=False, _report=report, _store=store)
    context = SimpleNamespace(failure=None, run=SimpleNamespace(run_id=R1))
    await RunWorker._leave(cast("Any", self), cast("Any", context))
    assert told == [True]


async def test_a_worker_stays_while_its_coordinator_is_silent_until_the_run_has_ended(store: SqlStore) -> None:
    lease = lease_of(await store.create_run(run("r1", owner=ME)))
    nothing: Any = None
    worker = Worker(store, SystemClock(), nothing, observers=nothing, tell=nothing, started=True)
    store.presence._due = time.monotonic() + 3600
    silence(store._engine)
    assert (await store.run(R1)).status is RunStatus.INTERRUPTED
    assert not await worker._over(R1)
    await store.finish_run(lease, status=RunStatus.INTERRUPTED, finished_at=1.0)
    assert await worker._over(R1)


@pytest.mark.parametrize("waits", [False, True])
async def test_who_stood_still_and_has_lost_its_run_leaves_its_output_as_it_is(
    store: SqlStore, tmp_path: Path, waits: bool
) -> None:
    """It would cut off what its successor has written, and this leave a hole."""
    path, layout = tmp_path / "out.json", layout_of("out.json", ["a"], ["t"])
    rows = [replace(item(place, "x", parent=NodeId("row")), item={"t": 1}, output={"a": 1}) for place in range(3)]

    def sink(of: SqlStore, lease: RunLease, lines: OutputFile) -> RowSink:
        return RowSink(lines, store=of, lease=lease, clock=SystemClock(), ordered=False, again=True)

    lease = lease_of(await store.create_run(run("r1", owner=ME)))
    stalled = sink(store, lease, OutputFile.begin(path, overwrite=False, layout=layout))
    await stalled.ended(0, rows[0])
    while not (offset := (await store.run(R1)).output_offset):
        await asyncio.sleep(0.01)
    end(store._engine)
    other = SqlStore(store._engine, owner=OTHER)
    claimed = lease_of(await other.claim_run(R1, OTHER))
    goes_on = sink(other, claimed, OutputFile.resume(path, offset, layout=layout))
    for row in rows[1:]:
        await goes_on.ended(row.place or 0, row)
    await goes_on.finish(complete=True)
    written = path.read_bytes()
    assert [line["index"] for line in json.loads(written)] == [0, 1, 2]
    if waits:
        await stalled.ended(1, rows[1])
    with pytest.raises(OwnershipLost):
        await stalled.finish(complete=False)
    assert path.read_bytes() == written
    await other.close()
