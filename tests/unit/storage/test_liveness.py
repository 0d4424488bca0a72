"""Who is alive, given rows, a time, and what a machine knows."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from flowllm.storage import machine as machines
from flowllm.storage.liveness import LEASE, STALLED, ProcessRecord, Standing, standing
from flowllm.storage.machine import Machine, started_at

NOW = 1_700_000_000.0
ONE = ProcessRecord(token="t", pid=7, machine="m", started="5", lease_until=NOW, ended_at=None)


class Knowing:
    """A machine that knows this of every process."""

    def __init__(self, there: bool | None) -> None:
        self._there = there

    def has(self, process: ProcessRecord) -> bool | None:
        return self._there


@pytest.mark.parametrize(
    ("there", "after_beat", "expected"),
    [
        (None, 0.0, Standing.ALIVE),
        (None, LEASE - 0.1, Standing.ALIVE),
        (None, LEASE, Standing.EXPIRED),
        (None, -3600.0, Standing.EXPIRED),
        (True, LEASE + 1, Standing.ALIVE),
        (True, STALLED - 0.1, Standing.ALIVE),
        (True, STALLED, Standing.EXPIRED),
        (True, -3600.0, Standing.EXPIRED),
        (False, 0.0, Standing.DEAD),
    ],
)
def test_how_a_process_stands_so_long_after_its_heartbeat(
    there: bool | None, after_beat: float, expected: Standing
) -> None:
    one = replace(ONE, lease_until=NOW + LEASE)
    assert standing(one, now=NOW + after_beat, known=Knowing(there)) is expected


@pytest.mark.parametrize("there", [True, False, None])
def test_one_that_was_ended_is_dead_whatever_is_known(there: bool | None) -> None:
    one = replace(ONE, lease_until=NOW + LEASE, ended_at=NOW)
    assert standing(one, now=NOW, known=Knowing(there)) is Standing.DEAD


def test_a_machine_knows_its_processes_until_they_end_also_before_they_are_reaped() -> None:
    machine = Machine()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        one = replace(ONE, pid=child.pid, machine=machine.name, started=started_at(child.pid) or "")
        assert machine.has(one)
        assert machine.has(replace(one, started="1")) is False, "another process with its number"
        assert machine.has(replace(one, machine="of another")) is None
        child.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert machine.has(one) is False, "a zombie"
    finally:
        child.kill()
        child.communicate()
    assert machine.has(one) is False


def test_where_boots_cannot_be_told_apart_nothing_is_known_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Containers of two machines may have one name and one address, and each a process 1."""
    monkeypatch.setattr(machines, "_PROC", tmp_path)
    mine = Machine().name
    assert Machine().name == mine
    monkeypatch.setattr(machines, "_UNKNOWN", "of another process")
    assert Machine().has(replace(ONE, machine=mine, pid=os.getpid())) is None
    monkeypatch.setattr(machines, "_PROC", tmp_path / "none")
    assert Machine().name.startswith(f"{socket.gethostname()} ")


def test_a_pid_that_no_system_has_is_nobodys() -> None:
    machine = Machine()
    assert machine.has(replace(ONE, pid=2**70, machine=machine.name)) is False
    assert not machine.had(2**70, socket.gethostname(), NOW)


def test_of_an_older_flowllm_host_and_number_tell_and_when_it_began() -> None:
    machine, here, now = Machine(), socket.gethostname(), time.time()
    assert machine.had(os.getpid(), here, now)
    assert not machine.had(os.getpid(), here, now - 40 * 365 * 86_400), "began later: another one has its number"
    assert not machine.had(os.getpid(), "elsewhere", now)
