"""One limit for all processes of a database: under a virtual clock as figures, and with real processes."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from flowllm.core.types import Limits
from tests.support.project import Project, killed_at_exit, until
from tests.support.rates import Server as Rated
from tests.support.server import Server
from tests.support.shares import Ledgers, Process
from tests.support.virtual import run_virtual

KNOWN = Limits(max_concurrent=20, requests_per_minute=600)


def side_by_side(
    limits: Limits, spans: list[tuple[float, float]], *, kill: float | None = None, server: Rated | None = None
) -> Rated:
    """A server with a limit of 600 a minute, and processes that always have something to ask in their spans."""

    async def main() -> Rated:
        found, ledgers = server or Rated(), Ledgers()
        processes = [Process(ledgers, number + 1, found, limits) for number in range(len(spans))]
        going = [asyncio.ensure_future(process.steady(*span)) for process, span in zip(processes, spans, strict=True)]
        if kill is not None:
            await asyncio.sleep(kill)
            going[0].cancel()
            await processes[0].kill()
        await asyncio.gather(*going, return_exceptions=True)
        for process in processes:
            process.load.limiter.close()
        assert [process.load.failed for process in processes] == [[] for _ in processes]
        return found

    return run_virtual(main())


def test_four_processes_use_a_known_limit_and_never_pass_it() -> None:
    server = side_by_side(KNOWN, [(0, 60)] * 4)
    assert server.refused == []
    assert server.throughput(0, 60) >= 0.95 * 10


def test_processes_that_come_and_go_use_it_too() -> None:
    server = side_by_side(KNOWN, [(0, 60), (5, 60), (12, 40), (20, 30)])
    assert server.refused == []
    assert server.throughput(0, 60) >= 0.95 * 10


def test_the_share_of_a_process_that_was_killed_is_used_by_others_within_ten_seconds() -> None:
    server = side_by_side(KNOWN, [(0, 60)] * 4, kill=20.0)
    assert server.refused == []
    assert server.throughput(20, 30) >= 0.7 * 10
    assert server.throughput(30, 60) >= 0.95 * 10


def test_a_limit_of_slots_that_are_fewer_than_the_processes_starves_nobody() -> None:
    server = Rated(rate=1e9, burst=1e9, latency=0.3)
    side_by_side(Limits(max_concurrent=3), [(0, 60)] * 4, server=server)
    assert server.throughput(5, 60) >= 0.85 * 3 / 0.305


@pytest.mark.parametrize("limits", [Limits(max_concurrent=10), Limits()])
@pytest.mark.parametrize("tell", [True, False])
def test_four_processes_find_an_unknown_limit_together(limits: Limits, tell: bool) -> None:
    server = side_by_side(limits, [(0, 120)] * 4, server=Rated(tell=tell, latency=0.2))
    assert server.throughput(0, 120) >= 0.85 * 10
    assert len(server.refused) <= 0.05 * len(server.arrived)


def fan(project: Project, server: Server, *, rows: int, **limits: object) -> str:
    provider = {"type": "openai", "base_url": server.url, "limits": limits}
    step = {"foreach": f"{{{{ range({rows}) | list }}}}", "prompt": "say {{ item }} of {{ inputs.run }}"}
    return project.flow(
        inputs={"run": "one"}, defaults={"provider": "p", "model": "m"}, providers={"p": provider}, steps={"ask": step}
    )


def test_two_runs_side_by_side_keep_to_one_limit(project: Project, server: Server) -> None:
    """They sent 457 under a limit of 240 a minute."""
    server.limit(1200, burst=40)  # twice what is kept to, as a busy machine bunches requests
    flow = fan(project, server, rows=50, requests_per_minute=1200)
    going = [project.start("run", flow, "-i", f"run={name}") for name in ("one", "two")]
    with killed_at_exit(*going):
        assert [project.finish(process).code for process in going] == [0, 0]
    assert server.counts["refused"] == 0
    assert server.counts["accepted"] == 100


def test_a_run_that_was_killed_leaves_its_share_at_once_to_another_on_its_machine(
    project: Project, server: Server
) -> None:
    server.limit(1200, burst=40)
    flow = fan(project, server, rows=60, requests_per_minute=1200)
    dead = project.start("run", flow, "-i", "run=one")
    with killed_at_exit(dead):
        until(lambda: server.counts["accepted"] > 5, of=dead)
        os.kill(dead.pid, signal.SIGKILL)
        dead.wait()
        began = len(server.requests)
        assert project.cli("run", flow, "-i", "run=two").code == 0
    assert server.counts["refused"] == 0
    times = [seen.arrived for seen in server.requests[began:]]
    assert times[-1] - times[0] < 7, "it would wait for the end of the other's share"
