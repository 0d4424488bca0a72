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
from flowllm.storage.sql.engine import Connection
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
_BEAT: Final = f"UPDATE processes SET lease_until = database_now() + {LEASE} WHERE process_id = ? AND ended_at IS NULL"
_END: Final = "UPDATE processes SET ended_at = database_now() WHERE process_id = ? AND ended_at IS NULL"
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
        self._due = math.inf
        """When the next heartbeat is due, monotonic seconds."""
        self._until = self._awake = -math.inf
        """Until when its lease is, and since when that was never over, monotonic seconds."""
        self._loop: asyncio.AbstractEventLoop | None = None

    # in the event loop

    def serve(self) -> None:
        """What is taken is taken for this loop."""
        self._loop = asyncio.get_running_loop()

    def drop(self, run_id: RunId) -> None:
        """A run is given back, or lost."""
        self._held.pop(run_id, None)

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

    def enter(self, connection: Connection, run_id: RunId) -> int:
        """Take a run, in the transaction that is open: the number of this registration, which is made where it is the
        first, or where others have ended the one there was."""
        if self.number is None or not connection.execute(_BEAT, (self.number,)).rowcount:
            self._token = secrets.token_hex(8)
            names = (socket.gethostname(), self.machine.name, started_at(self.pid) or "")
            connection.execute(_FORGET)
            connection.execute(_ENTER, (self._token, self.pid, *map(to_text, names)))
            self.number = int(connection.execute(_NUMBER, (self._token,)).fetchone()[0])
            HERE[self._token] = self
        self._held[run_id] = self.number
        self.beaten()
        return self.number

    def beat(self, connection: Connection) -> None:
        """Give a heartbeat, in the transaction that is open."""
        if self.left:
            self.leave(connection)
        elif not connection.execute(_BEAT, (self.number,)).rowcount:
            self.number = None  # others have ended it: what it has is lost

    def beaten(self) -> None:
        """A heartbeat was given, or this is as good as one."""
        now = time.monotonic()
        self._due = math.inf if self.number is None else now + HEARTBEAT
        self._awake = now if now > self._until else self._awake
        self._until = now + LEASE

    def missed(self) -> None:
        """A heartbeat could not be given: it is tried again soon."""
        self._due = time.monotonic() + AGAIN

    def leave(self, connection: Connection) -> None:
        """It has ended: all that it still has is free."""
        if self.number is not None:
            connection.execute(_END, (self.number,))
            self.forget()

    def forget(self) -> None:
        """Be as one that was never registered."""
        HERE.pop(self._token, None)
        self._held.clear()
        self.number, self._due = None, math.inf

    def ended(self, connection: Connection, numbers: Iterable[int]) -> set[int]:
        """Those of these processes that are not alive: from now on they write nothing more, in the transaction that is open. Of one
        that gave no sign of life for too long it is believed once the database was there for a while to give one."""
        waited = time.monotonic() >= self._awake + SECOND_LOOK
        gone = set()
        for number in sorted(set(numbers)):
            stands = process_seen(connection, number, self.machine).stands
            if stands is Standing.DEAD or (stands is Standing.EXPIRED and waited):
                gone.add(number)
                end(connection, number)
        return gone

    def holder(self, run_id: RunId) -> int | None:
        """The registration by which this store has a run, or had it when it was taken from it."""
        return self._held.get(run_id)


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
    """How the process stands that has a run; its row is locked in the transaction."""
    if row.process is None or row.status != RunStatus.RUNNING.value:
        return Seen(Standing.ALIVE if had_by_older(row, machine) else Standing.DEAD)
    return process_seen(connection, row.process, machine)


def process_seen(connection: Connection, number: int, machine: Machine) -> Seen:
    """How a process stands; its row is locked in the transaction."""
    found = connection.execute(f"{_FIND} {connection.for_update}", (number,)).fetchone()
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
