"""Long texts: kept once a run, and given as they were by all that reads."""

from __future__ import annotations

import json
import random
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from alembic import command

from flowllm.core.clock import SystemClock
from flowllm.core.errors import DatabaseCorrupt, StoreError
from flowllm.core.types import Json, NodeId, NodeStatus, RunId, RunStatus, item_id
from flowllm.storage.base import ItemKey, MemoRecord, NodeRecord, NodeWrite, RunLease
from flowllm.storage.open import open_store
from flowllm.storage.sql.rows import to_json
from flowllm.storage.sql.store import SqlStore
from flowllm.storage.sql.texts import LONG, Texts, _deflated
from flowllm.storage.sql.writer import Failpoints
from flowllm.storage.sqlite.engine import at
from tests.migrations.test_migrations import step
from tests.support.items import POSTS, R1, foreach, item
from tests.support.records import ME, USAGE, answer, attempt_of_node, lease_of, node, run

pytestmark = pytest.mark.anyio


def prose(seed: object, length: int = 1000) -> str:
    """Words that nothing else repeats, with characters that JSON escapes."""
    return "".join(random.Random(str(seed)).choices('etaoinshrdlu"é\n  ', k=length))


ROLE = prose("role", 2000)


def asked(name: str, run_id: str, prompt: str, output: Json, *, parent: str) -> NodeRecord:
    parts: Json = {"kind": "chat", "body": {"model": "m", "messages": [{"role": "user", "content": ROLE + prompt}]}}
    return replace(node(name, run_id, output=output), parent=parent, parts=parts, key=f"{name}/{prompt[-40:]}")


def of_row(place: int, text: str, *, run_id: RunId = R1) -> list[tuple[NodeRecord, MemoRecord | None]]:
    """The rows that a graph of two steps leaves for an item, in their order."""
    name = item_id(POSTS, place)
    first, second = prose(f"first {text}"), prose(f"second {text}")
    begun = replace(item(place, f"{place}"), run_id=run_id, item={"text": text}, parts={"with": {"text": text}})
    a = asked(f"{name}.a", run_id, f"Summarise this: {text}", first, parent=name)
    b = asked(f"{name}.b", run_id, f"A headline for: {first}", second, parent=name)
    ended = replace(begun, output={"a": first, "b": second})
    running = replace(begun, status=NodeStatus.RUNNING, output=None)
    stored = [replace(answer("x", value=value), key=record.key) for value, record in ((first, a), (second, b))]
    return [(running, None), (a, stored[0]), (b, stored[1]), (ended, None)]


async def written(store: SqlStore, lease: RunLease, count: int) -> list[tuple[NodeRecord, MemoRecord | None]]:
    """Items of such a graph; the last row of each node, with the answer that it was given."""
    rows = [row for place in range(count) for row in of_row(place, prose(place), run_id=lease.run_id)]
    for record, memo in rows:
        await store.commit(nodes=[NodeWrite(lease=lease, node=record)], memo=memo)
    await store.commit(nodes=[NodeWrite(lease=lease, node=replace(foreach(), run_id=lease.run_id))])
    return list({record.node_id: (record, memo) for record, memo in rows}.values())


def counted(path: Path, what: str) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute(f"SELECT {what}").fetchone()[0])


async def test_what_repeats_is_kept_once_and_all_that_reads_gives_it_in_full(disk: SqlStore, path: Path) -> None:
    lease = lease_of(await disk.create_run(run(R1, owner=ME)))
    rows = await written(disk, lease, 20)
    items = [record for record, _ in rows if record.place is not None]
    assert [await disk.node(R1, record.node_id) for record, _ in rows] == [record for record, _ in rows]
    assert [await disk.memo(memo.key) for _, memo in rows if memo is not None] == [memo for _, memo in rows if memo]
    assert await disk.items(R1, POSTS) == items
    assert list(disk.outputs(R1, POSTS)) == [record.output for record in items]
    assert list(disk.outputs(R1, POSTS, numbers=[3, 1])) == [items[3].output, items[1].output]
    within = await disk.nodes_within(R1, [items[0].node_id, items[9].node_id])
    assert [len(found) for found in within.values()] == [2, 2]
    found = await disk.last_node("blog", NodeId("posts[4].b"), before_seq=None)
    assert found == next(record for record, _ in rows if record.node_id == "posts[4].b")
    # an item, two answers; and of each step one request, on which the others lean
    assert counted(path, "count(*) FROM texts") == 20 * 3 + 3
    assert counted(path, "max(length(parts) + length(output)) FROM nodes") < LONG
    assert counted(path, "max(length(answer)) FROM memo") < LONG

    await disk.finish_run(lease, status=RunStatus.INTERRUPTED, finished_at=1.0)
    claimed = lease_of(await disk.claim_run(R1, ME))
    moved = [ItemKey(place=place, content=f"{19 - place}") for place in range(20)]
    matched = await disk.adopt(claimed, POSTS, moved)
    assert [match.node and match.node.output for match in matched] == [record.output for record in reversed(items)]


