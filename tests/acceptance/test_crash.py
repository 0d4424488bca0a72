"""kill -9 at any moment: at most the calls in flight are repeated, nothing is lost (P2)."""

from __future__ import annotations

import random
import subprocess

import pytest

from tests.support.project import Project, killed_at_exit, until
from tests.support.server import Server

STEPS = 200
IN_FLIGHT = 20


def _wide_and_deep(project: Project) -> str:
    """Forty chains of five steps, of which every last one reads its neighbour's too."""
    steps = {}
    for chain in range(40):
        for place in range(5):
            before = f" {{{{ s{chain}_{place - 1} }}}}" if place else ""
            beside = f" {{{{ s{chain - 1}_3 }}}}" if place == 4 and chain else ""
            steps[f"s{chain}_{place}"] = {"prompt": f"step {chain} {place}{before}{beside}", "cache": chain % 2 == 0}
    return project.flow(steps=steps, limits={"max_concurrent": IN_FLIGHT})


def _killed_and_resumed(project: Project, server: Server, kills: int, seed: int) -> int:
    """How many requests were repeated. The moments are numbers of requests, so they are the same on any machine."""
    draw = random.Random(seed)
    server.latency = 0.01
    file = _wide_and_deep(project)
    words: tuple[str, ...] = ("run", file, "--quiet")
    for kill in range(kills):
        # spread over the run, so that each kill finds work left to do
        least = STEPS * kill // (kills + 1)
        moment = max(len(server.requests) + 1, draw.randint(least + 1, least + STEPS // (kills + 1)))
        process = project.start(*words)
        with killed_at_exit(process):
            _until_request(server, moment, process)
            assert process.poll() is None, "the run ended before it could be killed"
        until(lambda: server.in_flight == 0, "the requests of the killed process to end")
        words = ("resume", project.run_ids()[0], "--quiet")
    outcome = project.run(*words[:-1], "--json")
    assert outcome.code == 0, outcome.said
    steps = outcome.json["steps"]
    assert len(steps) == STEPS
    assert {step["status"] for step in steps.values()} == {"succeeded"}
    assert all(step["output"] for step in steps.values())
    assert project.run_ids() == [outcome.json["run_id"]]
    repeated = len(server.requests) - STEPS
    assert len({seen.prompt for seen in server.requests}) == STEPS
    assert 0 <= repeated <= IN_FLIGHT * kills
    _every_repeat_is_on_record(project, server)
    return repeated


def _until_request(server: Server, number: int, process: subprocess.Popen[str]) -> None:
    until(lambda: len(server.requests) >= number, f"request {number}", of=process)


def _every_repeat_is_on_record(project: Project, server: Server) -> None:
    """Attempts are recorded before they are sent, so there are as many as the server saw, or a few more."""
    by_status = dict(project.rows("SELECT status, count(*) FROM attempts GROUP BY status"))
    assert sum(by_status.values()) >= len(server.requests)
    assert by_status["succeeded"] == STEPS, "an answer that came was paid for twice"
    assert set(by_status) <= {"succeeded", "unknown"}


def test_killed_three_times_a_run_still_completes(project: Project, server: Server) -> None:
    _killed_and_resumed(project, server, kills=3, seed=1)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3))
def test_killed_ten_times_a_run_still_completes(seed: int, project: Project, server: Server) -> None:
    repeated = _killed_and_resumed(project, server, kills=10, seed=seed)
    print(f"seed {seed}: {repeated} requests repeated in 10 kills, {repeated / 10:.1f} a kill")


def test_a_killed_run_shows_as_interrupted(project: Project, server: Server) -> None:
    process = project.start("run", project.flow(steps={"a": {"prompt": "a [sleep=1]"}}))
    with killed_at_exit(process):
        until(lambda: server.requests, "the first request", of=process)
    (run_id,) = project.run_ids()
    assert project.json("show", run_id)["status"] == "interrupted"
    assert run_id in project.cli("resume", run_id, "--quiet", "--json").out
    log = project.json("show", run_id, "a")["attempt_log"]
    assert [attempt["status"] for attempt in log] == ["unknown", "succeeded"]
