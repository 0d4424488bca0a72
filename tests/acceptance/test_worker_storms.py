"""Workers and their coordinator killed at any moment, again and again: every row comes out once, and little is asked twice."""

from __future__ import annotations

import os
import random
import signal

import pytest

from tests.support.dataset import each_once, texts
from tests.support.over import two_steps
from tests.support.project import Project, killed_at_exit, until
from tests.support.server import Server
from tests.support.warm import Forked

IN_FLIGHT = 12
OUT = ("--over", "rows.jsonl", "--output", "out.jsonl")


def workers(project: Project) -> list[int]:
    """The processes that have items, the coordinator apart."""
    if not project.run_ids():
        return []
    query = "SELECT DISTINCT pid FROM ranges JOIN processes ON process_id = process WHERE processes.ended_at IS NULL"
    return [pid for (pid,) in project.rows(query)]


def storm(project: Project, server: Server, *, rows: int, kills: int, seed: int) -> None:
    """Kill a worker or the coordinator, after a random number of requests, until it was done so often; then let it end."""
    chance, server.latency = random.Random(seed), 0.02
    texts(project.folder / "rows.jsonl", rows)
    process: Forked = project.start(
        "run", two_steps(project, limits={"max_concurrent": IN_FLIGHT}), *OUT, "--workers", 2
    )
    try:
        for _ in range(kills):
            after, going = len(server.requests) + chance.randrange(5, 40), process
            until(lambda least=after, of=going: len(server.requests) >= least or of.poll() is not None, "requests")
            if process.poll() is not None:
                break
            if chance.random() < 0.3:
                process.kill()
                process.communicate()
                process = project.start("resume", "--workers", chance.choice([1, 2, 3]))
            elif pids := workers(project):
                os.kill(chance.choice(pids), signal.SIGKILL)
        with killed_at_exit(process):
            outcome = project.finish(process)
    finally:
        if process.poll() is None:
            process.kill()
    assert outcome.code == 0, outcome.said
    each_once(project.folder / "out.jsonl", rows)
    assert len({seen.prompt for seen in server.requests}) == 2 * rows
    assert len(server.requests) <= 2 * rows + kills * IN_FLIGHT


@pytest.mark.parametrize("seed", [1])
def test_every_row_comes_out_once_however_often_workers_and_the_coordinator_are_killed(
    seed: int, anywhere: Project, server: Server
) -> None:
    storm(anywhere, server, rows=150, kills=2, seed=seed)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10))
def test_the_same_with_many_kills(seed: int, anywhere: Project, server: Server) -> None:
    storm(anywhere, server, rows=400, kills=8, seed=seed)
