"""Results that the database cannot take are kept beside it, and come into it before anything else does."""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from flowllm.core.clock import SystemClock
from flowllm.core.errors import StorageFailed
from flowllm.core.types import NodeStatus, RunId, RunStatus, StepKind
from flowllm.storage.base import NodeWrite, RunLease
from flowllm.storage.open import open_store
from flowllm.storage.sql import spill as module
from flowllm.storage.sql.spill import Spill
from flowllm.storage.sql.store import SqlStore
from flowllm.storage.sql.writer import Failpoints
from flowllm.storage.sqlite.engine import at
from tests.support.owners import execute
from tests.support.process import worker
from tests.support.records import ME, answer, attempt_of_node, lease_of, node, run

pytestmark = pytest.mark.anyio
WORKER = "tests.integration.storage.worker"


class Faulty:
    """A disk that is full while `full` is set."""

    def __init__(self) -> None:
        self.full = False

    def __call__(self) -> None:
        if self.full:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error


async def _opened(path: Path, disk: Faulty) -> SqlStore:
    await (await open_store(str(path), clock=SystemClock())).close()
    return SqlStore(at(path), owner=ME, failpoints=Failpoints(before_commit=disk))


def _write(lease: RunLease, name: str, status: NodeStatus = NodeStatus.SUCCEEDED) -> NodeWrite:
    return NodeWrite(lease=lease, node=replace(node(name, lease.run_id), status=status))


def _full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _left(folder: Path) -> list[str]:
    return [found.name for found in folder.iterdir() if ".spill-" in found.name]


async def test_later_results_come_after_those_that_wait(path: Path) -> None:
    """A small one would fit where a large one did not: its state must not be undone by the one before it."""
    disk = Faulty()
    store = await _opened(path, disk)
    lease = lease_of(await store.create_run(run("r1", owner=ME)))
    disk.full = True
    for status in (NodeStatus.RUNNING, NodeStatus.SUCCEEDED):
        with pytest.raises(StorageFailed, match="full") as told:
            await store.commit(nodes=[_write(lease, "a", status)])
        assert "are kept in" in told.value.hint
    with pytest.raises(StorageFailed):
        await store.begin_attempt(lease, attempt_of_node("b", "r1"))
    disk.full = False
    await store.commit(nodes=[_write(lease, "c")])
    found = {str(node.node_id): node.status for node in await store.nodes(RunId("r1"))}
    assert found == {"a": NodeStatus.SUCCEEDED, "c": NodeStatus.SUCCEEDED}
    await store.close()
    assert _left(path.parent) == []


async def test_a_run_is_not_claimed_past_results_that_wait(path: Path) -> None:
    """Under a new epoch they would be refused."""
    disk = Faulty()
    store = await _opened(path, disk)
    lease = lease_of(await store.create_run(run("r1", owner=ME)))
    disk.full = True
    with pytest.raises(StorageFailed):
        await store.commit(nodes=[_write(lease, "a")], memo=answer("a"))
    await store.close()

    store = SqlStore(at(path), owner=ME, failpoints=Failpoints(before_commit=disk))
    with pytest.raises(StorageFailed):
        await store.claim_run(RunId("r1"), ME)
    disk.full = False
    assert (await store.claim_run(RunId("r1"), ME)).epoch == lease.epoch + 1
    assert [found.node_id for found in await store.nodes(RunId("r1"))] == ["a"]
    await store.close()


@pytest.mark.parametrize("ended", [False, True])
async def test_what_a_worker_has_kept_counts_unless_it_was_held_for_dead(path: Path, ended: bool) -> None:
    disk, run_id = Faulty(), RunId("r1")
    coordinator = await _opened(path, Faulty())
    await coordinator.create_run(run("r1", owner=ME))
    store = await _opened(path, disk)
    lease = await store.join_run(run_id)
    disk.full = True
    with pytest.raises(StorageFailed):
        await store.commit(nodes=[_write(lease, "a")], memo=answer("a"))
    if ended:
        execute(path, "UPDATE processes SET ended_at = 1 WHERE process_id = ?", store.presence.number)
    disk.full = False
    await store.commit(memo=answer("b"))
    assert await store.memo(answer("a").key) == answer("a")
    assert [found.node_id for found in await store.nodes(run_id)] == ([] if ended else ["a"])
    await store.close()
    await coordinator.close()


async def test_of_a_run_that_was_deleted_the_answers_are_kept(path: Path) -> None:
    disk = Faulty()
    store = await _opened(path, disk)
    lease = lease_of(await store.create_run(run("r1", owner=ME)))
    await store.finish_run(lease, status=RunStatus.INTERRUPTED, finished_at=1.0)
    disk.full = True
    with pytest.raises(StorageFailed):
        await store.commit(nodes=[_write(lease, "a")], memo=answer("a"))
    await store.close()
    with sqlite3.connect(path) as other:
        other.execute("DELETE FROM runs")
    other.close()
    disk.full = False
    store = await _opened(path, disk)
    await store.create_run(run("r2", owner=ME))
    assert await store.memo(answer("a").key) == answer("a")
    assert await store.nodes(RunId("r2")) == []
    await store.close()


