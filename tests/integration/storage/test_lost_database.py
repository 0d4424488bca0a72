"""A database that is removed, moved, replaced or cut while a process uses it: SQLite itself notices little of that."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from flowllm.core.clock import SystemClock
from flowllm.core.errors import StorageFailed
from flowllm.core.types import NodeId, RunId, RunStatus
from flowllm.storage.base import NodeWrite, RunLease, Store
from flowllm.storage.open import open_store
from tests.support.records import ME, answer, attempt_of_node, lease_of, node, run

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs" / "x.db"


def _wal(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _shm(path: Path) -> Path:
    return path.with_name(f"{path.name}-shm")


def _replaced(path: Path) -> None:
    copy = path.with_name("copy")
    shutil.copy(path, copy)
    copy.replace(path)


def _other_log(path: Path) -> None:
    _wal(path).unlink()
    _wal(path).touch()


HAPPENINGS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "removed": (lambda path: path.unlink(), "was removed", "runs/x.db"),
    "folder removed": (lambda path: shutil.rmtree(path.parent), "was removed", "runs/x.db"),
    "moved": (lambda path: path.rename(path.parent.parent / "y.db"), "was moved to", "y.db"),
    "folder moved": (lambda path: path.parent.rename(path.parent.parent / "old"), "was moved to", "old/x.db"),
    "replaced": (_replaced, "was replaced by another file", "runs/x.db.rescued-1"),
    "log removed": (lambda path: _wal(path).unlink(), "lost the file x.db-wal", "runs/x.db"),
    "index removed": (lambda path: _shm(path).unlink(), "lost the file x.db-shm", "runs/x.db"),
    "both removed": (lambda path: (_wal(path).unlink(), _shm(path).unlink()), "lost the file x.db-wal", "runs/x.db"),
    "another log": (_other_log, "got another file x.db-wal", "runs/x.db.rescued-1"),
}


async def _settle(store: Store, lease: RunLease, name: str) -> None:
    await store.commit(
        attempt=attempt_of_node(name, "r1"),
        attempt_lease=lease,
        memo=answer(name),
        nodes=[NodeWrite(lease=lease, node=node(name, "r1"))],
    )


async def _names(store: Store) -> set[str]:
    return {str(found.node_id) for found in await store.nodes(RunId("r1"))}


@pytest.mark.parametrize("happening", HAPPENINGS)
async def test_nothing_is_begun_and_what_is_in_hand_is_kept(happening: str, path: Path, tmp_path: Path) -> None:
    happen, what, place = HAPPENINGS[happening]
    store = await open_store(str(path), clock=SystemClock())
    lease = lease_of(await store.create_run(run("r1", owner=ME)))
    for name in ("kept", "out", "late"):
        await store.begin_attempt(lease, attempt_of_node(name, "r1"))
    await _settle(store, lease, "kept")

    happen(path)

    with pytest.raises(StorageFailed, match="nothing more is sent") as told:
        await store.begin_attempt(lease, attempt_of_node("new", "r1"))
    assert what in told.value.message
    for name in ("out", "late"):
        with pytest.raises(StorageFailed, match=what):
            await _settle(store, lease, name)
    await store.close()

    there = tmp_path / place
    assert told.value.database == ("" if there == path else str(there))
    again = await open_store(str(there), clock=SystemClock())
    lease = lease_of(await again.claim_run(RunId("r1"), ME))
    assert await _names(again) == {"kept", "out", "late"}
    assert {str(found.node_id) for found in await again.attempts(RunId("r1"))} == {"kept", "out", "late"}
    assert (await again.memo_stats()).entries == 3
    await again.begin_attempt(lease, attempt_of_node("new", "r1"))
    await again.close()


@pytest.mark.parametrize("happening", HAPPENINGS)
async def test_the_last_write_of_a_run_is_kept_and_tells_of_a_loss_that_nobody_has_heard_of(
    happening: str, path: Path, tmp_path: Path
) -> None:
    happen, what, place = HAPPENINGS[happening]
    store = await open_store(str(path), clock=SystemClock())
    lease = lease_of(await store.create_run(run("r1", owner=ME)))
    end = {"status": RunStatus.SUCCEEDED, "finished_at": 2.0, "outputs": None, "error": None, "stats": None}

    happen(path)

    with pytest.raises(StorageFailed, match=what):
        await store.finish_run(lease, **end)
    await store.finish_run(lease, **end)  # it was told, and need not be told again
    await store.close()
    again = await open_store(str(tmp_path / place), clock=SystemClock())
    found = await again.run(RunId("r1"))
    assert found.status is RunStatus.SUCCEEDED
    await again.close()


@pytest.mark.parametrize("left", [0, 8192])
async def test_what_a_cut_database_cannot_take_is_there_once_it_is_restored(
    left: int, path: Path, tmp_path: Path
) -> None:
    store = await open_store(str(path), clock=SystemClock())
    lease = lease_of(await store.create_run(run("r1", owner=ME)))
    for name in ("kept", "out"):
        await store.begin_attempt(lease, attempt_of_node(name, "r1"))
    await _settle(store, lease, "kept")
    for file in (path, _wal(path)):
        shutil.copy(file, tmp_path / file.name)

    os.truncate(path, left)

    with pytest.raises(StorageFailed, match="could not be saved"):
        await store.begin_attempt(lease, attempt_of_node("new", "r1"))
    with pytest.raises(StorageFailed) as told:
        await _settle(store, lease, "out")
    assert f"kept in {path}.spill-" in told.value.hint
    await store.close()

    _shm(path).unlink(missing_ok=True)
    for file in (path, _wal(path)):
        shutil.copy(tmp_path / file.name, file)
    again = await open_store(str(path), clock=SystemClock())
    await again.claim_run(RunId("r1"), ME)
    assert await _names(again) == {"kept", "out"}
    await again.close()
    assert list(path.parent.glob("*.spill-*")) == []


async def test_a_log_that_others_have_put_into_the_database_is_no_loss(path: Path) -> None:
    store = await open_store(str(path), clock=SystemClock())
    lease = lease_of(await store.create_run(run("r1", owner=ME)))
    await _settle(store, lease, "kept")
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    await store.begin_attempt(lease, attempt_of_node("new", "r1"))
    await _settle(store, lease, "new")
    assert await _names(store) == {"kept", "new"}
    await store.close()


async def test_where_the_whole_project_is_removed_it_is_saved_in_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The working directory went with it."""
    project, temporary = tmp_path / "project", tmp_path / "temporary"
    project.mkdir()
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.chdir(project)
    store = await open_store("runs/x.db", clock=SystemClock())
    lease = lease_of(await store.create_run(run("r1", owner=ME)))
    await _settle(store, lease, "kept")
    shutil.rmtree(project)
    with pytest.raises(StorageFailed, match="was removed") as told:
        await _settle(store, lease, "out")
    await store.close()
    assert told.value.database == str(temporary / "x.db.rescued-1")
    again = await open_store(told.value.database, clock=SystemClock())
    assert await _names(again) == {"kept", "out"}
    await again.close()


