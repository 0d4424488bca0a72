from __future__ import annotations

import asyncio
import os
import resource
from pathlib import Path

import pytest

from flowllm.core.errors import RunOwned, StorageFailed
from flowllm.core.types import RunId
from flowllm.storage.sqlite.ownership import Locks
from tests.support.records import ME, OTHER

pytestmark = pytest.mark.anyio
RUN = RunId("r1")


def open_files() -> int:
    return sum(1 for _ in Path("/dev/fd").iterdir())


def next_descriptor() -> int:
    descriptor = os.open(os.devnull, os.O_RDONLY)
    os.close(descriptor)
    return descriptor


@pytest.fixture
def locks(tmp_path: Path) -> Locks:
    return Locks(tmp_path / "x.db")


async def test_the_file_names_the_owner_and_goes_with_the_lock(locks: Locks, tmp_path: Path) -> None:
    await locks.acquire(RUN, ME)
    file = tmp_path / "x.db.locks" / "r1"
    assert '"pid": 4711' in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    locks.release(RUN)
    assert not file.exists()
    assert not locks.held(RUN)


async def test_a_second_claim_is_refused_and_told_who_has_it(locks: Locks, tmp_path: Path) -> None:
    await locks.acquire(RUN, ME)
    for other in (locks, Locks(tmp_path / "x.db")):
        with pytest.raises(RunOwned, match="process 4711 on here since 2023-11-14 22:13:20 UTC"):
            await other.acquire(RUN, OTHER)
    assert locks.held(RUN)


async def test_it_is_seen_from_outside_as_long_as_it_is_held(locks: Locks, tmp_path: Path) -> None:
    outside = Locks(tmp_path / "x.db")
    assert not outside.held(RUN)
    await locks.acquire(RUN, ME)
    assert outside.held(RUN)
    locks.release_all()
    assert not outside.held(RUN)


async def test_a_file_left_by_a_dead_owner_is_no_lock(locks: Locks, tmp_path: Path) -> None:
    (tmp_path / "x.db.locks").mkdir()
    (tmp_path / "x.db.locks" / "r1").write_text("half a no")
    assert not locks.held(RUN)
    await locks.acquire(RUN, ME)
    assert locks.held(RUN)


async def test_a_lock_whose_file_was_taken_away_leaves_the_new_owners_alone(locks: Locks, tmp_path: Path) -> None:
    file = tmp_path / "x.db.locks" / "r1"
    await locks.acquire(RUN, ME)
    file.unlink()
    heir = Locks(tmp_path / "x.db")
    await heir.acquire(RUN, OTHER)
    locks.release(RUN)
    assert file.exists()
    assert Locks(tmp_path / "x.db").held(RUN)


async def test_a_claim_waits_while_another_run_changes_hands(locks: Locks, tmp_path: Path) -> None:
    import fcntl

    (tmp_path / "x.db.locks").mkdir()
    other = os.open(tmp_path / "x.db.locks", os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    claim = asyncio.ensure_future(locks.acquire(RUN, ME))
    await asyncio.sleep(0)
    assert not claim.done()
    os.close(other)
    await claim
    assert locks.held(RUN)


async def test_one_file_is_open_for_all_runs(locks: Locks, tmp_path: Path) -> None:
    before = open_files()
    for number in range(100):
        await locks.acquire(RunId(f"r{number}"), ME)
    assert open_files() == before + 1
    locks.release_all()
    assert open_files() == before
    assert list((tmp_path / "x.db.locks").iterdir()) == []


async def test_what_a_killed_owner_left_is_taken_over_and_removed(locks: Locks, tmp_path: Path) -> None:
    killed = Locks(tmp_path / "x.db")
    await killed.acquire(RUN, OTHER)
    os.close(killed._descriptor or 0)
    assert not locks.held(RUN)
    await locks.acquire(RUN, ME)
    locks.release(RUN)
    assert list((tmp_path / "x.db.locks").iterdir()) == []


async def test_without_room_for_another_open_file_nobody_takes_a_run(locks: Locks, tmp_path: Path) -> None:
    await locks.acquire(RUN, ME)
    outside = Locks(tmp_path / "x.db")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next_descriptor(), limits[1]))
    try:
        assert outside.held(RUN)
        with pytest.raises(StorageFailed, match="Too many open files"):
            await outside.acquire(RUN, OTHER)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


async def test_whose_owner_cannot_be_read_is_taken_by_nobody(locks: Locks, tmp_path: Path) -> None:
    await locks.acquire(RUN, ME)
    file = tmp_path / "x.db.locks" / "r1"
    file.unlink()
    file.symlink_to(file)  # opening it fails, for every user
    outside = Locks(tmp_path / "x.db")
    assert outside.held(RUN)
    with pytest.raises(StorageFailed, match="cannot be taken"):
        await outside.acquire(RUN, OTHER)
    locks.forget_lost(RUN)
    locks.release_all()
    assert not locks._mine


@pytest.mark.parametrize("run_id", ["../../etc", ".", "..", "a/b", "\ud800", "a b"])
async def test_no_id_leaves_the_folder(run_id: str, tmp_path: Path) -> None:
    locks = Locks(tmp_path / "x.db")
    await locks.acquire(RunId(run_id), ME)
    assert len(list((tmp_path / "x.db.locks").iterdir())) == 2  # and the lock file of the owner
    assert [path.name for path in tmp_path.iterdir()] == ["x.db.locks"]
    locks.release_all()


async def test_a_folder_that_cannot_be_made_is_a_fault_of_the_storage(tmp_path: Path) -> None:
    (tmp_path / "x.db.locks").write_text("in the way")
    with pytest.raises(StorageFailed, match="lock of run r1"):
        await Locks(tmp_path / "x.db").acquire(RUN, ME)


def test_a_lock_whose_loop_was_closed_under_it_is_free(tmp_path: Path) -> None:
    before = open_files()
    lost, other = Locks(tmp_path / "x.db"), Locks(tmp_path / "x.db")
    asyncio.run(lost.acquire(RUN, ME))
    assert not other.held(RUN)
    asyncio.run(other.acquire(RUN, OTHER))
    other.release_all()
    assert open_files() == before
