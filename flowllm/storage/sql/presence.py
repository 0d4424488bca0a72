"""The row of `processes` by which this store is known to others at the database, and its heartbeat.

Written by the writer's thread alone, so that it is on time while the event loop is blocked. `database_now()` is the
database's clock, in seconds since 1970 UTC: whatever is compared between processes is measured by it."""

from __future__ import annotations

import asyncio
import math
import os
import secrets
import socket
import time
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from flowllm.core.types import RunId, RunStatus
from flowllm.storage.liveness import HEARTBEAT, LEASE, SECOND_LOOK, ProcessRecord, Standing, standing
from flowllm.storage.machine import HERE, Machine, started_at
from flowllm.storage.records import RunLease
from flowllm.storage.sql.engine import Connection
from flowllm.storage.sql.faults import ownership_lost
from flowllm.storage.sql.rows import RunRow, from_text, to_text

FIELDS: Final = ("token", "pid", "machine", "started", "lease_until", "ended_at")
FORGOTTEN: Final = 7 * 86_400.0
"""Seconds after which the row of a process that is no more is removed."""
AGAIN: Final = 1.0
"""Seconds until a heartbeat that failed is tried again."""

_ENTER: Final = (
    "INSERT INTO processes (token, pid, host, machine, started, since, lease_until) "
    f"VALUES (?, ?, ?, ?, ?, database_now(), database_now() + {LEASE})"
)
_NUMBER: Final = "SELECT process_id FROM processes WHERE token = ?"
_BEAT: Final = (
    f"UPDATE processes SET lease_until = database_now() + {LEASE} "
    "WHERE process_id = ? AND token = ? AND ended_at IS NULL"
)
"""By the token too: a number whose transaction was undone may have become another's."""
_LEAVE: Final = "UPDATE processes SET ended_at = database_now() WHERE process_id = ? AND token = ? AND ended_at IS NULL"
_END: Final = "UPDATE processes SET ended_at = database_now() WHERE process_id = ? AND ended_at IS NULL"
_IS_ENDED: Final = "SELECT 1 FROM processes WHERE process_id = ? AND ended_at IS NOT NULL"
_FIND: Final = f"SELECT {', '.join(FIELDS)}, database_now() FROM processes WHERE process_id = ?"
_FORGET: Final = f"DELETE FROM processes WHERE lease_until < database_now() - {FORGOTTEN}"


