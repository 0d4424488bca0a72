"""How many units a second the store commits: python -m tests.benchmarks.store [FOLDER]

A unit is the end of one call: its attempt, its node and its answer for the cache, three rows. The bare figure
is the same rows through the driver alone, in the same run: one transaction a unit, and as many in one
transaction as there are writers. Then what the verbs take for the items of a foreach, in microseconds of CPU each.
"""

from __future__ import annotations

import asyncio
import gc
import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import Awaitable
from dataclasses import replace
from pathlib import Path

from flowllm.core.clock import SystemClock
from flowllm.core.types import AttemptStatus, RunStatus
from flowllm.storage.base import ItemKey, NodeWrite
from flowllm.storage.open import open_store, this_process
from flowllm.storage.sqlite import statements
from flowllm.storage.sqlite.connection import begin, connect_writer
from flowllm.storage.sqlite.rows import attempt_row, memo_row, node_row
from tests.support.items import POSTS, R1, item
from tests.support.records import answer, attempt_of_node, lease_of, node, run

SECONDS = 2.0
ITEMS = 12_800
TOGETHER = 64
"""Rows that the engine writes in one unit where nobody waits for them."""
BATCH = 256
"""Items that a resume looks up at a time."""


async def ours(folder: Path, writers: int) -> tuple[float, float]:
    """Units a second, and microseconds of CPU a unit."""
    clock = SystemClock()
    store = await open_store(str(folder / f"ours-{writers}.db"), clock=clock)
    record = await store.create_run(replace(run("bench"), owner=this_process(clock)))
    lease = lease_of(record)
    done = 0
    began, cpu = time.perf_counter(), time.process_time()
    until = began + SECONDS

    async def write(writer: int) -> None:
        nonlocal done
        number = 0
        while time.perf_counter() < until:
            number += 1
            name = f"n{writer}_{number}"
            await store.commit(
                attempt=attempt_of_node(name, record.run_id),
                attempt_lease=lease,
                memo=answer(name),
                nodes=(NodeWrite(lease=lease, node=node(name, record.run_id)),),
            )
            done += 1

    await asyncio.gather(*(write(writer) for writer in range(writers)))
    elapsed, used = time.perf_counter() - began, time.process_time() - cpu
    await store.close()
    return done / elapsed, used / done * 1e6


async def bare(folder: Path, group: int) -> tuple[float, float]:
    """The same through sqlite3 alone, `group` units a transaction."""
    path = folder / f"bare-{group}.db"
    store = await open_store(str(path), clock=SystemClock())
    record = await store.create_run(run("bench"))
    await store.close()
    connection = connect_writer(path)
    done = 0
    began, cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() < began + SECONDS:
        names = [f"n{done + n}" for n in range(group)]
        begin(connection)
        _many(connection, statements.END_ATTEMPT, [attempt_row(attempt_of_node(n, record.run_id)) for n in names])
        _many(connection, statements.WRITE_MEMO, [memo_row(answer(n)) for n in names])
        _many(connection, statements.WRITE_NODE, [(*node_row(node(n, record.run_id)), 0) for n in names])
        connection.execute("COMMIT")
        done += group
    elapsed, used = time.perf_counter() - began, time.process_time() - cpu
    connection.close()
    return done / elapsed, used / done * 1e6


async def items(folder: Path) -> dict[str, float]:
    """Microseconds of CPU an item of each verb."""
    clock = SystemClock()
    store = await open_store(str(folder / "items.db"), clock=clock)
    lease = lease_of(await store.create_run(replace(run(R1), owner=this_process(clock))))
    records = [item(place, f"{place:064}") for place in range(ITEMS)]
    keys = [ItemKey(place=place, content=record.content) for place, record in enumerate(records)]
    sent = [attempt_of_node(record.node_id, R1, status=AttemptStatus.SENT) for record in records]
    gc.collect()
    gc.freeze()  # else what is measured is the collector's walk through the records above
    took: dict[str, float] = {}

    async def timed(name: str, *work: Awaitable[object]) -> None:
        began = time.process_time()
        await asyncio.gather(*work)
        took[name] = took.get(name, 0.0) + (time.process_time() - began) / ITEMS * 1e6

    for start in range(0, ITEMS, TOGETHER):
        writes = [NodeWrite(lease=lease, node=record) for record in records[start : start + TOGETHER]]
        await timed(f"commit, {TOGETHER} items a unit", store.commit(nodes=writes))
    for start in range(0, ITEMS, TOGETHER):
        begun = (store.begin_attempt(lease, one) for one in sent[start : start + TOGETHER])
        await timed(f"begin_attempt, {TOGETHER} at once", *begun)
    for name, order in (("nothing moved", keys), ("shuffled", _shuffled(keys))):
        await store.finish_run(lease, status=RunStatus.PAUSED, finished_at=0.0)
        lease = lease_of(await store.claim_run(R1, this_process(clock)))
        for start in range(0, ITEMS, BATCH):
            await timed(f"adopt, {name}", store.adopt(lease, POSTS, order[start : start + BATCH]))
    for after in range(-1, ITEMS - 1, BATCH):
        await timed("items", store.items(R1, POSTS, after=after, limit=BATCH))
    await timed("outputs", asyncio.to_thread(list, store.outputs(R1, POSTS)))
    await store.close()
    return took


def _shuffled(keys: list[ItemKey]) -> list[ItemKey]:
    contents = random.Random(1).sample([key.content for key in keys], len(keys))
    return [ItemKey(place=place, content=content) for place, content in enumerate(contents)]


def _many(connection: sqlite3.Connection, statement: str, rows: list[tuple[object, ...]]) -> None:
    connection.executemany(statement, rows)


async def main(folder: Path) -> None:
    print("writers   flowllm units/s   µs CPU/unit   bare units/s   µs CPU/unit")
    for writers in (1, 64, 500):
        rate, cpu = await ours(folder, writers)
        bare_rate, bare_cpu = await bare(folder, writers)
        print(f"{writers:7}   {rate:15,.0f}   {cpu:11.0f}   {bare_rate:12,.0f}   {bare_cpu:11.0f}")
    for name, took in (await items(folder)).items():
        print(f"{name:32} {took:6.1f} µs CPU")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else ".") as made:
        asyncio.run(main(Path(made)))
