"""Every way to today's schema, and back out of trouble."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from flowllm.core.clock import SystemClock
from flowllm.core.errors import DatabaseCorrupt, DatabaseTooNew, StorageFailed
from flowllm.core.types import NodeId, NodeStatus, RunId, Trait
from flowllm.storage.monitoring import Learned
from flowllm.storage.open import open_store
from flowllm.storage.sql import tables
from flowllm.storage.sqlite import migrate
from flowllm.storage.sqlite.migrate import SchemaState, Upgrade, migrations_folder, status, upgrade
from tests.support.process import ROOT, worker
from tests.support.records import ME, answer, attempt_of_node, lease_of, run

pytestmark = pytest.mark.anyio
WORKER = "tests.integration.storage.worker"
OLD = {path.stem: path.read_text() for path in Path(__file__).parent.glob("*.sql")}
"""Filled databases as former revisions left them."""
OUTPUT = {"text": "Café \ud800 \0", "n": 2**70}


@pytest.fixture(params=sorted(OLD))
def revision(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def old(tmp_path: Path, revision: str) -> Path:
    path = tmp_path / "x.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(OLD[revision])
    return path


def backup(path: Path, revision: str, number: int = 1) -> Path:
    return path.with_name(f"x.db.backup-{revision}-{number}")


def files(path: Path) -> dict[str, bytes]:
    return {found.name: found.read_bytes() for found in path.parent.iterdir() if found.is_file()}


def shape(path: Path) -> dict[str, object]:
    """All that SQLite knows of the tables, but for how it was spelled."""
    with closing(sqlite3.connect(path)) as connection:

        def ask(pragma: str, name: str) -> list[tuple[object, ...]]:
            return connection.execute(f'PRAGMA {pragma}("{name}")').fetchall()

        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        found: dict[str, object] = {}
        for name in sorted(names):
            indexes = {
                (row[1] if row[3] == "c" else "", row[2], row[3], *(i[2] for i in ask("index_info", row[1])))
                for row in ask("index_list", name)
            }
            found[name] = (ask("table_xinfo", name), indexes)
        sql = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'runs'").fetchone()[0]
        found["autoincrement"] = "AUTOINCREMENT" in sql
        found["application"] = connection.execute("PRAGMA application_id").fetchone()
        return found


def scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()))
    return ScriptDirectory.from_config(config)


def step(path: Path, go: Callable[[Config, str], None], revision: str) -> None:
    """Up or down to a revision by Alembic alone."""
    with migrate._transaction(path, 1.0) as connection:
        config = Config()
        config.set_main_option("script_location", str(migrations_folder()))
        config.attributes["connection"] = connection
        go(config, revision)
        migrate._raw(connection).execute(f"PRAGMA application_id={migrate.APPLICATION_ID}")


def count(path: Path) -> dict[str, int]:
    """Rows of each table that every revision has."""
    with closing(sqlite3.connect(path)) as connection:
        return {
            name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0]
            for name in ("runs", "nodes", "attempts", "memo")
        }


def test_the_revisions_are_those_that_the_program_knows() -> None:
    found = [script.revision for script in scripts().walk_revisions()]
    assert tuple(reversed(found)) == migrate.REVISIONS
    assert scripts().get_current_head() == migrate.HEAD


def test_there_is_a_filled_database_of_every_former_revision() -> None:
    assert set(OLD) == set(migrate.REVISIONS) - {migrate.HEAD}


def test_a_new_database_and_an_upgraded_one_have_the_same_schema(old: Path, tmp_path: Path) -> None:
    upgrade(str(old))
    upgrade(str(tmp_path / "new.db"))
    assert shape(tmp_path / "new.db") == shape(old)


def test_all_migrations_from_nothing_give_the_schema_too_and_alembic_finds_no_difference(tmp_path: Path) -> None:
    upgrade(str(tmp_path / "new.db"))
    path = tmp_path / "x.db"
    path.touch()
    step(path, command.upgrade, "head")
    made, stepwise = shape(tmp_path / "new.db"), shape(path)
    assert stepwise == made
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, tables.metadata) == []
    engine.dispose()


def test_a_frozen_database_has_the_schema_that_its_revision_makes(old: Path, revision: str, tmp_path: Path) -> None:
    path = tmp_path / "y.db"
    path.touch()
    step(path, command.upgrade, revision)
    assert shape(path) == shape(old)


def test_an_upgrade_can_be_taken_back_and_keeps_the_rows(old: Path, revision: str) -> None:
    before, rows = shape(old), count(old)
    upgrade(str(old))
    step(old, command.downgrade, revision)
    assert (shape(old), count(old)) == (before, rows)


async def test_an_old_database_keeps_its_runs_and_answers(old: Path, revision: str) -> None:
    told: list[Upgrade] = []
    assert status(str(old)).state is SchemaState.OLDER
    store = await open_store(str(old), clock=SystemClock(), upgraded=told.append)
    assert [record.run_id for record in await store.runs()] == ["run2", "run1"]
    first = await store.run(RunId("run1"))
    tenant, reused = ("", False) if revision == "0001" else ("acme", True)
    assert (first.tenant, first.inputs, first.outputs) == (tenant, {"topic": "tea"}, {"b": 1, "a": "x"})
    assert first.snapshot == {"/flows/blog.yaml": "steps: {}\n"}
    kept = await store.nodes(RunId("run1"))
    assert [(found.node_id, found.output, found.reused) for found in kept] == [
        ("headline", OUTPUT, reused),
        ("intro", OUTPUT, False),
    ]
    last = await store.last_node("blog", NodeId("intro"), before_seq=None)
    assert last is not None
    assert (last.run_id, last.status) == ("run1", NodeStatus.SUCCEEDED)
    assert len(await store.attempts(RunId("run2"))) == 2
    kept = await store.memo(answer("intro").key)
    assert kept is not None
    kept.answer["usage"].setdefault("cache_write_tokens", 0)  # not counted then
    assert kept == answer("intro", value="Café \ud800 \0")
    claimed = await store.claim_run(RunId("run2"), ME)
    assert claimed.epoch == 2
    assert (await store.create_run(run("run4", owner=ME))).seq == 4  # 3 was given to a run that is deleted
    await store.close()
    assert [done.backup for done in told] == [backup(old, revision)]


async def test_attempts_of_an_old_database_have_spent_what_is_known_of_them(old: Path, revision: str) -> None:
    store = await open_store(str(old), clock=SystemClock())
    spend = await store.spend(RunId("run1"))
    assert (spend.tokens, spend.cost_usd) == (160.0, 0.0002)
    expected = {
        "0001": (160.0, 0.0002, 0.0),
        "0002": (80.0, 0.0001, None),  # one is in doubt: nobody knows what it may have cost
        "0003": (180.0, 0.0001, 0.0005),
        "0004": (180.0, 0.0001, 0.0005),
        "0005": (180.0, 0.0001, 0.0005),
        "0006": (180.0, 0.0001, 0.0005),
        "0007": (180.0, 0.0001, 0.0005),
        "0008": (180.0, 0.0001, 0.0005),
        "0009": (180.0, 0.0001, 0.0005),
        "0010": (180.0, 0.0001, 0.0005),
    }
    spend = await store.spend(RunId("run2"))
    assert (spend.tokens, spend.known_usd, spend.reserved_usd) == expected[revision]
    kept = {(found.reserved_tokens, found.reserved_usd) for found in await store.attempts(RunId("run2"))}
    assert kept == ({(100.0, 0.0005)} if revision >= "0003" else {(0.0, None)})
    claimed = await store.claim_run(RunId("run2"), ME)
    again = attempt_of_node("intro", "run2", number=2)
    await store.begin_attempt(lease_of(claimed), again)
    assert (await store.attempts(RunId("run2")))[-1] == again
    kept = [Learned(account="a", name=Trait.REQUESTS_PER_SECOND, value=1.5, at=1_700_000_003.0)]
    assert await store.learned(since=0.0) == (kept if revision >= "0003" else [])
    await store.close()


def test_the_backup_is_the_database_as_it_was(old: Path, revision: str) -> None:
    with closing(sqlite3.connect(old)) as connection:
        before = list(connection.iterdump())
    done = upgrade(str(old))
    assert (done.before.current, done.after.current) == (revision, migrate.HEAD)
    assert done.backup == backup(old, revision)
    with closing(sqlite3.connect(done.backup)) as connection:
        assert list(connection.iterdump()) == before
    assert done.backup.stat().st_mode & 0o777 == 0o600
    assert sorted(found.name for found in old.parent.iterdir()) == ["x.db", done.backup.name]

    shutil.copy(done.backup, old)  # back to the old one: a second upgrade keeps the first backup
    assert upgrade(str(old)).backup == backup(old, revision, 2)


def test_what_is_only_in_the_log_is_in_the_backup_too(old: Path) -> None:
    with closing(sqlite3.connect(old, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("UPDATE memo SET model = 'changed'")
        done = upgrade(str(old))
    assert done.backup is not None
    with closing(sqlite3.connect(done.backup)) as connection:
        assert connection.execute("SELECT DISTINCT model FROM memo").fetchall() == [("changed",)]


def test_an_upgrade_with_nothing_to_do(old: Path) -> None:
    upgrade(str(old))
    before = files(old)
    assert upgrade(str(old)).backup is None
    assert files(old) == before


@pytest.mark.parametrize("newer", ["1000", "9999", "ae1027a6acf"])
async def test_a_newer_database_is_refused_untouched(old: Path, newer: str) -> None:
    with closing(sqlite3.connect(old)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("UPDATE alembic_version SET version_num = ?", (newer,))
        connection.commit()
    before = files(old)
    assert list(before) == ["x.db"]
    with pytest.raises(DatabaseTooNew, match="made by a newer flowllm") as caught:
        await open_store(str(old), clock=SystemClock())
    assert caught.value.exit_code == 2
    assert "Upgrade flowllm" in caught.value.hint
    with pytest.raises(DatabaseTooNew):
        upgrade(str(old))
    assert status(str(old)).state is SchemaState.NEWER
    assert files(old) == before


async def test_a_database_without_its_revision_is_damaged(old: Path) -> None:
    with closing(sqlite3.connect(old)) as connection:
        connection.execute("DELETE FROM alembic_version")
        connection.commit()
    before = files(old)
    with pytest.raises(DatabaseCorrupt, match="revisions"):
        await open_store(str(old), clock=SystemClock())
    assert files(old) == before


@pytest.mark.parametrize("revision", [min(OLD), max(OLD)])
def test_of_two_upgrades_at_once_one_does_it(old: Path) -> None:
    with ExitStack() as stack:
        children = [stack.enter_context(worker(WORKER, "upgrade", old)) for _ in range(2)]
        for child in children:
            assert child.hear() == "ready"
        for child in children:
            child.tell()
        told = sorted(child.rest()[0][0] for child in children)
    assert told == ["current False", "current True"]
    assert len(list(old.parent.glob("*backup*"))) == 1


def test_an_upgrade_that_is_killed_leaves_the_old_database_and_runs_again(
    old: Path, revision: str, tmp_path: Path
) -> None:
    with worker(WORKER, "upgrade_and_die", old) as child:
        told, code = child.rest()
    assert (told, code) == (["migrated"], -9)
    assert status(str(old)).current == revision
    done = upgrade(str(old))
    assert done.after.state is SchemaState.CURRENT
    assert done.backup == backup(old, revision, 2)
    with closing(sqlite3.connect(old)) as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (2,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    upgrade(str(tmp_path / "new.db"))
    assert shape(old) == shape(tmp_path / "new.db")


def test_an_upgrade_whose_backup_fails_changes_nothing(old: Path, revision: str) -> None:
    old.with_name(f"x.db.backup-{revision}.partial").mkdir()
    with closing(sqlite3.connect(old)) as connection:
        before = list(connection.iterdump())
    with pytest.raises(StorageFailed, match="backup"):
        upgrade(str(old))
    with closing(sqlite3.connect(old)) as connection:
        assert list(connection.iterdump()) == before


def test_an_upgrade_waits_for_another_writer_and_gives_up_in_plain_words(old: Path, revision: str) -> None:
    with closing(sqlite3.connect(old, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageFailed, match="locked"):
            upgrade(str(old), busy_timeout=0.2)
    assert status(str(old)).current == revision


def test_neither_a_new_nor_a_current_database_needs_alembic(tmp_path: Path) -> None:
    code = f"""
import asyncio, sys
from flowllm.core.clock import SystemClock
from flowllm.storage.open import open_store
async def use():
    await (await open_store({str(tmp_path / "x.db")!r}, clock=SystemClock())).close()
asyncio.run(use())
asyncio.run(use())
print("alembic" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def test_the_address_of_a_store_costs_no_sqlalchemy() -> None:
    code = "import sys, flowllm.storage.open; print('sqlalchemy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


async def test_a_current_database_is_used_as_it_is(old: Path) -> None:
    upgrade(str(old))
    store = await open_store(str(old), clock=SystemClock())
    made = await store.create_run(replace(run("r9", owner=ME), tags=("new",)))
    await store.update_run(lease_of(made), snapshot={}, path="/x", options={}, inputs={})
    assert ((await store.run(RunId("r9"))).path, await store.tags()) == ("/x", ["new"])
    await store.close()
