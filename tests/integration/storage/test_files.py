"""The file on disk: made, damaged, foreign, read-only."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from flowllm.core.clock import SystemClock
from flowllm.core.errors import DatabaseCorrupt, StorageFailed, StoreError, UsageError
from flowllm.core.types import NodeStatus, RunId, RunStatus
from flowllm.storage.base import NodeWrite
from flowllm.storage.open import open_store
from flowllm.storage.sql.store import SqlStore
from flowllm.storage.sqlite.migrate import SchemaState, inspect
from tests.support.records import ME, answer, lease_of, node, run

pytestmark = pytest.mark.anyio
R1 = RunId("r1")
TEXT = "The answer that will be damaged, at some length, so that it stands in one place."


def files(path: Path) -> dict[str, bytes]:
    return {found.name: found.read_bytes() for found in path.parent.iterdir() if found.is_file()}


async def filled(path: Path) -> None:
    store = await open_store(str(path), clock=SystemClock())
    made = await store.create_run(run("r1", owner=ME))
    writes = [NodeWrite(lease=lease_of(made), node=node("a", "r1", output=TEXT))]
    writes.append(NodeWrite(lease=lease_of(made), node=node("b", "r1", seq=2)))
    await store.commit(nodes=writes, memo=answer("a", value=TEXT))
    await store.commit(memo=answer("b"))
    await store.finish_run(lease_of(made), status=RunStatus.SUCCEEDED, finished_at=1.0)
    await store.close()


async def test_a_new_database_is_private_and_hidden_from_git(tmp_path: Path) -> None:
    path = tmp_path / ".flowllm" / "flowllm.db"
    await filled(path)
    assert (path.parent / ".gitignore").read_text() == "*\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    store = await open_store(f"sqlite:///{path}", clock=SystemClock())
    await store.commit(memo=answer("c"))
    modes = {found.name: found.stat().st_mode & 0o777 for found in path.parent.glob("flowllm.db*")}
    assert modes == {"flowllm.db": 0o600, "flowllm.db-wal": 0o600, "flowllm.db-shm": 0o600}
    await store.close()
    assert not list(path.parent.glob("*-wal"))


async def test_another_folder_gets_no_gitignore(path: Path) -> None:
    await filled(path.parent / "data" / "x.db")
    assert not (path.parent / "data" / ".gitignore").exists()


async def test_what_is_committed_has_reached_the_disk(disk: SqlStore) -> None:
    await disk.commit(memo=answer("a"))
    connection = disk._writer._connection
    assert connection is not None
    found = await asyncio.to_thread(
        lambda: [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
    )
    assert found == ["wal", 2]


async def test_many_open_a_new_database_at_once(path: Path) -> None:
    stores = await asyncio.gather(*(open_store(str(path), clock=SystemClock()) for _ in range(8)))
    await asyncio.gather(*(store.commit(memo=answer(f"k{n}")) for n, store in enumerate(stores)))
    assert (await stores[0].memo_stats()).entries == 8
    await asyncio.gather(*(store.close() for store in stores))


async def test_an_empty_file_is_a_new_database(path: Path) -> None:
    path.touch()
    await filled(path)
    assert inspect(path).state is SchemaState.CURRENT


async def test_memory_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    store = await open_store("memory:", clock=SystemClock())
    await store.commit(memo=answer("k"))
    assert (await store.memo_stats()).entries == 1
    await store.close()
    await store.close()
    assert [found.name for found in tmp_path.rglob("*")] == ["temporary"]


async def test_odd_names(tmp_path: Path) -> None:
    path = tmp_path / "a b?c=d#e%20é" / "x;y&mode=ro.db"
    await filled(path)
    assert path.stat().st_size > 0
    assert {found.name for found in path.parent.iterdir()} == {path.name}


# damaged


def damage(path: Path, old: bytes, new: bytes) -> int:
    """Overwrite a text in the file with another of its length; how many there were."""
    content = path.read_bytes()
    count = content.count(old)
    path.write_bytes(content.replace(old, new))
    return count


async def test_one_byte_of_an_answer_is_found_on_reading(path: Path) -> None:
    await filled(path)
    content = bytearray(path.read_bytes())
    offset = content.find(b'{"value":"The answer')
    assert offset > 0
    content[offset + 12] ^= 0x80  # no longer UTF-8
    path.write_bytes(content)
    store = await open_store(str(path), clock=SystemClock())
    assert await store.memo(answer("a").key) is None
    assert await store.memo(answer("b").key) == answer("b")
    assert (await store.memo_stats()).entries == 1
    await store.commit(memo=answer("a", value=TEXT))
    assert await store.memo(answer("a").key) == answer("a", value=TEXT)
    await store.close()


async def test_one_byte_of_a_result_is_found_on_reading(path: Path) -> None:
    await filled(path)
    assert damage(path, TEXT.encode(), TEXT.replace("answer", "Answer").encode()) >= 2
    store = await open_store(str(path), clock=SystemClock())
    first, second = sorted(await store.nodes(R1), key=lambda found: found.node_id)
    assert (first.status, first.output, first.key) == (NodeStatus.FAILED, None, "")
    assert second == node("b", "r1", seq=2)
    assert await store.memo(answer("a").key) is None
    await store.close()


async def test_a_damaged_answer_that_cannot_be_removed_is_still_not_given(path: Path) -> None:
    await filled(path)
    damage(path, TEXT.encode(), TEXT.replace("answer", "Answer").encode())
    store = await open_store(str(path), clock=SystemClock(), busy_timeout=0.1)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert await store.memo(answer("a").key) is None
    await store.close()


@pytest.mark.parametrize(
    ("at", "content"), [(0, b"This is not SQLite"), (0, b"\0" * 4096), (100, b"\xff" * 3996), (0, b"x")]
)
async def test_a_damaged_header_is_refused_and_left_alone(path: Path, at: int, content: bytes) -> None:
    await filled(path)
    changed = bytearray(path.read_bytes())
    changed[at : at + len(content)] = content
    path.write_bytes(changed)
    before = files(path)
    with pytest.raises(DatabaseCorrupt, match=r"x\.db") as caught:
        await open_store(str(path), clock=SystemClock())
    assert caught.value.hint
    assert files(path) == before


async def test_damaged_pages_give_an_error_never_a_wrong_answer(path: Path) -> None:
    await filled(path)
    content = path.read_bytes()
    size = 4096
    errors = 0
    for page in range(1, len(content) // size):
        path.write_bytes(content[: page * size] + b"\xa5" * size + content[(page + 1) * size :])
        for tail in ("-wal", "-shm"):
            path.with_name(path.name + tail).unlink(missing_ok=True)
        try:
            store = await open_store(str(path), clock=SystemClock())
        except StoreError:
            errors += 1
            continue
        try:
            kept = await store.memo(answer("a").key)
            assert kept is None or kept == answer("a", value=TEXT)
            for found in await store.nodes(R1):
                assert found.status is NodeStatus.FAILED or found.output in {TEXT, node("b", "r1").output}
            await store.runs()
            await store.commit(memo=answer("c"))
        except StoreError:
            errors += 1
        finally:
            await store.close()
    assert errors >= 3


async def test_a_torn_log_loses_what_was_not_whole_and_nothing_else(path: Path) -> None:
    store = await open_store(str(path), clock=SystemClock())
    for number in range(20):
        await store.commit(memo=answer(f"k{number}"))
    copy = path.with_name("copy.db")
    wal = path.with_name("x.db-wal").read_bytes()
    copy.write_bytes(path.read_bytes())
    copy.with_name("copy.db-wal").write_bytes(wal[:-100])
    await store.close()
    torn = await open_store(str(copy), clock=SystemClock())
    for number in range(19):
        assert await torn.memo(answer(f"k{number}").key) == answer(f"k{number}")
    assert await torn.memo(answer("k19").key) is None
    await torn.close()


# foreign, and in the way


async def test_another_programs_database_is_refused_and_left_alone(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE runs (x)")
        connection.execute("CREATE TABLE alembic_version (version_num)")
        connection.execute("INSERT INTO alembic_version VALUES ('0001')")
        connection.commit()
    before = files(path)
    with pytest.raises(UsageError, match="another program's database"):
        await open_store(str(path), clock=SystemClock())
    assert files(path) == before


async def test_a_folder_is_no_database(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        await open_store(str(tmp_path), clock=SystemClock())


async def test_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    with pytest.raises(StorageFailed, match="cannot be read"):
        await open_store(str(tmp_path / ("x" * 300)), clock=SystemClock())


async def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageFailed, match="cannot be"):
        await open_store(str(tmp_path / "file" / "x.db"), clock=SystemClock())


async def test_looking_at_the_schema_leaves_no_trace(path: Path) -> None:
    await filled(path)
    before = files(path)
    assert inspect(path).state is SchemaState.CURRENT
    assert files(path) == before


async def test_the_schema_is_seen_while_another_has_it_open(path: Path, disk: SqlStore) -> None:
    await disk.commit(memo=answer("a"))
    assert path.with_name("x.db-wal").exists()
    assert inspect(path).state is SchemaState.CURRENT


async def test_a_file_that_was_taken_away_is_not_made_anew(path: Path) -> None:
    await filled(path)
    store = await open_store(str(path), clock=SystemClock())
    path.unlink()
    with pytest.raises(StorageFailed):
        await store.commit(memo=answer("c"))
    assert not path.exists()
    await store.close()


async def test_a_read_only_place_can_be_read_and_refuses_writing_in_plain_words(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(path)
    before = files(path)
    # Root may write everywhere, so the answer that others would get is given here.
    monkeypatch.setattr(os, "access", lambda name, mode: mode != os.W_OK)
    store = await open_store(str(path), clock=SystemClock())
    assert (await store.run(R1)).status is RunStatus.SUCCEEDED
    assert len(await store.runs()) == 1
    assert len(await store.nodes(R1)) == 2
    await store.close()
    assert files(path) == before


READ_ONLY = """
import asyncio, sys
from flowllm.core.clock import SystemClock
from flowllm.core.errors import StorageFailed
from flowllm.storage.open import open_store
from tests.support.records import answer