async def test_nothing_is_begun_without_room_for_its_result(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await _opened(path, Faulty())
    lease = lease_of(await store.create_run(run("r1", owner=ME)))

    with monkeypatch.context() as patch:
        patch.setattr(module, "_allocate", _full)
        with pytest.raises(StorageFailed, match="no room for results"):
            await store.begin_attempt(lease, attempt_of_node("a", "r1"))
    assert await store.attempts(RunId("r1")) == []
    await store.begin_attempt(lease, attempt_of_node("a", "r1"))
    assert len(_left(path.parent)) == 1
    await store.close()
    assert _left(path.parent) == []


async def test_nothing_sums_up_what_is_lost(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of a graph within is on record nowhere: that graph has not succeeded, another's may."""
    disk = Faulty()
    store = await _opened(path, disk)
    lease, other = [lease_of(await store.create_run(run(name, owner=ME))) for name in ("r1", "r2")]
    disk.full = True
    with monkeypatch.context() as patch:
        patch.setattr(Spill, "append", _full)
        with pytest.raises(StorageFailed, match="lost"):
            await store.commit(nodes=[_write(lease, "g.a", NodeStatus.SKIPPED)])
    disk.full = False
    await store.commit(nodes=[_write(lease, "g.b")])
    graph = replace(node("g", "r1"), kind=StepKind.WORKFLOW)
    with pytest.raises(StorageFailed, match="full"):
        await store.commit(nodes=[NodeWrite(lease=lease, node=graph)])
    await store.commit(nodes=[NodeWrite(lease=other, node=replace(graph, run_id=other.run_id))])
    assert [node.node_id for node in await store.nodes(RunId("r1"))] == ["g.b"]
    assert [node.node_id for node in await store.nodes(RunId("r2"))] == ["g"]
    await store.close()


async def test_a_process_that_ends_with_a_full_disk_leaves_every_result(path: Path) -> None:
    with worker(WORKER, "left", path, 400_000) as child:
        (written, *errors), code = child.rest()
    assert code == 0
    assert errors == ["StorageFailed"] * 600
    store = await open_store(str(path), clock=SystemClock())
    assert len(await store.nodes(RunId("r1"))) < int(written)
    await store.claim_run(RunId("r1"), ME)
    assert len(await store.nodes(RunId("r1"))) == int(written)
    assert (await store.memo_stats()).entries == int(written)
    await store.close()
    assert _left(path.parent) == []


def test_without_a_place_beside_the_database_it_is_in_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    database = tmp_path / "gone" / "x.db"
    kept = Spill(database)
    kept.reserve(2, 100)
    payloads = [f"{n}".encode() * 100_000 for n in range(30)]  # more than was reserved: three files
    for payload in payloads:
        kept.append(payload)
    other = Spill(database)
    other.take_over()
    assert not other.holds, "that of a living process is its own"
    kept.close()
    assert {oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir()} == {"0o600"}
    other.take_over()
    assert other.results() == payloads
    other.clear()
    other.close()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_removed_or_damaged_takes_nothing_from_others(tmp_path: Path) -> None:
    kept = Spill(tmp_path / "x.db")
    kept.reserve(3, 100)
    kept.append(b"first")
    kept.append(b"second")
    (file,) = tmp_path.iterdir()
    file.unlink()
    kept.append(b"third")
    kept.close()
    (file,) = tmp_path.iterdir()
    with file.open("ab") as end:
        end.write(b"FLSP a frame that was not written wholly")
    (tmp_path / "x.db.spill-1-ab-0").symlink_to(file)
    other = Spill(tmp_path / "x.db")
    other.take_over()
    assert other.results() == [b"third"]
    other.close()


def test_a_file_that_another_process_tidied_away_while_it_was_made_keeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    lock = fcntl.flock

    def late(descriptor: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        Spill(tmp_path / "x.db").take_over()
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    kept = Spill(tmp_path / "x.db")
    kept.append(b"first")
    kept.close()
    other = Spill(tmp_path / "x.db")
    other.take_over()
    assert other.results() == [b"first"]
    other.close()


def test_what_cannot_be_read_for_now_is_not_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    kept = Spill(tmp_path / "x.db")
    kept.append(b"first")
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", broken)
        with pytest.raises(OSError, match="Input/output"):
            kept.results()
    assert kept.holds
    kept.append(b"second")
    assert kept.results() == [b"first", b"second"]
    kept.close()


async def test_where_no_temporary_folder_can_be_written_to_the_one_of_the_database_does(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    told: list[str] = []
    store = await open_store(str(path), clock=SystemClock(), told=told.append)
    lease = lease_of(await store.create_run(run("r1", owner=ME)))
    await store.begin_attempt(lease, attempt_of_node("a", "r1"))
    path.unlink()
    with pytest.raises(StorageFailed, match="All that it held is in it again"):
        await store.begin_attempt(lease, attempt_of_node("b", "r1"))
    await store.close()
    assert told == []


def test_of_very_large_results_the_room_need_only_be_free(tmp_path: Path) -> None:
    kept = Spill(tmp_path / "x.db")
    kept.reserve(2, 1000)
    kept.reserve(200, 4_000_000)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 2_000_000
    with pytest.raises(OSError, match="No space left"):
        kept.reserve(1, 1 << 60)
    kept.close()
