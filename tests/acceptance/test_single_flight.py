"""Equal requests of several processes at one database are sent once (P3)."""

from __future__ import annotations

import random
import signal
import subprocess
from contextlib import ExitStack

import pytest

from tests.support.project import Project, killed_at_exit, until
from tests.support.replies import Reply
from tests.support.server import Server

FOREVER = 10**6
"""As `server.hold`: no answer goes out until the test says so."""
ITEMS = 125
EACH = {"each": {"foreach": list(range(ITEMS)), "prompt": "the same for all", "as": "number"}}


def _waiting(anywhere: Project) -> int:
    """How many runs have items under way."""
    query = "SELECT count(DISTINCT run_id) FROM nodes WHERE status = 'running' AND place IS NOT NULL"
    return anywhere.rows(query)[0][0] if anywhere.run_ids() else 0


def _begun(
    anywhere: Project, server: Server, stack: ExitStack
) -> tuple[subprocess.Popen[str], list[subprocess.Popen[str]]]:
    """Four processes that want the same, of which the first has sent it."""
    server.hold = FOREVER
    flow = anywhere.flow(steps=EACH)
    leader = anywhere.start("run", flow, "--json")
    stack.enter_context(killed_at_exit(leader))
    until(lambda: server.in_flight == 1, "the first request", of=leader)
    others = [anywhere.start("run", flow, "--json") for _ in range(3)]
    stack.enter_context(killed_at_exit(*others))
    until(lambda: _waiting(anywhere) == 4, "all to want it")
    return leader, others


def test_500_equal_calls_of_four_processes_are_sent_once(anywhere: Project, server: Server) -> None:
    with ExitStack() as stack:
        leader, others = _begun(anywhere, server, stack)
        server.hold = 0
        done = [anywhere.finish(process) for process in (leader, *others)]
    assert [one.code for one in done] == [0] * 4, [one.said for one in done]
    assert len(server.requests) == 1
    assert [one.json["requests"]["sent"] for one in done] == [1, 0, 0, 0]
    assert [one.json["steps"]["each"]["counts"]["succeeded"] for one in done] == [ITEMS] * 4
    assert [one.json["cost_usd"] == 0 for one in done[1:]] == [True] * 3
    waited = anywhere.rows("SELECT count(DISTINCT run_id) FROM nodes WHERE waits LIKE '%equal_call%'")[0][0]
    assert waited == 4


def test_a_leader_that_is_killed_is_replaced_by_one_of_those_that_wait(anywhere: Project, server: Server) -> None:
    with ExitStack() as stack:
        leader, others = _begun(anywhere, server, stack)
        leader.send_signal(signal.SIGKILL)
        until(lambda: len(server.requests) == 2, "the one that takes its place")
        server.hold = 0
        done = [anywhere.finish(process) for process in others]
    assert [one.code for one in done] == [0] * 3, [one.said for one in done]
    assert sorted(one.json["requests"]["sent"] for one in done) == [0, 0, 1]
    assert len(server.requests) == 2


def test_a_leader_that_fails_leaves_it_to_the_others(anywhere: Project, server: Server) -> None:
    server.script = lambda body, n: Reply(status=400) if n == 1 else Reply(text="fine")
    with ExitStack() as stack:
        leader, others = _begun(anywhere, server, stack)
        server.hold = 0
        done = [anywhere.finish(process) for process in others]
        anywhere.finish(leader)
    assert [one.code for one in done] == [0] * 3, [one.said for one in done]
    assert len(server.requests) == 2


@pytest.mark.soak
def test_processes_that_want_the_same_repeat_no_more_than_the_killed_had_out(anywhere: Project, server: Server) -> None:
    draw, slots, kills, prompts = random.Random(7), 5, 12, 300
    server.latency = 0.1
    steps = {"each": {"foreach": list(range(prompts)), "prompt": "number {{ item }}"}}
    flow = anywhere.flow(steps=steps, limits={"max_concurrent": slots})
    with ExitStack() as stack:
        going = [anywhere.start("run", flow, "--json") for _ in range(3)]
        stack.enter_context(killed_at_exit(*going))
        for _ in range(kills):
            so_far = len(server.requests) + draw.randrange(1, 2 * slots)
            until(lambda so_far=so_far: len(server.requests) >= so_far, "some more requests")
            killed = going.pop(draw.randrange(len(going)))
            killed.send_signal(signal.SIGKILL)
            going.append(anywhere.start("run", flow, "--json"))
            stack.enter_context(killed_at_exit(going[-1]))
        done = [anywhere.finish(process) for process in going]
    assert [one.code for one in done] == [0] * 3, [one.said for one in done]
    assert [one.json["steps"]["each"]["counts"]["succeeded"] for one in done] == [prompts] * 3
    assert len({seen.prompt for seen in server.requests}) == prompts
    assert len(server.requests) <= prompts + kills * slots
