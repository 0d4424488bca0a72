"""Portions of a run's budget, one for each process that carries it out; who is dead has none."""

from __future__ import annotations

from typing import Final

from flowllm.core.errors import StorageFailed
from flowllm.core.portions import Portion, PortionGrant, divide
from flowllm.core.types import Budget, RunId
from flowllm.storage.sql.engine import Connection
from flowllm.storage.sql.presence import Presence
from flowllm.storage.sql.records import spend_of
from flowllm.storage.sql.rows import to_text
from flowllm.storage.sql.run_queries import TOTALS
from flowllm.storage.sql.statements import Unit

_FIRST: Final = 0
"""The process of the row that whoever divides a budget locks."""
_ADD: Final = (
    "INSERT INTO portions (run_id, process, tokens, usd) VALUES (?, ?, 0, 0) ON CONFLICT (run_id, process) DO NOTHING"
)
_LOCK: Final = f"SELECT process FROM portions WHERE run_id = ? AND process = {_FIRST}"
_HELD: Final = "SELECT process, tokens, usd FROM portions WHERE run_id = ? AND process <> ? AND process <> ?"
_SET: Final = (
    "INSERT INTO portions (run_id, process, tokens, usd) VALUES (?, ?, ?, ?) "
    "ON CONFLICT (run_id, process) DO UPDATE SET tokens = excluded.tokens, usd = excluded.usd"
)
_DROP: Final = "DELETE FROM portions WHERE run_id = ? AND process = ?"
_SPENT: Final = f"SELECT {', '.join(TOTALS)} FROM totals WHERE run_id = ?"


def take_portion(run_id: RunId, budget: Budget, held: Portion, want: Portion | None, presence: Presence) -> Unit:
    """Keep that a process holds so much, and give it more if it wants that and it is there."""
    run = to_text(run_id)

    def action(connection: Connection) -> PortionGrant:
        process = presence.number
        if process is None:
            raise StorageFailed("This process is not known to the database any more.")
        connection.execute(_ADD, (run, _FIRST))
        connection.execute(f"{_LOCK} {connection.for_update}", (run,)).fetchall()
        others = {
            int(number): Portion(tokens=tokens, usd=usd)
            for number, tokens, usd in connection.execute(_HELD, (run, _FIRST, process)).fetchall()
        }
        for number in presence.ended(connection, others):  # what it had sent is on record
            del others[number]
            connection.execute(_DROP, (run, number))
        found = connection.execute(_SPENT, (run,)).fetchone()
        spend = spend_of(dict(zip(TOTALS, found, strict=True)))
        more = None if want is None else divide(budget, spend, held, others.values(), want)
        holds = held if more is None else held + more
        connection.execute(_SET, (run, process, holds.tokens, holds.usd))
        return PortionGrant(portion=more, spend=spend, others=any(Portion() != one for one in others.values()))

    return Unit(action=action, apart=True)
