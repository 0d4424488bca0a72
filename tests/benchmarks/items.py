"""What an item costs in a long fan-out, on an empty database and on one that holds many."""

from __future__ import annotations

import contextlib
import gc
import itertools
import sqlite3
import statistics
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.harness import Figure, Scale, Took, alternately, ratio, run

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
    of_few, of_many, on_full = alternately(
        scale.of(min(3, scale.runs), scale.runs),
        _item(scale, "few", few, times=scale.of(5, 2)),
        _item(scale, "many", many),
        _item(scale, "full", many, held=held),
    )
    return [
        _compared(f"an item of {many:,}, of one of {few:,}", of_many, of_few),
        _compared(f"the same where {held:,} are on record", on_full, of_few),
    ]


def _item(scale: Scale, name: str, count: int, *, times: int = 1, held: int = 0) -> Callable[[int], Took]:
    """What an item takes in a run of so many, the median of some runs."""
    database = scale.folder / f"{name}.db"
    serial = itertools.count()

    def took(count: int) -> Took:
        gc.collect()
        return run(database, FLOW.format(salt=next(serial)), n=count)

    took(1)
    if held:
        fill(database, held)

    def side(_: int) -> Took:
        base = _median([took(1) for _ in range(3)])
        whole = _median([took(count) for _ in range(times)])
        return Took(seconds=(whole.seconds - base.seconds) / count, cpu=(whole.cpu - base.cpu) / count)

    return side


def _median(took: list[Took]) -> Took:
    return Took(seconds=statistics.median(one.seconds for one in took), cpu=statistics.median(one.cpu for one in took))


def _compared(what: str, of: list[Took], to: list[Took]) -> Figure:
    value = ratio([one.seconds for one in of], [one.seconds for one in to])
    cpu = ratio([one.cpu for one in of], [one.cpu for one in to])
    micros = " / ".join(f"{_median(one).seconds * 1e6:,.0f} µs" for one in (of, to))
    return Figure(what=what, value=value, bar=1.1, note=f"{micros}; {cpu:.2f} × of the CPU", rounds=len(of))
