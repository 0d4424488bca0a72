"""What this machine knows of its processes, so that a dead one need not be waited for."""

from __future__ import annotations

import os
import socket
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol
from weakref import WeakValueDictionary

if TYPE_CHECKING:
    from flowllm.storage.liveness import ProcessRecord

_PROC: Final = Path("/proc")
_ZOMBIE: Final = frozenset("ZX")
_STARTED: Final = 19
"""Where the start stands in /proc/PID/stat, behind the name; in ticks since the machine was booted."""
_UNKNOWN: Final = uuid.uuid4().hex
_SLACK: Final = 5.0
"""Seconds by which a start that is reckoned from ticks may be off."""


class Local(Protocol):
    """One registration of this very process."""

    pid: int

    @property
    def left(self) -> bool:
        """Its program has left it without closing it."""
        ...


HERE: WeakValueDictionary[str, Local] = WeakValueDictionary()
"""The registrations of this process, by their tokens."""


class Machine:
    """The one that this process is on, as far as it sees it: processes of another container are those of another machine."""

    def __init__(self) -> None:
        self.name = _name()

    def has(self, process: ProcessRecord) -> bool | None:
        """Whether that process is there; None if it is of another machine."""
        if process.machine != self.name:
            return None
        if process.pid == os.getpid():  # a forked child has the registrations of its parent, too, under another pid
            local = HERE.get(process.token)
            return local is not None and local.pid == process.pid and not local.left
        started = started_at(process.pid)
        return started is not None and (not started or started == process.started)

    def had(self, pid: int, host: str, since: float) -> bool:
        """Whether a process of that number, which named this host, may be the one that began at that wall clock time."""
        if host != socket.gethostname():
            return False
        started = started_at(pid)
        if started is None:
            return False
        return not started or _booted_at() + int(started) / os.sysconf("SC_CLK_TCK") <= since + _SLACK


def started_at(pid: int) -> str | None:
    """What tells a living process from others of its number: empty where the system does not say; None if there is none."""
    try:
        state, *rest = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
        return None if state in _ZOMBIE else rest[_STARTED - 1]
    except (OSError, ValueError, IndexError):
        return "" if _answers(pid) else None


def _answers(pid: int) -> bool:
    """Whether there is such a process, also where /proc does not show those of others."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def _name() -> str:
    """The boot and the namespace of process ids: what one pid means one process in."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {(_PROC / 'self/ns/pid').readlink()}"
    except OSError:
        # Containers of several machines may have one host name and one address: where there are such, nothing is known for sure
        return _UNKNOWN if _PROC.exists() else f"{socket.gethostname()} {uuid.getnode():x}"


def _booted_at() -> float:
    """Wall clock seconds."""
    for line in (_PROC / "stat").read_text().splitlines():
        if line.startswith("btime "):
            return float(line.split()[1])
    return 0.0
