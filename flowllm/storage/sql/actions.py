"""What the writer does apart from the hot path: each makes a unit with an action of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from flowllm.core.models import MODELS
from flowllm.core.types import AttemptStatus, Json, RunId, RunStatus
from flowllm.storage.base import Owner, RunLease, RunRecord
from flowllm.storage.liveness import Standing
from flowllm.storage.machine import Machine
from flowllm.storage.monitoring import RunTotals, SuspensionRecord
from flowllm.storage.sql import statements, texts
from flowllm.storage.sql.engine import Connection
from flowllm.storage.sql.faults import run_exists, run_not_found, run_owned
from flowllm.storage.sql.presence import Presence, Seen, end, owner_seen
from flowllm.storage.sql.records import run_of, totals_of, wait_of
from flowllm.storage.sql.rows import (
    WAIT_FIELDS,
    AttemptRow,
    RunRow,
    attempt_hash,
    content_hash,
    from_text,
    outputs_hash,
    run_hash,
    to_json,
    to_text,
)
from flowllm.storage.sql.statements import Unit
from flowllm.storage.sql.totals import Totals
from flowllm.storage.timeline import RUN_ATTEMPTS, begun


def _set(*names: str, then: str = "") -> str:
    values = ", ".join(f"{name} = :new_{name}" for name in names)
    return f"UPDATE runs SET {values}{then} WHERE run_id = :this"


_SNAPSHOT: Final = RunRow._fields.index("snapshot")
_SEQ: Final = "SELECT seq FROM runs WHERE run_id = :this"
_RUN: Final = f"SELECT seq, {', '.join(RunRow._fields)} FROM runs WHERE run_id = :this"
_WITHOUT_SNAPSHOT: Final = ", ".join(name for name in RunRow._fields if name != "snapshot")
_ROW: Final = f"SELECT {_WITHOUT_SNAPSHOT} FROM runs WHERE run_id = :this"
_CLAIM: Final = _set(
    *("status", "owner_pid", "owner_host", "owner_since", "process", "stats"),
    then=", epoch = epoch + 1, finished_at = NULL",
)
_NEWEST: Final = (
    "SELECT max(at) FROM (SELECT coalesce(finished_at, started_at) AS at FROM nodes WHERE run_id = :this "
    "ORDER BY change_no DESC LIMIT 100) AS newest"
)
"""About when a process was last heard of that did not come to its end."""
_SENT: Final = f"SELECT {', '.join(AttemptRow._fields)} FROM attempts WHERE run_id = :this AND status = 'sent'"
_FORGET: Final = "UPDATE attempts SET status = :new_status, row_hash = :new_row_hash WHERE attempt_id = :this"
_REHASH: Final = _set("row_hash")
_FINISH: Final = _set(
    *("status", "finished_at", "outputs", "outputs_hash", "error", "stats"),
    then=", owner_pid = NULL, owner_host = NULL, owner_since = NULL, process = NULL",
)
_UPDATE: Final = _set("snapshot", "snapshot_hash", "path", "options", "inputs")
_MARK: Final = _set("output_offset")
_GIVE_BACK: Final = "UPDATE runs SET process = NULL, owner_pid = NULL WHERE run_id = :this AND process = :process AND status = 'running'"
_DELETE: Final = (
    *texts.RELEASE,
    *(
        f"DELETE FROM {table} WHERE run_id = :this"
        for table in ("attempts", "nodes", "waits", "ranges", "reports", "portions", "tags", "totals", "runs")
    ),
)
_DROP: Final = "DELETE FROM memo WHERE key = :this AND content_hash = :hash"
_PRUNE: Final = "DELETE FROM memo WHERE created_at < :before"


def create_run(run: RunRecord, row: RunRow, presence: Presence) -> Unit:
    """Insert a run, which this process has if it has an owner; the result is its number."""

    def action(connection: Connection) -> int:
        if connection.execute(_SEQ, {"this": row.run_id}).fetchone():
            raise run_exists(run.run_id)
        owned = row if run.owner is None else row._replace(process=presence.enter(connection, run.run_id))
        connection.execute(statements.INSERT_RUN, owned)
        connection.executemany(statements.INSERT_TAG, [(row.run_id, to_text(tag)) for tag in run.tags])
        connection.execute("INSERT INTO totals (run_id) VALUES (:this)", {"this": row.run_id})
        return int(connection.execute(_SEQ, {"this": row.run_id}).fetchone()[0])

    return Unit(action=action)


def claim_run(run_id: RunId, owner: Owner, presence: Presence, silent_since: float | None) -> Unit:
    """Raise a run's epoch under its new owner; the result is the run as it then stands. Where only a heartbeat can tell whether the
    process is alive that has it, the result is until when its lease is: look again after a while, with that as `silent_since`.
    A heartbeat in between shows that it is; a lease that is over, and none in between, that it is not."""
    this = to_text(run_id)
    values = {
        "this": this,
        "new_status": RunStatus.RUNNING.value,
        "new_owner_pid": owner.pid,
        "new_owner_host": to_text(owner.host),
        "new_owner_since": owner.since,
    }

    def action(connection: Connection) -> RunRecord | float:
        found = connection.fetch(f"{_RUN} {connection.for_update}", {"this": this})
        if not found:
            raise run_not_found(run_id)
        row = RunRow(*found[0][1:])
        seen = owner_seen(connection, row, presence.machine)
        silent = silent_since == seen.until
        if seen.stands is Standing.ALIVE and (seen.here or not (silent or silent_since is None)):
            raise run_owned(run_id, _owner(row))
        if seen.stands is Standing.ALIVE or (seen.stands is Standing.EXPIRED and not silent):
            return seen.until
        end(connection, row.process)
        run = run_of(row, seq=found[0][0], snapshot=row.snapshot)
        kept = {name: value for name, value in run.stats.items() if name != MODELS or run.finished_at is not None}
        run = replace(run, stats={**kept, RUN_ATTEMPTS: _attempts_at(connection, run, owner)})
        mine = {"new_process": presence.enter(connection, run_id), "new_stats": to_json(dict(run.stats))}
        _change(connection, _CLAIM, {**values, **mine})
        forget_sent(connection, this)
        run = replace(run, totals=_totals(connection, this), tags=_tags(connection, this))
        return replace(run, status=RunStatus.RUNNING, epoch=run.epoch + 1, owner=owner, finished_at=None)

    return Unit(action=action)


def _attempts_at(connection: Connection, run: RunRecord, owner: Owner) -> list[Json]:
    """When each attempt at a run began and ended, with the one that this owner begins."""
    *before, last = run.stats.get(RUN_ATTEMPTS) or [{"started_at": run.started_at}]
    ended: float | None = run.finished_at
    if ended is None:
        (ended,) = connection.execute(_NEWEST, {"this": to_text(run.run_id)}).fetchone()
    return [*before, {**last, "finished_at": max(last["started_at"], ended or 0.0)}, begun(owner, owner.since)]


def finish_run(
    lease: RunLease,
    *,
    status: RunStatus,
    finished_at: float,
    outputs: Mapping[str, Json] | None,
    error: Mapping[str, Json] | None,
    stats: Mapping[str, Json] | None,
) -> Unit:
    """End an attempt at a run. Raises ValueError for values that JSON cannot hold."""
    text = None if outputs is None else to_json(dict(outputs))
    values = {
        "this": to_text(lease.run_id),
        "new_status": status.value,
        "new_finished_at": finished_at,
        "new_outputs": text,
        "new_outputs_hash": outputs_hash(text),
        "new_error": None if error is None else to_json(dict(error)),
        "new_stats": to_json(dict(stats or {})),
    }
    return Unit(leases=(lease,), action=_changes(_FINISH, values), always=True)


def update_run(
    lease: RunLease, *, snapshot: Mapping[str, str], path: str, options: Mapping[str, Json], inputs: Mapping[str, Json]
) -> Unit:
    """Another snapshot. Raises ValueError for values that JSON cannot hold."""
    text = to_json(dict(snapshot))
    values = {
        "this": to_text(lease.run_id),
        "new_snapshot": text,
        "new_snapshot_hash": content_hash(text),
        "new_path": to_text(path),
        "new_options": to_json(dict(options)),
        "new_inputs": to_json(dict(inputs)),
    }
    return Unit(leases=(lease,), action=_changes(_UPDATE, values))


def mark_output(lease: RunLease, offset: int) -> Unit:
    """How much of the output file is on disk."""
    return Unit(leases=(lease,), action=_executes(_MARK, {"this": to_text(lease.run_id), "new_output_offset": offset}))


def join_run(run_id: RunId, presence: Presence) -> Unit:
    """Work on a run that another process has; the result is its epoch, None if there is no such run."""

    def action(connection: Connection) -> int | None:
        found = connection.execute(statements.EPOCH, (to_text(run_id),)).fetchone()
        if found is None:
            return None
        presence.join(connection, run_id)
        return int(found[0])

    return Unit(action=action)


def give_back(run_id: RunId, number: int) -> Unit:
    """A run that this process took and does not want."""
    return Unit(action=_changes(_GIVE_BACK, {"this": to_text(run_id), "process": number}))


def delete_runs(run_ids: Sequence[RunId], machine: Machine, silent_since: Mapping[RunId, float]) -> Unit:
    """Remove runs; the result is how many there were. Raises RunOwned if a process has one of them. Where nothing was heard lately
    of processes that have some, the result is until when the lease of each was, by run: look again after a while, with that."""

    def action(connection: Connection) -> int | dict[RunId, float]:
        silent = {}
        for run_id in run_ids:
            row = _row(connection, {"this": to_text(run_id)}, connection.for_update)
            seen = Seen(Standing.DEAD) if row is None else owner_seen(connection, row, machine)
            if row is not None and seen.stands is Standing.ALIVE:
                raise run_owned(run_id, _owner(row))
            if seen.stands is Standing.EXPIRED:
                silent[run_id] = seen.until
        if silent != {run_id: silent_since.get(run_id) for run_id in silent}:
            return silent
        keys = [{"this": to_text(run_id)} for run_id in run_ids]
        count = 0
        for statement in _DELETE:
            count = sum([connection.execute(statement, key).rowcount for key in keys])
        connection.execute(texts.SWEEP)
        return count  # of the last one, the runs themselves

    return Unit(action=action, always=True, removes=True)


def drop_memo(key: str, content_hash: str) -> Unit:
    """Remove an answer, unless it was replaced since it was read."""
    return Unit(action=_executes(_DROP, {"this": to_text(key), "hash": content_hash}))


def wake(token: str, value: Json) -> Unit:
    """Give the first value to whoever waits for that token; the result is the wait as it then stands, None if there is
    none. Raises ValueError for a value that JSON cannot hold."""
    values = {"token": to_text(token), "value": to_json(value)}

    def action(connection: Connection) -> SuspensionRecord | None:
        connection.execute("UPDATE waits SET value = coalesce(value, :value) WHERE token = :token", values)
        found = connection.fetch(f"SELECT {', '.join(WAIT_FIELDS)} FROM waits WHERE token = :token", values)
        return wait_of(found[0]) if found else None

    return Unit(action=action)


def prune_memo(older_than: float) -> Unit:
    """Remove answers created before a time; the result is how many."""

    def action(connection: Connection) -> int:
        count = connection.execute(_PRUNE, {"before": older_than}).rowcount
        connection.execute(texts.SWEEP)
        return count

    return Unit(action=action, always=True)


def clear_memo() -> Unit:
    """Remove all answers; the result is how many."""

    def action(connection: Connection) -> int:
        count = int(connection.execute("SELECT count(*) FROM memo").fetchone()[0])
        connection.execute("DELETE FROM memo")
        connection.execute(texts.SWEEP)
        return count

    return Unit(action=action, always=True)


def _changes(statement: str, values: Mapping[str, Any]) -> Callable[[Connection], int]:
    return lambda connection: _change(connection, statement, values)


def _change(connection: Connection, statement: str, values: Mapping[str, Any]) -> int:
    """Update the run `this` with its hash, which stays as it is if it did not match: what is damaged shall be found."""
    this = {"this": values["this"]}
    before = _row(connection, this)
    count = connection.execute(statement, values).rowcount
    if before is not None and before.row_hash in {None, run_hash(before)}:
        after = _row(connection, this)
        connection.execute(_REHASH, {**this, "new_row_hash": None if after is None else run_hash(after)})
    return count


def _row(connection: Connection, this: Mapping[str, Any], lock: str = "") -> RunRow | None:
    found = connection.fetch(f"{_ROW} {lock}", this)
    return RunRow._make((*found[0][:_SNAPSHOT], "", *found[0][_SNAPSHOT:])) if found else None


def _totals(connection: Connection, this: str) -> RunTotals:
    cursor = connection.execute("SELECT * FROM totals WHERE run_id = :this", {"this": this})
    names = [column[0] for column in cursor.description]
    return totals_of(dict(zip(names, cursor.fetchone(), strict=True)))


def _tags(connection: Connection, this: str) -> tuple[str, ...]:
    found = connection.execute("SELECT tag FROM tags WHERE run_id = :this", {"this": this})
    return tuple(sorted(from_text(tag) for (tag,) in found))


def forget_sent(connection: Connection, this: str, process: int | None = None) -> None:
    """Of what was out when its owner died, or a worker, nobody knows what became."""
    changed = Totals(connection)
    query, values = (_SENT, {}) if process is None else (f"{_SENT} AND process = :process", {"process": process})
    for row in map(AttemptRow._make, connection.fetch(query, {"this": this, **values})):
        now = row._replace(status=AttemptStatus.UNKNOWN.value)
        whole = row.row_hash in {None, attempt_hash(row)}
        connection.execute(
            _FORGET,
            {
                "this": row.attempt_id,
                "new_status": now.status,
                "new_row_hash": attempt_hash(now) if whole else row.row_hash,
            },
        )
        changed.attempt(this, statements.charge(row), statements.charge(now))
    changed.write()


def _executes(statement: str, values: Mapping[str, Any]) -> Callable[[Connection], int]:
    def action(connection: Connection) -> int:
        return connection.execute(statement, values).rowcount

    return action


def _owner(row: RunRow) -> Owner | None:
    if row.owner_pid is None:
        return None
    return Owner(pid=row.owner_pid, host=from_text(row.owner_host or ""), since=row.owner_since or 0.0)