async def test_texts_go_with_their_run_or_with_the_answers_that_lean_on_them(disk: SqlStore, path: Path) -> None:
    for run_id in ("r1", "r2"):
        lease = lease_of(await disk.create_run(run(run_id, owner=ME)))
        rows = await written(disk, lease, 5)
        await disk.finish_run(lease, status=RunStatus.SUCCEEDED, finished_at=1.0)
    assert counted(path, "count(*) FROM texts") == 2 * (5 * 3 + 3)
    await disk.delete_runs([RunId("r2")])  # which wrote the answers last
    assert counted(path, "count(*) FROM texts") == (5 * 3 + 3) + 5 * 2
    for _, memo in rows:
        assert memo is None or await disk.memo(memo.key) == memo
    answers = [replace(memo, created_at=9e9) for _, memo in rows[:4] if memo is not None]
    await disk.commit(memo=answers[0])  # now by itself
    assert await disk.prune_memo(older_than=8e9) == 5 * 2 - 1
    assert counted(path, "count(*) FROM texts") == 5 * 3 + 3
    assert await disk.memo(answers[0].key) == answers[0]
    assert await disk.clear_memo() == 1
    await disk.delete_runs([RunId("r1")])
    assert counted(path, "count(*) FROM texts") == 0
    for run_id in ("r3", "r4"):  # the answers of the first come to lean on the second
        await written(disk, lease_of(await disk.create_run(run(run_id, owner=ME))), 5)
        await disk.finish_run(lease_of(await disk.run(RunId(run_id))), status=RunStatus.SUCCEEDED, finished_at=1.0)
        await disk.delete_runs([RunId(run_id)])
        assert counted(path, "count(*) FROM texts") == 5 * 2


async def test_a_damaged_text_is_found_in_all_that_leans_on_it(disk: SqlStore, path: Path) -> None:
    lease = lease_of(await disk.create_run(run(R1, owner=ME)))
    rows = await written(disk, lease, 2)
    await disk.close()
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute("SELECT text_id, body FROM texts").fetchall()
        changed = [(body[:50] + bytes([body[50] ^ 1]) + body[51:], text_id) for text_id, body in found]
        connection.executemany("UPDATE texts SET body = ? WHERE text_id = ?", changed[:5])
        connection.execute("DELETE FROM texts WHERE text_id = ?", (changed[-1][1],))
        connection.commit()
    store = await open_store(str(path), clock=SystemClock())
    nodes = {record.node_id: await store.node(R1, record.node_id) for record, _ in rows}
    for record, _ in rows:
        found = nodes[record.node_id]
        assert found is not None
        assert found.damaged or found == record
    assert {name for name, found in nodes.items() if found is not None and found.damaged} >= {
        *("posts[0]", "posts[0].a", "posts[0].b", "posts[1].b", "posts[1]")
    }
    with pytest.raises(StoreError, match="damaged"):
        list(store.outputs(R1, POSTS))
    for _, memo in rows:
        assert memo is None or await store.memo(memo.key) in (None, memo)
    await store.close()


