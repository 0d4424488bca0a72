"""How many units a second the store commits: python -m tests.benchmarks.store [FOLDER]

A unit is the end of one call: its attempt, its node and its answer for the memo, three rows. The bare figure
is the same rows through the driver alone, in the same run: one transaction a unit, and as many in one
transaction as there are writers.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from flowllm.clock import SystemClock
from flowllm.store import statements
from flowllm.store.base import NodeWrite
from flowllm.store.connection import begin, connect_writer
from flowllm.store.open import open_store, this_process
from flowllm.store.rows import attempt_row, memo_row, node_row
from tests.support.records import answer, attempt_of_node, fence_of, node, run

if TYPE_CHECKING:
    import sqlite3

SECONDS = 2.0


async def ours(folder: Path, writers: int) -> tuple[float, float]:
    """Units a second, and microseconds of CPU a unit."""
    clock = SystemClock()
    store = await open_store(str(folder / f"ours-{writers}.db"), clock=clock)
    record = await store.create_run(replace(run("bench"), owner=this_process(clock)))
    fence = fence_of(record)
    done = 0
    began, cpu = time.perf_counter(), time.process_time()
    until = began + SECONDS

    async def write(writer: int) -> None:
        nonlocal done
        number = 0
        while time.perf_counter() < until:
            number += 1
            name = f"n{writer}_{number}"
            await store.settle(
                attempt=attempt_of_node(name, record.run_id),
                attempt_fence=fence,
                memo=answer(name),
                nodes=(NodeWrite(fence=fence, node=node(name, record.run_id)),),
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
        _many(
            connection,
            statements.END_ATTEMPT,
            [attempt_row(attempt_of_node(n, record.run_id)) for n in names],
        )
        _many(connection, statements.WRITE_MEMO, [memo_row(answer(n)) for n in names])
        _many(connection, statements.WRITE_NODE, [node_row(node(n, record.run_id)) for n in names])
        connection.execute("COMMIT")
        done += group
    elapsed, used = time.perf_counter() - began, time.process_time() - cpu
    connection.close()
    return done / elapsed, used / done * 1e6


def _many(connection: sqlite3.Connection, statement: str, rows: list[tuple[object, ...]]) -> None:
    connection.executemany(statement, rows)


async def main(folder: Path) -> None:
    print("writers   flowllm units/s   µs CPU/unit   bare units/s   µs CPU/unit")
    for writers in (1, 64, 500):
        rate, cpu = await ours(folder, writers)
        bare_rate, bare_cpu = await bare(folder, writers)
        print(f"{writers:7}   {rate:15,.0f}   {cpu:11.0f}   {bare_rate:12,.0f}   {bare_cpu:11.0f}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else ".") as made:
        asyncio.run(main(Path(made)))
