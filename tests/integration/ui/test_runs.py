"""What the page reads: runs, one run, and what changes, also while the database comes, goes and is replaced."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flowllm.core.clock import SystemClock
from flowllm.core.types import RunStatus
from flowllm.storage.base import NodeWrite, RunRecord
from flowllm.storage.open import open_store, this_process
from tests.support import records
from tests.support.page import page_of

pytestmark = pytest.mark.anyio
CLOCK = SystemClock()


async def begin(path: Path, run_id: str, **fields: Any) -> tuple[Any, RunRecord]:
    store = await open_store(str(path), clock=CLOCK)
    return store, await store.create_run(records.run(run_id, owner=this_process(CLOCK), **fields))


async def test_a_run_of_another_process_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    store, run = await begin(path, "R1")
    lease = records.lease_of(run)
    async with page_of(path) as page:
        listed = (await page.get("/api/runs")).json
        assert [one["run_id"] for one in listed["runs"]] == ["R1"]
        assert listed["runs"][0]["status"] == "running"
        assert listed["workflows"] == ["blog"]
        one = (await page.get("/api/runs/R1")).json
        assert [(value["name"], value["text"]) for value in one["inputs"]] == [("topic", "tea")]
        assert one["db_option"] == f" --db {path}"  # it is not where commands look by themselves
        assert (await page.get("/api/runs/R1/value?of=inputs")).body == b"tea"
        assert (await page.get("/api/runs/R1/value?of=outputs&number=1")).status == 400
        async with page.events("/api/runs/R1/changes") as events, page.events("/api/runs/changes") as list_events:
            first = await anext(events)
            assert (first[0], first[1]["run"]["status"], first[1]["nodes"]) == ("change", "running", [])
            name, data, _ = await anext(list_events)
            assert (name, [one["run_id"] for one in data["runs"]], data["workflows"]) == ("list", ["R1"], ["blog"])
            await store.commit(nodes=[NodeWrite(lease=lease, node=records.node("a", "R1"))])
            name, data, number = await anext(events)
            assert (name, [node["id"] for node in data["nodes"]]) == ("change", ["a"])
            assert int(number) == data["changes"] == data["run"]["changes"] > 0
            name, data, _ = await anext(list_events)
            assert (name, [one["nodes"] for one in data["runs"]]) == ("runs", [{"succeeded": 1}])
            await store.finish_run(lease, status=RunStatus.FAILED, finished_at=CLOCK.now(), error={"message": "why"})
            data = (await anext(events))[1]
            assert (data["run"]["status"], data["nodes"]) == ("failed", [])
        async with page.events(f"/api/runs/R1/changes?since={number}") as events:
            assert (await anext(events))[1]["nodes"] == []
        async with page.events("/api/runs/R1/changes") as events:
            assert [node["id"] for node in (await anext(events))[1]["nodes"]] == ["a"]
        nodes = (await page.get("/api/runs/R1/nodes")).json
        assert [node["id"] for node in nodes["nodes"]] == ["a"]
        assert (await page.get("/api/runs/R2")).status == 404
        for query, found in (
            ("status=running", 0),
            ("status=failed&workflow=blog&search=R1", 1),
            ("search=" + "x" * 60_000, 0),
            ("before=1", 0),
        ):
            assert len((await page.get(f"/api/runs?{query}")).json["runs"]) == found, query[:40]
        listed = (await page.get("/api/runs?limit=999999999999")).json
        assert [(seq, status) for seq, _, status in listed["recent"]["blog"]] == [(run.seq, "failed")]
        async with page.events("/api/runs/changes?status=succeeded") as events:
            assert (await anext(events))[1]["runs"] == []
            other = records.lease_of(await store.create_run(records.run("R2", owner=this_process(CLOCK))))
            await store.finish_run(other, status=RunStatus.SUCCEEDED, finished_at=CLOCK.now())
            assert [one["run_id"] for one in (await anext(events))[1]["runs"]] == ["R2"]  # nothing was told of another
        older = (await page.get(f"/api/runs?limit=1&before={run.seq + 1}")).json
        assert ([one["run_id"] for one in older["runs"]], older["more"]) == (["R1"], False)
        assert (await page.get("/api/runs?limit=1")).json["more"]
        assert (await page.get("/api/runs?status=odd")).json["error"] == "there is no status 'odd'"
        assert (await page.get("/api/runs/changes?status=odd")).status == 400
        assert (await page.get("/api/runs?limit=x")).json["error"] == "`limit` must be a whole number from 1, not 'x'"
    await store.close()


async def test_the_page_waits_for_a_database_and_tells_what_is_wrong_with_one(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    async with page_of(path) as page, page.events("/api/runs/changes") as events:
        assert (await page.get("/api/runs")).json["database"] == {"path": str(path), "missing": True}
        assert (await anext(events))[1]["runs"] == []
        store, _ = await begin(path, "R1")
        assert (await anext(events))[1]["runs"][0]["run_id"] == "R1"
        assert not (await page.get("/api/runs")).json["database"]["missing"]
        await store.close()

        _remove(path)
        await _until(events, lambda name, data: name == "list" and not data["runs"])
        store, _ = await begin(path, "R2")
        await _until(events, lambda name, data: name == "list" and data["runs"][0]["run_id"] == "R2")
        await store.close()

        for version, word in (("9999", "newer"), ("0005", "db upgrade")):
            before = _changed(path, version)
            await _until(events, lambda name, data, word=word: name == "problem" and word in str(data))
            answer = await page.get("/api/runs")
            assert (answer.status, word in answer.body.decode()) == (503, True)
            _changed(path, before)
            await _until(events, lambda name, _: name == "list")
        _remove(path)
        path.write_bytes(b"no database at all " * 100)
        assert (await page.get("/api/runs")).status == 503
        path.unlink()
        assert (await page.get("/api/runs")).json["database"]["missing"]


async def _until(events: Any, true: Any) -> None:
    async for name, data, _ in events:
        if true(name, data):
            return


def _remove(path: Path) -> None:
    for name in ("", "-wal", "-shm"):
        path.with_name(f"{path.name}{name}").unlink(missing_ok=True)


def _changed(path: Path, version: str) -> str:
    """As another version upgrades a database; the version before."""
    with closing(sqlite3.connect(path)) as connection, connection:
        before: str = connection.execute("SELECT version_num FROM alembic_version").fetchone()[0]
        connection.execute("UPDATE alembic_version SET version_num = ?", (version,))
        connection.execute(f"CREATE TABLE another_{time.monotonic_ns()} (x)")
    return before