async def test_what_a_failed_commit_wrote_is_not_leant_on(path: Path) -> None:
    fails = iter([False, True] * 6)

    def fail() -> None:
        if next(fails, False):
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error

    await (await open_store(str(path), clock=SystemClock())).close()
    store = SqlStore(at(path), owner=ME, failpoints=Failpoints(before_commit=fail))
    lease = lease_of(await store.create_run(run(R1, owner=ME)))
    for record, memo in of_row(0, prose(0)):
        writes = [NodeWrite(lease=lease, node=record)]
        for _ in range(2):
            try:
                await store.commit(nodes=writes, memo=memo)
            except StoreError:
                continue
        assert await store.node(R1, record.node_id) == record
        assert memo is None or await store.memo(memo.key) == memo
    await store.close()


async def test_texts_of_any_length_are_given_as_they_were(disk: SqlStore) -> None:
    lease = lease_of(await disk.create_run(run(R1, owner=ME)))
    rng = random.Random(5)
    long = prose("long", 200_000)
    pieces = [long, long[50_000:120_000], *(prose(n, rng.randrange(1, 3000)) for n in range(20)), "\0\ud800" * 300]
    records = [
        replace(
            asked(f"n{n}", R1, "".join(rng.choices(pieces, k=2)), {"x": rng.choices(pieces, k=2)}, parent=""),
            item=rng.choice([None, *pieces]),
        )
        for n in range(60)
    ]
    await disk.commit(nodes=[NodeWrite(lease=lease, node=record) for record in records])
    assert await disk.nodes(R1) == sorted(records, key=lambda record: record.node_id)


async def test_a_text_that_leans_may_end_as_one_that_is_kept(disk: SqlStore) -> None:
    lease = lease_of(await disk.create_run(run(R1, owner=ME)))
    rng = random.Random(5)
    texts: list[Json] = [{"x": ROLE, "n": rng.random()} for _ in range(9_000)]
    first = (1, to_json(texts[0]).encode())
    chosen = [texts[0], *(text for text in texts if _deflated(to_json(text).encode(), [first]).endswith(b":"))]
    assert len(chosen) > 1
    records = [asked(f"p.m{n}", R1, "", text, parent="p") for n, text in enumerate(chosen)]
    await disk.commit(nodes=[NodeWrite(lease=lease, node=record) for record in records])
    assert await disk.nodes(R1, "p") == sorted(records, key=lambda record: record.node_id)


