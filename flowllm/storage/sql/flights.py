"""Equal requests of several processes: what another one has on its way, or was given an answer to, is not begun here.

It is looked for in the transaction that would begin it. A process is registered before it begins its first request, and a database
has one order of commits for what concerns a key (SQLite's write lock; a lock for each key elsewhere): so of two that want to begin
the same the later one sees the other. Where nobody else is alive nothing is looked for: on SQLite nobody can have registered
unless others have written to the database, which each transaction learns anyway."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from flowllm.storage.liveness import ProcessRecord, Standing, standing
from flowllm.storage.machine import Machine
from flowllm.storage.records import Elsewhere
from flowllm.storage.sql.engine import Connection, Watch
from flowllm.storage.sql.jobs import Job
from flowllm.storage.sql.presence import FIELDS, Presence, process_of

_OF_PROCESS: Final = f"{', '.join(f'processes.{name}' for name in FIELDS)}, database_now()"
_OTHERS: Final = f"SELECT {_OF_PROCESS} FROM processes WHERE ended_at IS NULL AND process_id <> :me"
SENT: Final = (
    f"SELECT attempts.key, attempts.attempt_id, {_OF_PROCESS} "
    "FROM attempts JOIN processes ON processes.process_id = attempts.process WHERE attempts.status = 'sent' "
    "AND attempts.key IN (SELECT value FROM json_each(:keys)) AND attempts.process <> :me AND processes.ended_at IS NULL"
)
_ANSWERED: Final = "SELECT key FROM memo WHERE key IN (SELECT value FROM json_each(:keys))"
NOBODY: Final = -1
"""The number of a process that is not registered."""


class Flights:
    """What the writer of one process knows of the others."""

    def __init__(self, presence: Presence) -> None:
        self._presence = presence
        self._version: object = None
        self._others: Sequence[ProcessRecord] = ()
        self._ahead = 0.0
        """Seconds by which the database's clock is ahead of the monotonic one."""

    def pass_over(self, connection: Connection, watch: Watch, jobs: Iterable[Job]) -> None:
        """Mark those that would begin what others have begun, or have an answer to, in the transaction that is open."""
        asking = [job for job in jobs if job.unit.equal]
        if not asking:
            return
        connection.lock_keys({job.unit.equal for job in asking})
        if self._has_company(connection, watch):
            sent = sent_by_others([job.unit.equal for job in asking], self._presence, connection.fetch)
            _mark(asking, sent, Elsewhere.SENT)
        now = time.monotonic()
        since = [job for job in asking if not job.passed and _may_be_known(job.unit.looked, now, watch)]
        if since:
            rows = connection.fetch(_ANSWERED, {"keys": json.dumps([job.unit.equal for job in since])})
            _mark(since, {key for (key,) in rows}, Elsewhere.ANSWERED)

    def _has_company(self, connection: Connection, watch: Watch) -> bool:
        """Whether another process may be alive. What is known of them holds until others write to the database: one that comes
        back to life does."""
        if watch.version is None:
            return True
        others, now = self._others, time.monotonic() + self._ahead
        if watch.version != self._version:
            rows = connection.fetch(_OTHERS, {"me": _number(self._presence)})
            others, now = [process_of(row[:-1]) for row in rows], rows[0][-1] if rows else 0.0
            self._version, self._ahead = watch.version, now - time.monotonic()
        self._others = [one for one in others if _alive(one, now, self._presence.machine)]
        return bool(self._others)


def _may_be_known(looked: float, now: float, watch: Watch) -> bool:
    """Whether an answer may have been stored since the response cache was looked at; infinite: that does not count."""
    return looked < math.inf and watch.others_wrote(now - looked)


def sent_by_others(keys: Sequence[str], presence: Presence, fetch: Any) -> Mapping[str, str]:
    """The requests of those keys that other living processes have on their way, by key."""
    values = {"keys": json.dumps(keys), "me": _number(presence)}
    rows = fetch(SENT, values)
    return {row[0]: row[1] for row in rows if _alive(process_of(row[2:-1]), row[-1], presence.machine)}


def _alive(process: ProcessRecord, now: float, machine: Machine) -> bool:
    return standing(process, now=now, known=machine) is Standing.ALIVE


def _number(presence: Presence) -> int:
    return NOBODY if presence.number is None else presence.number


def _mark(jobs: Iterable[Job], keys: Mapping[str, str] | set[str], how: Elsewhere) -> None:
    for job in jobs:
        if job.unit.equal in keys:
            job.result, job.passed = how, True
