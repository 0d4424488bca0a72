"""One byte of a run's database is another: that is found and told, and never becomes another answer."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from flowllm import FlowLLM
from flowllm.core.errors import FlowLLMError
from flowllm.core.types import RunId
from tests.support.project import Project

pytestmark = pytest.mark.anyio

WORKFLOW = """
inputs: {who: Alice}
providers: {sim: {type: simulated}}
defaults: {provider: sim, model: m}
steps:
  a: {prompt: "Name {{ inputs.who }}"}
  each: {foreach: [red, green], prompt: "Tell of {{ item * 99 }}"}
  bad: {foreach: [1, 0], value: "{{ 7 // item }}", on_error: continue}
  inner: {workflow: {inputs: {x: }, steps: {v: {value: "v {{ inputs.x }}"}}, outputs: {v: "{{ v }}"}}, with: {x: "{{ a }}"}}
  fails: {value: "{{ 1 // 0 }}"}
outputs: {a: "{{ a }}", each: "{{ each }}", inner: "{{ inner }}"}
"""
ROWS = {
    "runs": "1",
    "nodes": "node_id IN ('a', 'each', 'each[1]', 'bad[1]')",
    "attempts": "node_id = 'a'",
    "texts": "1",
}

FOUND_BY = {"run_id", "status", "node_id", "parent", "place", "attempt_id", "change_no"}
"""Columns of indexes: SQL would change both, and a byte that is another on the disk changes one."""


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunId]:
    folder = tmp_path_factory.mktemp("kept")
    (folder / "w.yaml").write_text(WORKFLOW)
    async with FlowLLM(database=folder / "f.db", environ={}) as app:
        run = await app.run(folder / "w.yaml", inputs={"who": "Robert"})
    with closing(sqlite3.connect(folder / "f.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return folder / "f.db", RunId(run.run_id)


async def seen(path: Path, run_id: RunId) -> dict[str, str]:
    """What there is to see of the run, and what a resume makes of it; a refusal is told as such."""
    found: dict[str, str] = {}
    try:
        async with FlowLLM(database=path, environ={}) as app:
            for name, look in {
                "result": lambda: app.result(run_id, full=True),
                "nodes": lambda: app.store.nodes(run_id),
                "items": lambda: app.store.items(run_id, "each"),
                "failed": lambda: app.store.failed_items(run_id),
                "attempts": lambda: app.store.attempts(run_id),
                "why": lambda: app.why(run_id, "a"),
            }.items():
                try:
                    found[name] = repr(await look())
                except FlowLLMError as error:
                    found[name] = f"refused: {error}"
            try:
                resumed = await app.resume(run_id)
                found["resumed"] = repr({name: step.output for name, step in resumed.steps.items()})
            except FlowLLMError as error:
                found["resumed"] = f"refused: {error}"
    except FlowLLMError as error:
        return {"all": f"refused: {error}"}
    return found


def silently_other(base: dict[str, str], found: dict[str, str]) -> list[str]:
    told = ("refused: ", "DatabaseCorrupt", "was damaged")
    return [name for name, text in found.items() if base.get(name) != text and not any(t in text for t in told)]


def cells(path: Path) -> Iterator[tuple[str, int, str, object]]:
    """Each column of each table, in one of its rows, by turns."""
    with closing(sqlite3.connect(path)) as connection:
        for table, where in ROWS.items():
            query = connection.execute(f"SELECT rowid, * FROM {table} WHERE {where}")
            names = [column[0] for column in query.description]
            rows = query.fetchall()
            for number, name in enumerate(names):
                row = rows[number % len(rows)]
                if number and name not in FOUND_BY:
                    yield table, row[0], name, row[number]


def another(value: object) -> object:
    if isinstance(value, str):
        middle = len(value) // 2
        return f"{value[:middle]}{chr(ord(value[middle]) ^ 1)}{value[middle + 1 :]}" if value else "x"
    if isinstance(value, bytes):
        middle = len(value) // 2
        return value[:middle] + bytes([value[middle] ^ 1]) + value[middle + 1 :]
    return 1 if value is None else value + 1


async def test_no_cell_of_a_run_can_be_another_unseen(kept: tuple[Path, RunId], tmp_path: Path) -> None:
    whole, run_id = kept
    damaged = tmp_path / "x.db"
    shutil.copy(whole, damaged)
    base = await seen(damaged, run_id)
    assert not any(text.startswith("refused") for text in base.values()), base
    unseen = []
    for table, rowid, name, value in cells(whole):
        shutil.copy(whole, damaged)
        with closing(sqlite3.connect(damaged)) as connection:
            try:
                connection.execute(f"UPDATE {table} SET {name} = ? WHERE rowid = ?", (another(value), rowid))
            except sqlite3.IntegrityError:
                continue
            connection.commit()
        other = silently_other(base, await seen(damaged, run_id))
        if other:
            unseen.append((table, rowid, name, other))
    assert unseen == []


async def test_no_byte_of_the_file_can_be_another_unseen(kept: tuple[Path, RunId], tmp_path: Path) -> None:
    whole, run_id = kept
    damaged, content, draw = tmp_path / "x.db", whole.read_bytes(), random.Random(7)
    shutil.copy(whole, damaged)
    base = await seen(damaged, run_id)
    used = [place for place, byte in enumerate(content) if byte and place >= 4096]  # the first page is the schema
    unseen = []
    for place in draw.sample(used, 30):
        flipped = bytearray(content)
        flipped[place] ^= 1 << draw.randrange(8)
        for beside in tmp_path.iterdir():
            shutil.rmtree(beside) if beside.is_dir() else beside.unlink()
        damaged.write_bytes(flipped)
        found = await seen(damaged, run_id)
        other = silently_other(base, found)
        if other:
            unseen.append((place, [(base[name], found[name]) for name in other]))
    assert unseen == []


def test_a_damaged_run_is_listed_refused_and_can_be_deleted(project: Project) -> None:
    file = project.flow(inputs={"who": "Alice"}, steps={"a": {"value": "{{ inputs.who }}"}})
    assert project.cli("run", file).code == 0
    (run_id,) = project.run_ids()
    with closing(sqlite3.connect(project.database)) as connection:
        connection.execute("UPDATE runs SET inputs = replace(inputs, 'Alice', 'Alicf')")
        connection.commit()
    for command in ("show", "resume", "failed"):
        outcome = project.cli(command, run_id)
        assert outcome.code != 0, command
        assert "damaged" in outcome.err
        assert "Traceback" not in outcome.err
    (row,) = project.json("runs")
    assert (row["run_id"], row["status"]) == (run_id, "failed")
    deleted = project.cli("runs", "delete", run_id)
    assert deleted.code == 0, deleted.said
    assert project.run_ids() == []