async def test_the_writer_holds_a_bounded_part_of_what_it_wrote(
    disk: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowllm.storage.sql.texts.HELD", 100_000)
    lease = lease_of(await disk.create_run(run(R1, owner=ME)))
    texts: Texts = disk._writer._texts
    for start in range(0, 24, 8):
        wide = [
            asked(f"{name}{n}", R1, "", prose(f"{name}{n}", 9_000), parent="" if name == "n" else f"p[{n}]")
            for n in range(start, start + 8)
            for name in ("n", "m")
        ]
        if start == 16:  # all of one graph
            wide = [replace(record, parent="") for record in wide]
        await disk.commit(nodes=[NodeWrite(lease=lease, node=record) for record in wide])
        assert 0 < sum(len(kept[1]) for held in texts._held.values() for kept in held) == texts._size <= 100_000


async def test_a_downgrade_writes_all_texts_out(path: Path) -> None:
    store = await open_store(str(path), clock=SystemClock())
    lease = lease_of(await store.create_run(run(R1, owner=ME)))
    assert isinstance(store, SqlStore)
    rows = await written(store, lease, 3)
    await store.close()
    step(path, command.downgrade, "0008")
    with closing(sqlite3.connect(path)) as connection:
        kinds = "SELECT DISTINCT typeof(parts), typeof(output), typeof(coalesce(item, '')) FROM nodes"
        assert connection.execute(kinds).fetchall() == [("text", "text", "text")]
        assert connection.execute("SELECT DISTINCT typeof(answer) FROM memo").fetchall() == [("text",)]
        usages = connection.execute("SELECT DISTINCT usage FROM nodes").fetchall()
        assert [json.loads(usage) for (usage,) in usages] == [USAGE.as_dict()]
        hashes = (
            "SELECT content_hash FROM nodes UNION SELECT content_hash FROM memo UNION SELECT snapshot_hash FROM runs"
        )
        assert {len(found) for (found,) in connection.execute(hashes)} == {64}
    store = await open_store(str(path), clock=SystemClock())
    assert [await store.node(R1, record.node_id) for record, _ in rows] == [record for record, _ in rows]
    assert [await store.memo(memo.key) for _, memo in rows if memo] == [memo for _, memo in rows if memo]
    await store.close()


async def test_a_downgrade_leaves_what_is_damaged_as_damaged(path: Path) -> None:
    store = await open_store(str(path), clock=SystemClock())
    lease = lease_of(await store.create_run(run(R1, owner=ME)))
    assert isinstance(store, SqlStore)
    rows = await written(store, lease, 3)
    await store.close()
    with closing(sqlite3.connect(path)) as connection:
        cut = connection.execute("SELECT parts FROM nodes WHERE node_id = 'posts[1].b'").fetchone()[0][:-9]
        damage = {"posts[0]": ("output", "9"), "posts[1]": ("output", b"x"), "posts[2]": ("item", b"99:")}
        damage |= {"posts[0].a": ("output", b":"), "posts[1].b": ("parts", cut)}
        for node_id, (column, cell) in damage.items():
            connection.execute(f"UPDATE nodes SET {column} = ? WHERE node_id = ?", (cell, node_id))
        connection.execute("UPDATE memo SET answer = '5' WHERE key LIKE 'posts[2].a%'")
        connection.commit()
    step(path, command.downgrade, "0008")
    store = await open_store(str(path), clock=SystemClock())
    for record, memo in rows:
        found = await store.node(R1, record.node_id)
        assert found is not None
        assert found.damaged == (record.node_id in damage)
        assert found.damaged or replace(found, change_no=0) == replace(record, change_no=0)
        if memo is not None:
            assert await store.memo(memo.key) == (None if record.node_id == "posts[2].a" else memo)
    await store.close()


DAMAGE = (
    "UPDATE nodes SET model = 'another' WHERE node_id = 'posts[0]'",
    "UPDATE nodes SET usage = '[1,' WHERE node_id = 'posts[1]'",
    "UPDATE nodes SET error = CAST(x'7b22ff7d' AS TEXT) WHERE node_id = 'posts[2]'",
    "UPDATE attempts SET cost_usd = 0 WHERE attempt_id = 'r1/a/1'",
    "UPDATE memo SET provider = 'another' WHERE key LIKE 'posts[2].a%'",
    "UPDATE runs SET inputs = '{}' WHERE run_id = 'r2'",
)


async def test_a_downgrade_believes_no_row_that_its_hash_does_not_match(path: Path) -> None:
    store = await open_store(str(path), clock=SystemClock())
    assert isinstance(store, SqlStore)
    lease = lease_of(await store.create_run(run(R1, owner=ME)))
    await store.create_run(run("r2", owner=ME))
    rows = await written(store, lease, 3)
    for name in "ab":
        await store.begin_attempt(lease, attempt_of_node(name, R1))
    await store.close()
    with closing(sqlite3.connect(path)) as connection:
        for statement in DAMAGE:
            assert connection.execute(statement).rowcount == 1
        connection.commit()
    step(path, command.downgrade, "0008")
    with closing(sqlite3.connect(path)) as connection:
        for table, of, damaged in (
            ("runs", "run_id", ["r2"]),
            ("nodes", "node_id", ["posts[0]", "posts[1]", "posts[2]"]),
            ("attempts", "attempt_id", ["r1/a/1"]),
        ):
            found = connection.execute(f"SELECT {of} FROM {table} WHERE row_hash IS NOT NULL ORDER BY 1").fetchall()
            assert [name for (name,) in found] == damaged
    store = await open_store(str(path), clock=SystemClock())
    found = [await store.node(R1, NodeId(f"posts[{n}]{name}")) for n in range(3) for name in ("", ".a")]
    assert [node is not None and node.damaged for node in found] == [True, False] * 3
    for record, memo in rows:
        if memo is not None:
            assert await store.memo(memo.key) == (None if record.node_id == "posts[2].a" else memo)
    assert (await store.run(R1)).inputs == run(R1, owner=ME).inputs
    with pytest.raises(DatabaseCorrupt, match="r2"):
        await store.run(RunId("r2"))
    with pytest.raises(DatabaseCorrupt, match="An attempt at step a"):
        await store.attempts(R1, NodeId("a"))
    await store.close()
