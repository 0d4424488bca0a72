"""What an item costs in a long fan-out, on an empty database and on one that holds many."""

from __future__ import annotations

import contextlib
import gc
import sqlite3
import statistics
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.harness import Figure, Scale, alternately, ratio, timed_run

FLOW = """
inputs: {{n: 1}}
providers: {{local: {{type: simulated}}}}
defaults: {{provider: local, model: m}}
limits: {{max_concurrent: 100}}
steps:
  ask: {{foreach: "{{{{ range(inputs.n) | list }}}}", prompt: "Write a headline about {{{{ item }}}}, {salt}"}}
"""
_TABLES = ("nodes", "attempts", "memo")
_BLOCK = 100_000


def fill(database: Path, items: int) -> None:
    """Put a run of so many items on record that looks like the one that is there.

    Each of its rows is a copy of a row of an item, with names and hashes of its own.
    """
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        for table in (row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")):
            if table in _TABLES:
                _copy(connection, table, items)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _copy(connection: sqlite3.Connection, table: str, items: int) -> None:
    columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
    of_item = "WHERE node_id = 'ask[0]'" if "node_id" in columns else ""
    (last,) = connection.execute(f"SELECT max({'seq' if 'seq' in columns else 'rowid'}) FROM {table}").fetchone()
    unique = f"printf('%016x', n * {2**62 // items}) || lower(hex(randomblob(24)))"  # in order, so that it is quick
    new = {"run_id": "'before'", "node_id": "'ask[' || n || ']'", "seq": f"{last} + n", "place": "n"}
    new |= {name: unique for name in columns if name == "key" or name.endswith(("hash", "attempt_id"))}
    names = ", ".join(f'"{name}"' for name in columns)
    values = ", ".join(new.get(name, f'"{name}"') for name in columns)
    for start in range(1, items + 1, _BLOCK):
        connection.execute(
            f"WITH RECURSIVE counted(n) AS (SELECT ? UNION ALL SELECT n + 1 FROM counted WHERE n < ?) "
            f"INSERT INTO {table} ({names}) SELECT {values} FROM counted, (SELECT * FROM {table} {of_item} LIMIT 1)",
            (start, min(items, start + _BLOCK - 1)),
        )


def items(scale: Scale) -> list[Figure]:
    """The cost of an item is what a run takes beyond one of a single item."""
    few, many, held = 1_000, scale.of(100_000, 4_000), scale.of(2_000_000, 50_000)
    empty, full = scale.folder / "empty.db", scale.folder / "full.db"
    for database in (empty, full):
        timed_run(database, FLOW.format(salt="first"), n=1)
    fill(full, held)

    def each(database: Path, count: int, name: str) -> Callable[[int], float]:
        def side(number: int) -> float:
            def run(count: int, salt: str) -> float:
                gc.collect()
                return timed_run(database, FLOW.format(salt=salt), n=count)

            base = statistics.median(run(1, f"{name} {number} base {one}") for one in range(3))
            repeats = max(1, scale.of(5_000, 2_000) // count)
            spent = [run(count, f"{name} {number} {one}") - base for one in range(repeats)]
            return statistics.median(spent) / count * 1e6

        return side

    rounds = scale.of(min(3, scale.runs), scale.runs)
    of_few, of_many, on_full = alternately(
        rounds, each(empty, few, "few"), each(empty, many, "many"), each(full, many, "full")
    )
    costs = [f"{statistics.median(one):.0f} µs" for one in (of_few, of_many, on_full)]
    return [
        Figure(
            what=f"an item of {many:,}, of one of {few:,}",
            value=ratio(of_many, of_few),
            bar=1.1,
            note=f"{costs[1]} / {costs[0]}",
        ),
        Figure(
            what=f"the same where {held:,} are on record",
            value=ratio(on_full, of_few),
            bar=1.1,
            note=f"{costs[2]} / {costs[0]}",
        ),
    ]
