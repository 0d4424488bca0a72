"""How many units a second the store commits, against the same rows through the driver alone.

A unit is the end of one call: its attempt, its node and its answer for the cache.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from dataclasses import replace
from pathlib import Path

from flowllm.core.clock import SystemClock
from flowllm.core.types import RunId
from flowllm.storage.base import NodeWrite
from flowllm.storage.open import open_store, this_process
from flowllm.storage.sqlite import statements
from flowllm.storage.sqlite.connection import begin, connect_writer
from flowllm.storage.sqlite.rows import attempt_row, memo_row, node_row
from tests.benchmarks.harness import Figure, Scale, alternately, ratio
from tests.support.records import answer, attempt_of_node, lease_of, node, run


async def _store(path: Path, writers: int, until: float) -> float:
    """Units a second of so many who each wait for theirs."""
    clock = SystemClock()
    store = await open_store(str(path), clock=clock)
    record = await store.create_run(replace(run(RunId(f"{time.time()}")), owner=this_process(clock)))
    lease, done, began = lease_of(record), 0, time.perf_counter()

    async def write(writer: int) -> None:
        nonlocal done
        while time.perf_counter() < began + until:
            name = f"n{writer}_{done}"
            write = NodeWrite(lease=lease, node=node(name, record.run_id))
            attempt = attempt_of_node(name, record.run_id)
            await store.commit(attempt=attempt, attempt_lease=lease, memo=answer(name), nodes=(write,))
            done += 1

    await asyncio.gather(*(write(writer) for writer in range(writers)))
    took = time.perf_counter() - began
    await store.close()
    return done / took


async def _driver(path: Path, group: int, until: float) -> float:
    """Units a second, `group` of them a transaction."""
    store = await open_store(str(path), clock=SystemClock())
    record = await store.create_run(run(RunId(f"{time.time()}")))
    await store.close()
    done, began = 0, time.perf_counter()
    with contextlib.closing(connect_writer(path)) as connection:
        while time.perf_counter() < began + until:
            names = [f"n{done + number}" for number in range(group)]
            begin(connection)
            attempts = [attempt_row(attempt_of_node(name, record.run_id)) for name in names]
            connection.executemany(statements.END_ATTEMPT, attempts)
            connection.executemany(statements.WRITE_MEMO, [memo_row(answer(name)) for name in names])
            connection.executemany(statements.WRITE_NODE, [(*node_row(node(name, record.run_id)), 0) for name in names])
            connection.execute("COMMIT")
            done += group
    return done / (time.perf_counter() - began)


def commits(scale: Scale) -> list[Figure]:
    """With one writer every unit is a transaction; with many, those that wait share one."""
    figures = []
    for writers in (1, 64):
        path = scale.folder / f"{writers}.db"
        ours, alone = alternately(
            scale.runs,
            lambda _, writers=writers, path=path: asyncio.run(_store(path, writers, 1.0)),
            lambda _, writers=writers, path=path: asyncio.run(_driver(path, writers, 1.0)),
        )
        note = f"{statistics.median(ours):,.0f} / {statistics.median(alone):,.0f} units/s"
        what = f"units a second, {writers} at once, of the driver alone"
        figures.append(Figure(what=what, value=ratio(ours, alone), note=note))
    return figures
