from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from flowllm.errors import RunOwned, StorageFailed
from flowllm.store.ownership import Locks
from flowllm.types import RunId
from tests.support.records import ME, OTHER

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio
RUN = RunId("r1")


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


async def test_a_lock_whose_file_was_taken_away_leaves_the_new_owners_alone(
    locks: Locks, tmp_path: Path
) -> None:
    file = tmp_path / "x.db.locks" / "r1"
    await locks.acquire(RUN, ME)
    file.unlink()
    heir = Locks(tmp_path / "x.db")
    await heir.acquire(RUN, OTHER)
    locks.release(RUN)
    assert file.exists()
    assert Locks(tmp_path / "x.db").held(RUN)


async def test_a_look_at_a_lock_does_not_refuse_a_claim(locks: Locks, tmp_path: Path) -> None:
    import fcntl

    (tmp_path / "x.db.locks").mkdir()
    looker = os.open(tmp_path / "x.db.locks" / "r1", os.O_RDWR | os.O_CREAT)
    fcntl.flock(looker, fcntl.LOCK_SH)
    original = locks._try
    tries = 0

    def counting(run_id: RunId) -> int | None:
        nonlocal tries
        tries += 1
        if tries == 3:
            os.close(looker)
        return original(run_id)

    locks._try = counting
    await locks.acquire(RUN, ME)
    assert tries == 3


@pytest.mark.parametrize("run_id", ["../../etc", ".", "..", "a/b", "\ud800", "a b"])
async def test_no_id_leaves_the_folder(run_id: str, tmp_path: Path) -> None:
    locks = Locks(tmp_path / "x.db")
    await locks.acquire(RunId(run_id), ME)
    assert len(list((tmp_path / "x.db.locks").iterdir())) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["x.db.locks"]
    locks.release_all()


async def test_a_folder_that_cannot_be_made_is_a_fault_of_the_storage(tmp_path: Path) -> None:
    (tmp_path / "x.db.locks").write_text("in the way")
    with pytest.raises(StorageFailed, match="lock of run r1"):
        await Locks(tmp_path / "x.db").acquire(RUN, ME)
