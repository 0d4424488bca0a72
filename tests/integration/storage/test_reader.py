"""Reading on disk: few queries, the right plan, no harm by cancellation."""

from __future__ import annotations

import asyncio
import random
import re
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest

from flowllm.core.clock import SystemClock
from flowllm.core.errors import DatabaseCorrupt, StorageFailed
from flowllm.core.types import NodeId, RunId
from flowllm.storage.base import NodeWrite
from flowllm.storage.open import open_store
from flowllm.storage.sql.store import SqlStore
from flowllm.storage.sqlite.connection import connect
from tests.support.records import ME, answer, attempt_of_node, lease_of, node, run

pytestmark = pytest.mark.anyio


def queries(store: SqlStore) -> list[str]:
    """The statements that the reader sends from now on."""
    seen: list[str] = []

    fetch = store._fetch

    def seeing(query: str, values: Mapping[str, object], *texts: tuple[int, ...] | None) -> list[tuple[object, ...]]:
        seen.append(query)
        return fetch(query, values, *texts)

    store._fetch = seeing  # type: ignore[method-assign]
    return seen


async def test_lookups_of_one_tick_share_a_query(disk: SqlStore) -> None:
    await disk.memo("warm")
    seen = queries(disk)
    await asyncio.gather(*(disk.memo(f"k{n}") for n in range(499)))
    assert len(seen) == 1
    await asyncio.gather(*(disk.memo(f"k{n}") for n in range(1001)))
    assert len(seen) == 4


async def test_every_read_sees_what_was_committed_before(disk: SqlStore) -> None:
    made = await disk.create_run(run("r1", owner=ME))
    for number in range(50):
        await disk.commit(nodes=[NodeWrite(lease=lease_of(made), node=node(f"n{number}", "r1"))], memo=answer("k"))
        found, kept = await asyncio.gather(disk.nodes(RunId("r1")), disk.memo(answer("k").key))
        assert len(found) == number + 1
        assert kept is not None


async def test_a_reader_cannot_write(disk: SqlStore) -> None:
    with pytest.raises(StorageFailed, match="readonly"):
        await disk._all("DELETE FROM runs")


async def test_cancelled_reads_leave_the_reader_well(disk: SqlStore) -> None:
    await disk.commit(memo=answer("a"))
    rng = random.Random(3)
    for _ in range(100):
        tasks = [asyncio.ensure_future(disk.memo(answer("a").key)), asyncio.ensure_future(disk.runs())]
        for _ in range(rng.randrange(10)):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert await disk.memo(answer("a").key) == answer("a")
    assert await disk.runs() == []


async def test_a_waiter_that_leaves_does_not_take_the_answer_from_another(disk: SqlStore) -> None:
    await disk.commit(memo=answer("a"))
    leaver, stayer = (asyncio.ensure_future(disk.memo(answer("a").key)) for _ in range(2))
    await asyncio.sleep(0)
    leaver.cancel()
    assert await stayer == answer("a")


@pytest.mark.parametrize(
    ("call", "index"),
    [
        (lambda store: store.last_node("blog", NodeId("a"), before_seq=5), "ix_runs_workflow_seq"),
        (lambda store: store.runs(workflow="blog"), "ix_runs_workflow_seq"),
        (lambda store: store.attempts(RunId("r1"), NodeId("a")), "ix_attempts_run_node"),
        (lambda store: store.attempts(RunId("r1"), key="k"), "ix_attempts_run_node"),
        (lambda store: store.spend(RunId("r1")), "sqlite_autoindex_totals"),
        (
            lambda store: store.spend(RunId("r1"), NodeId("a")),
            "ix_attempts_run_node (run_id=? AND node_id>? AND node_id<?)",
        ),
        (lambda store: store.runs(limit=1, unfinished=True), "ix_runs_unfinished"),
        (lambda store: store.count_steps(RunId("r1")), "ix_nodes_parent_place"),
        (lambda store: store.briefs(RunId("r1"), since=5), "ix_nodes_change"),
        (lambda store: store.item_changes(RunId("r1"), since=5), "ix_nodes_change"),
        (lambda store: store.waits(due_before=5.0), "ix_waits_due_at"),
        (lambda store: store.gauges(since=5.0), "ix_gauges_at"),
        (lambda store: store.find_runs(limit=9, running=True), "ix_runs_running"),
        (lambda store: store.nodes(RunId("r1")), "ix_nodes_parent_place"),
        (lambda store: store.node(RunId("r1"), NodeId("a")), "sqlite_autoindex_nodes"),
        (lambda store: store.nodes_within(RunId("r1"), [NodeId("a")]), "ix_nodes_parent_place"),
        (lambda store: store.items(RunId("r1"), NodeId("a")), "ix_nodes_parent_place"),
        (lambda store: store.count_items(RunId("r1"), NodeId("a")), "ix_nodes_parent_place"),
        (lambda store: store.failed_items(RunId("r1")), "ix_nodes_failed"),
        (lambda store: store.memo("k"), "sqlite_autoindex_memo"),
        (lambda store: store.sent_elsewhere(["k"]), "ix_attempts_sent"),
        (lambda store: store.run(RunId("r1")), "sqlite_autoindex_runs"),
    ],
)
async def test_queries_use_an_index(disk: SqlStore, path: Path, call: object, index: str) -> None:
    await disk.create_run(run("r1", owner=ME))
    seen = queries(disk)
    await call(disk)
    values = dict.fromkeys(re.findall(r":([a-z]+)", seen[0]), 1)
    with closing(connect(path, mode="ro")) as connection:
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {seen[0]}", values)]
    assert index in " ".join(plan)
    assert not any(
        step.startswith("SCAN") and "VIRTUAL TABLE" not in step and "USING INDEX ix_runs_" not in step for step in plan
    )


async def test_a_list_of_runs_does_not_load_snapshots(disk: SqlStore) -> None:
    seen = queries(disk)
    await disk.runs()
    assert "runs.snapshot," not in seen[0]


async def test_the_spend_of_a_run_and_of_its_only_node_are_equal_and_take_one_query_each(disk: SqlStore) -> None:
    lease = lease_of(await disk.create_run(run("r1", owner=ME)))
    for number in range(20):
        await disk.commit(attempt=attempt_of_node("a", "r1", number=number), attempt_lease=lease)
    seen = queries(disk)
    spends = [await disk.spend(RunId("r1")), await disk.spend(RunId("r1"), NodeId("a"))]
    assert spends[0] == spends[1]
    assert spends[0].tokens == 20 * 80
    assert len(seen) == 2


async def test_damaged_usage_is_told_instead_of_a_wrong_sum(disk: SqlStore, path: Path) -> None:
    lease = lease_of(await disk.create_run(run("r1", owner=ME)))
    await disk.commit(attempt=attempt_of_node("a", "r1"), attempt_lease=lease)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE attempts SET usage = '{\"input_tok'")
        connection.commit()
    with pytest.raises(DatabaseCorrupt, match="malformed JSON"):
        await disk.spend(RunId("r1"), NodeId("a"))


async def test_a_database_without_its_tables_is_said_to_be_damaged(path: Path) -> None:
    await (await open_store(str(path), clock=SystemClock())).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE nodes")
    store = await open_store(str(path), clock=SystemClock())
    with pytest.raises(DatabaseCorrupt, match="no such table"):
        await store.nodes(RunId("r1"))
    await store.close()
