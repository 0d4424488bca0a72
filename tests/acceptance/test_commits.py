"""kill -9 around a commit, and a log that is damaged after one: nothing is lost in silence, nothing doubled."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.project import Project
from tests.support.server import Server
from tests.support.warm import DIES

ITEMS = 30
IN_FLIGHT = 5


def _killed(project: Project, server: Server, point: str) -> None:
    steps = {"each": {"prompt": "item {{ item }}", "foreach": list(range(ITEMS))}}
    file = project.flow(steps=steps, limits={"max_concurrent": IN_FLIGHT}, outputs={"n": "{{ each | length }}"})
    server.latency = 0.02
    outcome = project.run("run", file, "--quiet", **{DIES: point})
    assert outcome.code == -signal.SIGKILL, outcome.said


def _each_is_kept_once(project: Project, server: Server) -> None:
    assert len({seen.prompt for seen in server.requests}) == ITEMS
    assert project.rows("SELECT count(*) FROM memo") == [(ITEMS,)]
    assert project.rows("SELECT count(*) FROM nodes WHERE place IS NOT NULL") == [(ITEMS,)]
    assert project.rows("SELECT count(*) FROM attempts WHERE status = 'succeeded'") == [(ITEMS,)]


@pytest.mark.parametrize("point", ["before-commit:4", "after-commit:4", "before-commit:9", "after-commit:9"])
def test_killed_at_a_commit(point: str, project: Project, server: Server) -> None:
    _killed(project, server, point)
    outcome = project.cli("resume", "--quiet")
    assert outcome.code == 0, outcome.said
    assert "has lost" not in outcome.err
    assert len(server.requests) <= ITEMS + IN_FLIGHT
    _each_is_kept_once(project, server)


def _flip(log: Path) -> None:
    content = bytearray(log.read_bytes())
    content[len(content) * 2 // 3] ^= 0x55
    log.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a flipped bit": _flip,
    "cut off": lambda log: os.truncate(log, log.stat().st_size * 2 // 3),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_log_that_is_damaged_is_told_with_what_it_lost(damage: str, project: Project, server: Server) -> None:
    _killed(project, server, "after-commit:10")
    paid = len(server.requests)
    DAMAGE[damage](project.database.with_name("flowllm.db-wal"))
    outcome = project.cli("resume")
    assert outcome.code == 0, outcome.said
    assert "has lost what was last written to it" in outcome.err
    assert len(server.requests) <= ITEMS + paid
    _each_is_kept_once(project, server)
    assert "has lost" not in project.cli("run", "flow.yaml").err


def test_a_run_that_the_database_has_lost_is_told_as_lost(project: Project, server: Server) -> None:
    _killed(project, server, "after-commit:10")
    project.database.with_name("flowllm.db-wal").unlink()
    outcome = project.cli("resume")
    assert outcome.code == 2, outcome.said
    assert "has lost what was last written to it" in outcome.err
    outcome = project.cli("run", "flow.yaml")
    assert outcome.code == 0, outcome.said
    assert "has lost what was last written to it" in outcome.err
    _each_is_kept_once(project, server)
