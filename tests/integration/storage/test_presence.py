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
from tests.support.owners import end, silence
from tests.support.records import ME, OTHER, answer, lease_of, node, run

pytestmark = pytest.mark.anyio
R1, R2 = RunId("r1"), RunId("r2")
DONE = {"status": RunStatus.SUCCEEDED, "finished_at": 1.0}


def rows(store: SqlStore, query: str) -> list[Any]:
    with closing(store._engine.reader()) as connection:
        return connection.fetch(query, ())


def change(store: SqlStore, statement: str) -> None:
    with closing(store._engine.writer()) as connection:
        connection.begin()
        connection.execute(statement)
        connection.commit()


def leases(store: SqlStore) -> list[float]:
    return [until for (until,) in rows(store, "SELECT lease_until FROM processes ORDER BY process_id")]


def beside(store: SqlStore) -> SqlStore:
    """Another one at the same database."""
    return SqlStore(store._engine, owner=OTHER)


async def until(found: Any) -> None:
    """Wait for what another thread does, however long it takes."""
    while not found():
        await asyncio.sleep(0.01)


async def test_who_only_reads_or_has_no_run_is_not_registered(store: SqlStore) -> None:
    await store.create_run(run("r1"))
    await store.commit(memo=answer("a"))
    await store.runs()
    assert rows(store, "SELECT * FROM processes") == []


async def test_one_row_serves_all_runs_and_ends_with_the_store(store: SqlStore) -> None:
    other = beside(store)
    for name in ("r1", "r2"):
        await other.create_run(run(name, owner=ME))
    assert rows(store, "SELECT pid, ended_at FROM processes") == [(os.getpid(), None)]
    assert rows(store, "SELECT DISTINCT process FROM runs") == [(1,)]
    await other.close()
    ((ended,),) = rows(store, "SELECT ended_at FROM processes")
    assert ended is not None
    assert rows(store, "SELECT DISTINCT process FROM runs") == [(1,)]


async def test_a_heartbeat_comes_while_nothing_is_written_and_the_loop_is_blocked(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "HEARTBEAT", 0.01)
    await store.create_run(run("r1", owner=ME))
    (before,) = leases(store)
    while leases(store) == [before]:
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
    await until(lambda: leases(disk)[0] > 0)
    assert (await disk.run(R1)).status is RunStatus.RUNNING