async def test_a_step_that_changes_the_working_directory_moves_no_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    store = await open_store("runs/x.db", clock=SystemClock())
    lease = lease_of(await store.create_run(run("r1", owner=ME)))
    await _settle(store, lease, "kept")
    outputs = store.outputs(RunId("r1"), NodeId("rows"))
    os.chdir("elsewhere")
    await store.begin_attempt(lease, attempt_of_node("new", "r1"))
    await _settle(store, lease, "new")
    assert await _names(store) == {"kept", "new"}
    assert (len(outputs), len(store.outputs(RunId("r1"), NodeId("rows")))) == (0, 0)
    assert (await store.run(RunId("r1"))).status is RunStatus.RUNNING
    await store.finish_run(lease, status=RunStatus.SUCCEEDED, finished_at=1.0)
    await store.close()
    assert [found.name for found in (tmp_path / "runs").iterdir()] == ["x.db"]
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("happening", ["moved", "replaced", "folder moved"])
async def test_who_only_reads_is_told_too(happening: str, path: Path) -> None:
    """What stands at the old path, or does not, is no reason to speak of damage."""
    store = await open_store(str(path), clock=SystemClock())
    lease = lease_of(await store.create_run(run("r1", owner=ME)))
    outputs = store.outputs(RunId("r1"), NodeId("f"), numbers=[0])
    happen, said, _ = HAPPENINGS[happening]
    happen(path)  # before it is in the database: a copy has no such item
    with pytest.raises(StorageFailed, match=said) as told:
        list(outputs)
    assert told.value.database
    with pytest.raises(StorageFailed, match=said):
        await store.commit(nodes=[NodeWrite(lease=lease, node=node("f[0]", "r1"))])
    await store.close()