async def main():
    store = await open_store(sys.argv[1], clock=SystemClock())
    assert len(await store.runs()) == 1
    try:
        await store.commit(memo=answer("c"))
    except StorageFailed as error:
        print(error)
    await store.close()

asyncio.run(main())
"""


async def test_a_read_only_file_refuses_writing_in_plain_words(path: Path) -> None:
    await filled(path)
    path.chmod(0o400)
    path.parent.chmod(0o500)
    # root may write everywhere, unless it gives up that right
    humble = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    try:
        command = [*humble, sys.executable, "-c", READ_ONLY, str(path)]
        child = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert "x.db" in child.stdout
    finally:
        path.parent.chmod(0o700)


async def test_opening_waits_for_a_lock_as_long_as_writing_does(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await filled(path)
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("PRAGMA locking_mode=EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    other.execute("CREATE TABLE held (a)")
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            other.execute("ROLLBACK")
            other.close()

    monkeypatch.setattr("flowllm.storage.sqlite.migrate.time.sleep", wait)
    store = await open_store(str(path), clock=SystemClock())
    assert len(waits) == 3
    assert (await store.run(R1)).run_id == R1
    await store.close()


async def test_a_lock_that_stays_is_told(path: Path) -> None:
    await filled(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        other.execute("CREATE TABLE held (a)")
        with pytest.raises(StorageFailed, match="locked for too long"):
            await open_store(str(path), clock=SystemClock(), busy_timeout=0.1)


async def test_to_look_at_an_open_database_gives_none_of_its_locks_back(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    store = await open_store(str(path), clock=SystemClock())
    await store.create_run(run("r1", owner=ME))
    assert (await store.run(R1)).run_id == R1
    assert inspect(path).state is SchemaState.CURRENT
    await (await open_store(str(path), clock=SystemClock())).close()
    another = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM runs').fetchall(); c.close()"
    )
    subprocess.run([sys.executable, "-c", another, str(path)], check=True)
    assert (
        path.with_name("x.db-wal").stat().st_size > 0
    )  # the other process would have taken the log of a closed one away
    await store.close()