async def test_without_a_run_no_heartbeat_is_given_and_the_next_run_goes_under_the_same_row(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await store.create_run(run("r1", owner=ME))
    await store.finish_run(lease_of(made), **DONE)
    assert store.presence.wait() is None
    silence(store._engine)
    await store.create_run(run("r2", owner=ME))
    (now,) = leases(store)
    assert now > time.time()
    assert (await store.run(R2)).status is RunStatus.RUNNING


async def test_one_of_which_nothing_was_heard_is_looked_at_twice(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "SECOND_LOOK", 0.0123)
    made = await store.create_run(run("r1", owner=ME))
    monkeypatch.setattr(store.presence, "_due", time.monotonic() + 3600)  # its thread is stuck
    other = beside(store)
    with pytest.raises(RunOwned):
        await other.claim_run(R1, OTHER)
    silence(store._engine)
    assert (await other.run(R1)).status is RunStatus.INTERRUPTED
    looks, sleep = [], asyncio.sleep

    async def beating(seconds: float) -> None:
        if seconds == sql.SECOND_LOOK:
            looks.append(seconds)
            change(store, "UPDATE processes SET lease_until = lease_until + 3600")
        await sleep(seconds)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(asyncio, "sleep", beating)
        with pytest.raises(RunOwned):
            await other.claim_run(R1, OTHER)
    assert len(looks) == 1, "it had a sign of life between the looks"
    silence(store._engine)
    claimed = await other.claim_run(R1, OTHER)
    with pytest.raises(OwnershipLost, match="taken over"):
        await store.commit(nodes=[NodeWrite(lease=lease_of(made), node=node("n1", "r1"))])
    assert claimed.epoch == 2
    await other.close()


@pytest.mark.parametrize("alive", [True, False])
async def test_of_a_process_elsewhere_the_next_heartbeat_or_the_end_of_its_lease_is_waited_for(
    alive: bool, store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "SECOND_LOOK", 0.0123)
    await store.create_run(run("r1", owner=ME))
    monkeypatch.setattr(store.presence, "_due", time.monotonic() + 3600)
    change(store, "UPDATE processes SET machine = 'another', lease_until = database_now() + 0.1")
    other, looks, sleep = beside(store), [], asyncio.sleep

    async def beating(seconds: float) -> None:
        if seconds == sql.SECOND_LOOK:
            looks.append(seconds)
            if alive:
                change(store, "UPDATE processes SET lease_until = database_now() + 10")
        await sleep(seconds)

    monkeypatch.setattr(asyncio, "sleep", beating)
    if alive:
        with pytest.raises(RunOwned):
            await other.claim_run(R1, OTHER)
        assert len(looks) == 1
    else:
        assert (await other.claim_run(R1, OTHER)).epoch == 2
        assert looks
    await other.close()


async def test_one_that_was_ended_writes_nothing_more_until_it_registers_anew(store: SqlStore) -> None:
    first = await store.create_run(run("r1", owner=ME))
    end(store._engine)
    assert (await store.run(R1)).status is RunStatus.INTERRUPTED
    write = NodeWrite(lease=lease_of(first), node=node("n1", "r1"))
    with pytest.raises(OwnershipLost, match="nothing was heard for too long"):
        await store.commit(nodes=[write])
    second = await store.create_run(run("r2", owner=ME))
    await store.commit(nodes=[NodeWrite(lease=lease_of(second), node=node("n1", "r2"))])
    with pytest.raises(OwnershipLost):  # what it had before is still lost
        await store.commit(nodes=[write])
    with pytest.raises(OwnershipLost):
        await store.finish_run(lease_of(first), **DONE)
    again = await store.claim_run(R1, ME)
    await store.commit(nodes=[NodeWrite(lease=lease_of(again), node=node("n1", "r1"))])
    assert rows(store, "SELECT count(*) FROM processes") == [(2,)]


async def test_two_stores_of_one_process_do_not_have_each_others_runs(store: SqlStore) -> None:
    other = beside(store)
    await other.create_run(run("r1", owner=ME))
    await store.create_run(run("r2", owner=ME))
    with pytest.raises(RunOwned):
        await store.claim_run(R1, ME)
    await other.close()
    assert (await store.run(R1)).status is RunStatus.INTERRUPTED
    assert (await store.run(R2)).status is RunStatus.RUNNING
    assert (await store.claim_run(R1, ME)).epoch == 2


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
    while not rows(left, "SELECT 1 FROM processes WHERE ended_at IS NOT NULL"):
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


async def test_a_run_of_an_older_flowllm_is_free_once_its_process_is_gone(store: SqlStore) -> None:
    mine = this_process(SystemClock())
    for name, owner in (("r1", mine), ("r2", OTHER)):
        await store.create_run(run(name, owner=owner))
    change(store, "UPDATE runs SET process = NULL")
    assert (await store.run(R1)).status is RunStatus.RUNNING
    with pytest.raises(RunOwned, match=f"process {os.getpid()} on"):
        await store.claim_run(R1, ME)
    assert (await store.run(R2)).status is RunStatus.INTERRUPTED
    assert (await store.claim_run(R2, ME)).epoch == 2


async def test_rows_of_the_dead_are_removed_after_a_week(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    await store.create_run(run("r1", owner=ME))
    monkeypatch.setattr(store.presence, "_due", time.monotonic() + 3600)
    change(store, "UPDATE processes SET lease_until = lease_until - 8 * 86400")
    other = beside(store)
    await other.create_run(run("r2", owner=ME))
    assert rows(store, "SELECT process_id FROM processes") == [(2,)]
    assert (await other.run(R1)).status is RunStatus.INTERRUPTED
    assert (await other.claim_run(R1, ME)).epoch == 2
    assert STALLED > LEASE
    await other.close()


async def test_one_that_works_on_the_run_of_another_writes_until_it_is_held_for_dead(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = beside(store)
    made = await store.create_run(run("r1", owner=ME))
    lease = await other.join_run(R1)
    assert lease == lease_of(made)
    await other.commit(nodes=[NodeWrite(lease=lease, node=node("n1", "r1"))])
    numbers = [1, 2, 3]

    def gone() -> set[int]:
        with closing(store._engine.writer()) as connection:
            connection.begin()
            found = store.presence.ended(connection, numbers)
            connection.commit()
            return found

    assert gone() == {3}, "nobody knows it"
    silence(store._engine)
    monkeypatch.setattr(presence, "SECOND_LOOK", 0.0)
    numbers.remove(1)
    assert gone() == {2, 3}
    with pytest.raises(OwnershipLost, match="nothing was heard"):
        await other.commit(nodes=[NodeWrite(lease=lease, node=node("n2", "r1"))])
    await store.commit(nodes=[NodeWrite(lease=lease, node=node("n3", "r1"))])
    with pytest.raises(RunNotFound):
        await other.join_run(RunId("unknown"))
    other.leave_run(R1)
    await other.close()


async def test_one_that_was_ended_hears_of_it_also_without_a_write(disk: SqlStore, path: Path) -> None:
    lease = lease_of(await disk.create_run(run("r1", owner=ME)))
    assert disk.lost(lease) is None
    end(path)
    disk.presence._due = time.monotonic()
    await disk.commit(memo=answer("a"))  # a heartbeat comes with it
    assert isinstance(disk.lost(lease), OwnershipLost)
    with pytest.raises(OwnershipLost):
        await disk.confirm(lease)
    again = lease_of(await disk.claim_run(R1, ME))
    assert disk.lost(again) is None
    await disk.confirm(again)
    await disk.finish_run(again, **DONE)
    assert disk.lost(again) is None
