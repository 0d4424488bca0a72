"""A run with workers whose processes, database and cluster are killed in any order: every row once (P2, P6, P8)."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from flowllm.storage.postgres import migrate
from tests.support.kills import Kills, over
from tests.support.on_server import ServerProject
from tests.support.postgres import restart, started
from tests.support.project import Project
from tests.support.ray_head import ray_head
from tests.support.server import Server

IN_FLIGHT = 10
PROCESSES = {"worker": 28, "coordinator": 11, "late": 8, "machine": 3}
FEWER = {"worker": 18, "coordinator": 8, "late": 6, "machine": 1}
BACKENDS = {"terminated backend": 10, "killed backend": 5, "server": 1, "power cut": 1}
ON_RAY = {
    "worker": 8,
    "coordinator": 2,
    "late": 3,
    "machine": 1,
    "terminated backend": 3,
    "killed backend": 2,
    "server": 1,
}
SEEDS = range(3)


@contextmanager
def own_server(project: Project) -> Iterator[Callable[[], None]]:
    """The project's database on a server of its own, and what crashes that."""
    root = os.environ.get("PYTEST_DEBUG_TEMPROOT", "/tmp")
    with tempfile.TemporaryDirectory(prefix="pg-", dir=root) as folder:  # a socket's name must be short
        server = started(Path(folder))
        try:
            migrate.upgrade(server.get_uri())
            project.use(server.get_uri())
            yield lambda: restart(server, "immediate")
        finally:
            server.cleanup()


def test_every_row_once_whatever_is_killed(anywhere: Project, server: Server) -> None:
    words = over(anywhere, 60, in_flight=IN_FLIGHT)
    kills = Kills(project=anywhere, server=server, words=words, workers=("--workers", 2))
    backends = ["terminated backend"] if isinstance(anywhere, ServerProject) else []
    outcome = kills.run(["worker", *backends, "coordinator"], calls=120, draw=random.Random(1))
    assert outcome.code == 0, outcome.said
    kills.check(60, in_flight=IN_FLIGHT)


def _killed(kills: Kills, seed: int, often: Mapping[str, int], *, rows: int) -> None:
    draw = random.Random(seed)
    kills.words = (*over(kills.project, rows, in_flight=IN_FLIGHT), *(["--ordered"] if seed % 2 else []))
    kinds = [kind for kind, times in often.items() for _ in range(times)]
    draw.shuffle(kinds)
    outcome = kills.run(kinds, calls=2 * rows, draw=draw)
    assert outcome.code == 0, outcome.said
    kills.check(rows, in_flight=IN_FLIGHT, ordered=bool(seed % 2))
    print(f"\nseed {seed}: {kills}")


@pytest.mark.soak
@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize("seed", SEEDS)
def test_fifty_kills_on_sqlite(seed: int, project: Project, server: Server) -> None:
    _killed(Kills(project=project, server=server, workers=("--workers", 3)), seed, PROCESSES, rows=2000)


@pytest.mark.soak
@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize("seed", SEEDS)
def test_fifty_kills_on_postgresql(seed: int, project: Project, server: Server) -> None:
    with own_server(project) as crash:
        kills = Kills(project=project, server=server, workers=("--workers", 3), crash=crash)
        _killed(kills, seed, {**FEWER, **BACKENDS}, rows=2000)


@pytest.mark.soak
@pytest.mark.usefixtures("unhurried")
def test_twenty_kills_on_ray(project: Project, server: Server) -> None:
    with ray_head() as head, own_server(project) as crash:
        words = ("--workers", 3, "--cluster", head.node)
        kills = Kills(project=project, server=server, workers=words, environ=head.environ, crash=crash)
        _killed(kills, 0, ON_RAY, rows=1000)
