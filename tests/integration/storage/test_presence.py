"""Processes at one database: how they are registered, kept alive, and ended."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flowllm.core.clock import SystemClock
from flowllm.core.errors import OwnershipLost, RunNotFound, RunOwned
from flowllm.core.types import RunId, RunStatus
from flowllm.storage.base import NodeWrite
from flowllm.storage.liveness import LEASE, STALLED
from flowllm.storage.open import open_store, this_process
from flowllm.storage.sql import presence
from flowllm.storage.sql import store as sql
from flowllm.storage.sql.store import SqlStore
from flowllm.storage.sqlite.connection import connect_writer
from tests.support.owners import end, silence
from tests.support.records import ME, OTHER, answer, lease_of, node, run

pytestmark = pytest.mark.anyio
R1, R2 = RunId("r1"), RunId("r2")
DONE = {"status": RunStatus.SUCCEEDED, "finished_at": 1.0}


def rows(path: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def leases(path: Path) -> list[float]:
    return [until for (until,) in rows(path, "SELECT lease_until FROM processes ORDER BY process_id")]


async def until(found: Any) -> None:
    """Wait for what another thread does, however long it takes."""
    while not found():
        await asyncio.sleep(0.01)


async def test_who_only_reads_or_has_no_run_is_not_registered(disk: SqlStore, path: Path) -> None:
    await disk.create_run(run("r1"))
    await disk.commit(memo=answer("a"))
    await disk.runs()
    assert rows(path, "SELECT * FROM processes") == []


async def test_one_row_serves_all_runs_and_ends_with_the_store(disk: SqlStore, path: Path) -> None:
    for name in ("r1", "r2"):
        await disk.create_run(run(name, owner=ME))
    ((pid, ended),) = rows(path, "SELECT pid, ended_at FROM processes")
    assert (pid, ended) == (os.getpid(), None)
    assert rows(path, "SELECT DISTINCT process FROM runs") == [(1,)]
    await disk.close()
    ((ended,),) = rows(path, "SELECT ended_at FROM processes")
    assert ended is not None
    assert rows(path, "SELECT DISTINCT process FROM runs") == [(1,)]


async def test_a_heartbeat_comes_while_nothing_is_written_and_the_loop_is_blocked(
    disk: SqlStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "HEARTBEAT", 0.01)
    await disk.create_run(run("r1", owner=ME))
    (before,) = leases(path)
    while leases(path) == [before]:
        time.sleep(0.01)


async def test_a_heartbeat_waits_for_the_lock_and_comes_then(
    disk: SqlStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "HEARTBEAT", 0.01)
    await disk.create_run(run("r1", owner=ME))
    with closing(sqlite3.connect(path, isolation_level=None)) as lock:
        lock.execute("BEGIN IMMEDIATE")
        lock.execute("UPDATE processes SET lease_until = 0")
        lock.execute("COMMIT")
        lock.execute("BEGIN IMMEDIATE")
        assert (await disk.run(R1)).owner == ME
        lock.execute("COMMIT")
    await until(lambda: leases(path)[0] > 0)
    assert (await disk.run(R1)).status is RunStatus.RUNNING


async def test_without_a_run_no_heartbeat_is_given_and_the_next_run_goes_under_the_same_row(
    disk: SqlStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await disk.create_run(run("r1", owner=ME))
    await disk.finish_run(lease_of(made), **DONE)
    assert disk.presence.wait() is None
    silence(path)
    await disk.create_run(run("r2", owner=ME))
    (now,) = leases(path)
    assert now > time.time()
    assert (await disk.run(R2)).status is RunStatus.RUNNING


async def test_one_of_which_nothing_was_heard_is_looked_at_twice(
    disk: SqlStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "SECOND_LOOK", 0.01)
    made = await disk.create_run(run("r1", owner=ME))
    monkeypatch.setattr(disk.presence, "_due", time.monotonic() + 3600)  # its thread is stuck
    other = await open_store(str(path), clock=SystemClock())
    with pytest.raises(RunOwned):
        await other.claim_run(R1, OTHER)
    silence(path)
    assert (await other.run(R1)).status is RunStatus.INTERRUPTED
    looks = []

    def beat(of: object) -> None:
        looks.append(of)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("UPDATE processes SET lease_until = lease_until + 3600")
            connection.commit()

    monkeypatch.setattr(asyncio, "sleep", _once(beat))
    with pytest.raises(RunOwned):
        await other.claim_run(R1, OTHER)
    assert len(looks) == 1, "it had a sign of life between the looks"
    monkeypatch.undo()
    monkeypatch.setattr(sql, "SECOND_LOOK", 0.01)
    silence(path)
    claimed = await other.claim_run(R1, OTHER)
    with pytest.raises(OwnershipLost, match="taken over"):
        await disk.commit(nodes=[NodeWrite(lease=lease_of(made), node=node("n1", "r1"))])
    assert claimed.epoch == 2
    await other.close()


def _once(act: Any) -> Any:
    async def sleep(seconds: float) -> None:
        act(seconds)

    return sleep


async def test_one_that_was_ended_writes_nothing_more_until_it_registers_anew(disk: SqlStore, path: Path) -> None:
    first = await disk.create_run(run("r1", owner=ME))
    end(path)
    assert (await disk.run(R1)).status is RunStatus.INTERRUPTED
    write = NodeWrite(lease=lease_of(first), node=node("n1", "r1"))
    with pytest.raises(OwnershipLost, match="nothing was heard for too long"):
        await disk.commit(nodes=[write])
    second = await disk.create_run(run("r2", owner=ME))
    await disk.commit(nodes=[NodeWrite(lease=lease_of(second), node=node("n1", "r2"))])
    with pytest.raises(OwnershipLost):  # what it had before is still lost
        await disk.commit(nodes=[write])
    with pytest.raises(OwnershipLost):
        await disk.finish_run(lease_of(first), **DONE)
    again = await disk.claim_run(R1, ME)
    await disk.commit(nodes=[NodeWrite(lease=lease_of(again), node=node("n1", "r1"))])
    assert rows(path, "SELECT count(*) FROM processes") == [(2,)]


async def test_two_stores_of_one_process_do_not_have_each_others_runs(disk: SqlStore, path: Path) -> None:
    other = await open_store(str(path), clock=SystemClock())
    await disk.create_run(run("r1", owner=ME))
    await other.create_run(run("r2", owner=ME))
    with pytest.raises(RunOwned):
        await other.claim_run(R1, ME)
    await disk.close()
    assert (await other.run(R1)).status is RunStatus.INTERRUPTED
    assert (await other.run(R2)).status is RunStatus.RUNNING
    assert (await other.claim_run(R1, ME)).epoch == 2
    await other.close()


def test_a_loop_that_was_closed_under_a_store_frees_its_runs_at_once(path: Path) -> None:
    async def begin() -> SqlStore:
        store = await open_store(str(path), clock=SystemClock())
        await store.create_run(run("r1", owner=ME))
        return store

    async def go_on() -> None:
        store = await open_store(str(path), clock=SystemClock())
        assert (await store.run(R1)).status is RunStatus.INTERRUPTED
        assert (await store.claim_run(R1, ME)).epoch == 2
        await store.close()

    left = asyncio.run(begin())
    assert left.presence.left
    asyncio.run(go_on())


def test_a_store_that_its_program_left_ends_its_row_by_itself(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def begin() -> SqlStore:
        store = await open_store(str(path), clock=SystemClock())
        await store.create_run(run("r1", owner=ME))
        return store

    monkeypatch.setattr(presence, "HEARTBEAT", 0.01)
    left = asyncio.run(begin())
    while not rows(path, "SELECT 1 FROM processes WHERE ended_at IS NOT NULL"):
        time.sleep(0.01)
    assert left.presence.number is None


def test_a_forked_child_is_not_its_parent(path: Path) -> None:
    async def begin() -> SqlStore:
        store = await open_store(str(path), clock=SystemClock())
        await store.create_run(run("r1", owner=ME))
        return store

    async def seen() -> tuple[RunStatus, str]:
        store = await open_store(str(path), clock=SystemClock())
        status = (await store.run(R1)).status
        try:
            await store.claim_run(R1, this_process(SystemClock()))
        except RunOwned:
            return status, "owned"
        return status, "claimed"

    async def main() -> None:
        store = await begin()
        read, write = os.pipe()
        if (child := os.fork()) == 0:
            found = []
            thread = threading.Thread(target=lambda: found.append(asyncio.run(seen())))
            thread.start()
            thread.join()
            os.write(write, " ".join(map(str, found[0])).encode())
            os._exit(0)
        os.close(write)
        with open(read, "rb") as answers:  # noqa: PTH123
            assert answers.read() == b"running owned"
        os.waitpid(child, 0)
        await store.close()

    asyncio.run(main())


async def test_a_run_of_an_older_flowllm_is_free_once_its_process_is_gone(disk: SqlStore, path: Path) -> None:
    mine = this_process(SystemClock())
    for name, owner in (("r1", mine), ("r2", OTHER)):
        await disk.create_run(run(name, owner=owner))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE runs SET process = NULL")
        connection.commit()
    assert (await disk.run(R1)).status is RunStatus.RUNNING
    with pytest.raises(RunOwned, match=f"process {os.getpid()} on"):
        await disk.claim_run(R1, ME)
    assert (await disk.run(R2)).status is RunStatus.INTERRUPTED
    assert (await disk.claim_run(R2, ME)).epoch == 2


async def test_rows_of_the_dead_are_removed_after_a_week(disk: SqlStore, path: Path) -> None:
    await disk.create_run(run("r1", owner=ME))
    for _ in range(24 * 8):
        silence(path)
    other = await open_store(str(path), clock=SystemClock())
    await other.create_run(run("r2", owner=ME))
    assert rows(path, "SELECT process_id FROM processes") == [(2,)]
    assert (await other.run(R1)).status is RunStatus.INTERRUPTED
    assert (await other.claim_run(R1, ME)).epoch == 2
    assert STALLED > LEASE
    await other.close()


async def test_one_that_works_on_the_run_of_another_writes_until_it_is_held_for_dead(
    disk: SqlStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = await open_store(str(path), clock=SystemClock())
    made = await disk.create_run(run("r1", owner=ME))
    lease = await other.join_run(R1)
    assert lease == lease_of(made)
    await other.commit(nodes=[NodeWrite(lease=lease, node=node("n1", "r1"))])
    numbers = [1, 2, 3]

    def gone() -> set[int]:
        with closing(connect_writer(path)) as connection:
            connection.begin()
            found = disk.presence.ended(connection, numbers)
            connection.commit()
            return found

    assert gone() == {3}, "nobody knows it"
    silence(path)
    assert gone() == {3}, "it may not have had the chance for a heartbeat"
    monkeypatch.setattr(disk.presence, "_awake", time.monotonic() - 10)
    numbers.remove(1)
    assert gone() == {2, 3}
    with pytest.raises(OwnershipLost, match="nothing was heard"):
        await other.commit(nodes=[NodeWrite(lease=lease, node=node("n2", "r1"))])
    await disk.commit(nodes=[NodeWrite(lease=lease, node=node("n3", "r1"))])
    with pytest.raises(RunNotFound):
        await other.join_run(RunId("unknown"))
    other.leave_run(R1)
    await other.close()
