"""The shares that processes have of limits: one transaction reads the rows of some scopes and writes what was decided.

The rows of the scopes are locked first, in the order of their names, so that two processes decide one after the other."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from flowllm.core.errors import StorageFailed
from flowllm.core.records import fields
from flowllm.core.shares import Balance, Decide, Grant, LearnedRate, Ledger, Pool, Share
from flowllm.storage.liveness import Standing, standing
from flowllm.storage.sql.engine import Connection
from flowllm.storage.sql.presence import FIELDS, Presence, process_of
from flowllm.storage.sql.rows import to_text
from flowllm.storage.sql.statements import Unit

_ADD: Final = "INSERT INTO limit_scopes (scope, state) VALUES (?, '') ON CONFLICT (scope) DO NOTHING"
_POOLS: Final = "SELECT scope, state, database_now() FROM limit_scopes WHERE scope IN ({marks}) ORDER BY scope {lock}"
_SHARES: Final = "SELECT scope, process, state FROM shares WHERE scope IN ({marks}) ORDER BY scope, process"
_PROCESSES: Final = f"SELECT process_id, {', '.join(FIELDS)} FROM processes WHERE process_id IN ({{marks}})"
_SET_POOL: Final = "UPDATE limit_scopes SET state = ? WHERE scope = ?"
_SET_SHARE: Final = (
    "INSERT INTO shares (scope, process, until, state) VALUES (?, ?, ?, ?) "
    "ON CONFLICT (scope, process) DO UPDATE SET until = excluded.until, state = excluded.state"
)
_DROP: Final = "DELETE FROM shares WHERE scope = ? AND process = ?"


def balance(decisions: Mapping[str, Decide], presence: Presence) -> Unit:
    """Decide about these scopes, one after the other in the order of their names; the result is what this process gets."""
    names = {to_text(name): name for name in sorted(decisions)}

    def action(connection: Connection) -> dict[str, Grant]:
        process = presence.number
        if process is None:
            raise StorageFailed("This process is not known to the database any more.")
        pools = _pools(connection, list(names))
        shares: dict[str, list[Share]] = {name: [] for name in names}
        for scope, number, state in connection.fetch(_with_marks(_SHARES, names), list(names)):
            shares[scope].append(_share(int(number), state))
        now, gone = max(at for _, at in pools.values()), _gone(connection, shares.values(), presence)
        made: dict[str, Balance] = {}
        for text, name in names.items():
            pool = _pool(pools[text][0])
            made[text] = decisions[name](Ledger(process=process, pool=pool, shares=shares[text], gone=gone, now=now))
        _write(connection, made)
        return {name: made[text].grant for text, name in names.items()}

    return Unit(action=action, apart=True)


def _pools(connection: Connection, names: Sequence[str]) -> dict[str, tuple[str, float]]:
    """What is on record of each scope, and the time."""

    def read() -> dict[str, tuple[str, float]]:
        query = _with_marks(_POOLS, names, lock=connection.for_update)
        return {scope: (state, now) for scope, state, now in connection.fetch(query, names)}

    found = read()
    if len(found) < len(names):
        connection.executemany(_ADD, [(name,) for name in names if name not in found])
        found = read()
    return found


def _write(connection: Connection, made: Mapping[str, Balance]) -> None:
    connection.executemany(_SET_POOL, [(_state(one.pool), scope) for scope, one in made.items()])
    connection.executemany(_DROP, [(scope, process) for scope, one in made.items() for process in one.remove])
    rows = [(scope, share.process, share.until, _state(share)) for scope, one in made.items() for share in one.write]
    connection.executemany(_SET_SHARE, rows)


def _gone(connection: Connection, shares: Iterable[Sequence[Share]], presence: Presence) -> set[int]:
    """Of the processes that have shares, those that have ended."""
    numbers = sorted({share.process for of in shares for share in of if not share.ended} - {presence.number or 0})
    if not numbers:
        return set()
    left = set(numbers)
    for number, *row in connection.fetch(_with_marks(_PROCESSES, numbers), numbers):
        if standing(process_of(tuple(row)), now=0.0, known=presence.machine) is not Standing.DEAD:
            left.discard(number)
    return left


def _with_marks(query: str, values: Iterable[object], **more: str) -> str:
    return query.format(marks=", ".join("?" for _ in values), **more)


def _state(value: Pool | Share) -> str:
    """All that has no column of its own."""
    state: dict[str, Any] = {item.name: getattr(value, item.name) for item in fields(value)}
    if isinstance(value, Share):
        del state["process"]
        state["windows"] = dict(value.windows)
    elif value.learned is not None:
        state["learned"] = {item.name: getattr(value.learned, item.name) for item in fields(value.learned)}
    return json.dumps(state, separators=(",", ":"), allow_nan=False)


def _share(process: int, state: str) -> Share:
    return Share(process=process, **json.loads(state))


def _pool(state: str) -> Pool | None:
    if not state:
        return None
    pool = Pool(**json.loads(state))
    learned: Any = pool.learned
    return pool if learned is None else replace(pool, learned=LearnedRate(**learned))
