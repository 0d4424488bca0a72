"""Which of the processes at a database are alive: decided purely, from their rows, a time, and what this machine knows."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Protocol

from flowllm.core.records import dataclass

LEASE: Final = 10.0
"""Seconds for which a process counts as alive behind its last heartbeat."""
HEARTBEAT: Final = 2.5
"""Seconds between heartbeats."""
STALLED: Final = 60.0
"""Seconds for which one is waited for that this machine knows to be there, though it gives no heartbeat."""
SECOND_LOOK: Final = 3.0
"""Seconds after which one without a heartbeat is looked at again before anything is taken from it: where the database itself was
away, or its clock was set, nobody had a chance to give one."""


class Standing(StrEnum):
    """How a process stands."""

    ALIVE = "alive"
    EXPIRED = "expired"  # nothing was heard of it for too long; it may come back
    DEAD = "dead"  # it has ended, or cannot come back


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessRecord:
    """One that carries out something at a database: a row of `processes`. Times are the database's."""

    token: str
    """Unique, made by the process."""
    pid: int
    machine: str
    """What its machine was told by: see machine.py."""
    started: str
    """What tells it from others that had its pid."""
    lease_until: float
    ended_at: float | None


class Known(Protocol):
    """What this machine knows of processes."""

    def has(self, process: ProcessRecord) -> bool | None:
        """Whether it is there; None for one of another machine."""
        ...


def standing(process: ProcessRecord, *, now: float, known: Known) -> Standing:
    """How a process stands at a time of the database's."""
    if process.ended_at is not None:
        return Standing.DEAD
    there = known.has(process)
    if there is False:
        return Standing.DEAD
    until = process.lease_until + (STALLED - LEASE if there else 0.0)
    if now < until <= now + STALLED + LEASE:  # else the clock was set back
        return Standing.ALIVE
    return Standing.EXPIRED
