"""What of a group of units is written in its transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from flowllm.core.errors import FlowLLMError, OwnershipLost
from flowllm.core.types import RunId
from flowllm.storage.base import RunLease
from flowllm.storage.sql import statements
from flowllm.storage.sql.engine import Connection
from flowllm.storage.sql.faults import ownership_lost
from flowllm.storage.sql.jobs import Job
from flowllm.storage.sql.presence import Presence
from flowllm.storage.sql.rows import to_text
from flowllm.storage.sql.statements import unpacked, without_leases
from flowllm.storage.sql.texts import Texts

_Epochs = dict[str, int | None]


def apply(connection: Connection, jobs: Sequence[Job], texts: Texts, presence: Presence) -> None:
    """Carry out the jobs in order; like rows of neighbours go in one statement."""
    batch: list[Job] = []
    lock = connection.for_update if any(job.unit.action and job.unit.leases for job in jobs) else connection.for_share
    for job in jobs:
        action = job.unit.action
        if action is None:
            batch.append(job)
            continue
        _apply_rows(connection, batch, texts, presence, lock)
        batch = []
        job.error = _stale(connection, job.unit.leases, {}, lock, presence.holder)
        if job.error is None:
            try:
                job.result = action(connection)
            except FlowLLMError as error:
                job.error = error
    _apply_rows(connection, batch, texts, presence, lock)


def _apply_rows(connection: Connection, jobs: Iterable[Job], texts: Texts, presence: Presence, lock: str) -> None:
    epochs: _Epochs = {}
    rows: list[tuple[str, tuple[Any, ...]]] = []
    for job in jobs:
        job.error = _stale(connection, job.unit.leases, epochs, lock, presence.holder)
        if job.error is None and not job.passed:
            rows += job.unit.rows
    if rows:
        statements.write_rows(connection, rows, texts)


def take_back(connection: Connection, results: Iterable[bytes], texts: Texts) -> None:
    """Write what was kept: of a run that another process has gone on with, or that is gone, only the answers; also of what a
    worker did that was held for dead: others have done it again."""
    for payload in results:
        unit, worked = unpacked(payload)
        if _stale(connection, unit.leases, {}, connection.for_share, worked.get) is not None:
            unit = without_leases(unit)
        statements.write_rows(connection, unit.rows, texts)


def _stale(
    connection: Connection,
    leases: Iterable[RunLease],
    epochs: _Epochs,
    lock: str,
    holder_of: Callable[[RunId], int | None],
) -> OwnershipLost | None:
    """The error for a unit of which one lease is behind its run's epoch, or whose process was ended by another; epochs
    once read are kept, and locked."""
    for lease in leases:
        run_id = lease.run_id
        if run_id not in epochs:
            holder = holder_of(run_id)
            query, values = (statements.EPOCH, ()) if holder is None else (statements.EPOCH_OF, (holder,))
            found = connection.execute(f"{query}{lock}", (to_text(run_id), *values)).fetchone()
            epochs[run_id] = found[0] if found else None
        if epochs[run_id] != lease.epoch:
            return ownership_lost(lease, epochs[run_id])
    return None