class Presence:
    """Registered with the first run that this store has, and alive for as long as it has one."""

    def __init__(self) -> None:
        self.machine = Machine()
        self.pid = os.getpid()
        self.number: int | None = None
        self._token = ""
        self._held: dict[RunId, int] = {}
        """The runs it has, each with the registration by which it has it."""
        self._joined: set[RunId] = set()
        """Those of them that are another process's."""
        self._due = math.inf
        """When the next heartbeat is due, monotonic seconds."""
        self._suspects: dict[int, tuple[float, float]] = {}
        """Processes of which nothing was heard: until when the lease of each was, and since when that is known, monotonic seconds."""
        self._loop: asyncio.AbstractEventLoop | None = None

    # in the event loop

    def serve(self) -> None:
        """What is taken is taken for this loop."""
        self._loop = asyncio.get_running_loop()

    def drop(self, run_id: RunId) -> None:
        """A run is given back, or lost."""
        self._held.pop(run_id, None)
        self._joined.discard(run_id)

    @property
    def left(self) -> bool:
        """Its loop was closed under it: nothing of it can go on."""
        return self._loop is not None and self._loop.is_closed()

    # in the writer's thread

    def wait(self) -> float | None:
        """Seconds until the next heartbeat; None if there is nothing to keep alive."""
        return max(0.0, self._due - time.monotonic()) if self._held and self._due < math.inf else None

    @property
    def due(self) -> bool:
        """It is time for a heartbeat."""
        return time.monotonic() >= self._due and bool(self._held)

    def join(self, connection: Connection, run_id: RunId) -> int:
        """Work on a run that another process has; else as `enter`."""
        number = self.enter(connection, run_id)
        self._joined.add(run_id)
        return number

    def enter(self, connection: Connection, run_id: RunId) -> int:
        """Take a run, in the transaction that is open: the number of this registration, which is made where it is the
        first, or where others have ended the one there was."""
        if self.number is None or not self._prolonged(connection):
            self._token = secrets.token_hex(8)
            names = (socket.gethostname(), self.machine.name, started_at(self.pid) or "")
            connection.execute(_FORGET)
            connection.execute(_ENTER, (self._token, self.pid, *map(to_text, names)))
            self.number = int(connection.execute(_NUMBER, (self._token,)).fetchone()[0])
            HERE[self._token] = self
        self._held[run_id] = self.number
        self._joined.discard(run_id)
        self.beaten()
        return self.number

    def stay(self, connection: Connection, lease: RunLease) -> int:
        """Take more of a run, as `join` does. Raises OwnershipLost where others have ended the registration by which it has what it
        has of it: that would count again with another one."""
        held = self._held.get(lease.run_id)
        if held is not None and connection.execute(_IS_ENDED, (held,)).fetchone():
            raise ownership_lost(lease, -lease.epoch)
        return self.join(connection, lease.run_id)

    def beat(self, connection: Connection) -> None:
        """Give a heartbeat, in the transaction that is open."""
        if self.left:
            self.leave(connection)
        elif not self._prolonged(connection):
            self.number = None  # others have ended it: what it has is lost

    def _prolonged(self, connection: Connection) -> bool:
        """Its lease, unless others have ended it."""
        return connection.execute(_BEAT, (self.number, self._token)).rowcount > 0

    def beaten(self) -> None:
        """A heartbeat was given, or this is as good as one."""
        self._due = math.inf if self.number is None else time.monotonic() + HEARTBEAT

    def missed(self) -> None:
        """A heartbeat could not be given: it is tried again soon."""
        self._due = time.monotonic() + AGAIN

    def leave(self, connection: Connection) -> None:
        """It has ended: all that it still has is free."""
        if self.number is not None:
            connection.execute(_LEAVE, (self.number, self._token))
            self.forget()

    def forget(self) -> None:
        """Be as one that was never registered."""
        HERE.pop(self._token, None)
        self._held.clear()
        self._joined.clear()
        self.number, self._due = None, math.inf

    def ended(self, connection: Connection, numbers: Iterable[int]) -> set[int]:
        """Those of these processes that are not alive: from now on they write nothing more, in the transaction that is open. One
        that gave no sign of life for too long is looked at a second time: the database may have been away, or its clock set."""
        gone, now = set(), time.monotonic()
        for number in sorted(set(numbers)):
            seen = process_seen(connection, number, self.machine)
            before, since = self._suspects.pop(number, (seen.until, now))
            if seen.stands is Standing.EXPIRED:
                since = since if before == seen.until else now
                self._suspects[number] = seen.until, since
            if seen.stands is Standing.DEAD or (seen.stands is Standing.EXPIRED and now >= since + SECOND_LOOK):
                gone.add(number)
                end(connection, number)
        return gone

    def holder(self, run_id: RunId) -> int | None:
        """The registration by which this store has a run, or had it when it was taken from it."""
        return self._held.get(run_id)

    def works_as(self, run_id: RunId) -> int | None:
        """The same for a run that another process has."""
        return self._held.get(run_id) if run_id in self._joined else None


def process_of(row: tuple[Any, ...]) -> ProcessRecord:
    """The process of a row's FIELDS."""
    token, pid, machine, started, lease_until, ended_at = row
    return ProcessRecord(
        token=token,
        pid=pid,
        machine=from_text(machine),
        started=from_text(started),
        lease_until=lease_until,
        ended_at=ended_at,
    )


class Seen(NamedTuple):
    """How a process stood when it was looked at."""

    stands: Standing
    until: float = 0.0
    """Its lease."""
    here: bool = True
    """It is of this machine, which knows more of it than its lease."""


def owner_seen(connection: Connection, row: RunRow, machine: Machine) -> Seen:
    """How the process stands that has a run: see `process_seen`."""
    if row.process is None or row.status != RunStatus.RUNNING.value:
        return Seen(Standing.ALIVE if had_by_older(row, machine) else Standing.DEAD)
    return process_seen(connection, row.process, machine)


def process_seen(connection: Connection, number: int, machine: Machine) -> Seen:
    """How a process stands; the row of one that is not alive is locked in the transaction. One that is alive may hold its row,
    and wait for what is locked here."""
    seen = _seen(connection, number, machine, "")
    if seen.stands is Standing.ALIVE or not connection.for_update:
        return seen
    return _seen(connection, number, machine, connection.for_update)


def _seen(connection: Connection, number: int, machine: Machine, lock: str) -> Seen:
    found = connection.execute(f"{_FIND} {lock}", (number,)).fetchone()
    if found is None:
        return Seen(Standing.DEAD)
    process = process_of(found[:-1])
    here = process.machine == machine.name
    return Seen(standing(process, now=found[-1], known=machine), process.lease_until, here)


def end(connection: Connection, number: int | None) -> None:
    """A process is no more, or gave no heartbeat for too long: nothing that it still does counts."""
    if number is not None:
        connection.execute(_END, (number,))


def had_by_older(row: RunRow, machine: Machine) -> bool:
    """Whether a run is under way by a flowllm that did not register yet."""
    if row.owner_pid is None or row.process is not None or row.status != RunStatus.RUNNING.value:
        return False
    return machine.had(row.owner_pid, from_text(row.owner_host or ""), row.owner_since or 0.0)
