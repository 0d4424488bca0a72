"""One owner a run (P6): of several processes one goes on, and a former owner that wakes up late writes nothing."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from tests.support.owners import end
from tests.support.project import Project, killed_at_exit, prompts, until
from tests.support.replies import Reply
from tests.support.server import Server

FOREVER = 10**6
"""As `server.hold`: no answer goes out until the test says so."""
STEPS = prompts(a="a", b="b", c="c {{ a }} {{ b }}")


def _killed_run(anywhere: Project, server: Server) -> str:
    """The id of a run whose owner died with two requests in flight."""
    server.hold = FOREVER
    process = anywhere.start("run", anywhere.flow(steps=STEPS))
    with killed_at_exit(process):
        until(lambda: server.in_flight == 2, "the first requests", of=process)
    server.hold = 0
    until(lambda: server.in_flight == 0, "the answers that nobody takes any more")
    server.hold = FOREVER
    server.requests.clear()
    return anywhere.run_ids()[0]


@pytest.mark.parametrize("count", [2, pytest.param(8, marks=pytest.mark.soak)])
def test_of_several_resumes_at_once_one_runs_and_the_rest_say_who(
    count: int, anywhere: Project, server: Server
) -> None:
    run_id = _killed_run(anywhere, server)
    processes = [anywhere.start("resume", run_id, "--json") for _ in range(count)]
    with killed_at_exit(*processes):
        until(lambda: sum(process.poll() is not None for process in processes) == count - 1, "all but one")
        (owner,) = [process for process in processes if process.poll() is None]
        server.hold = 0
        outcomes = {process: anywhere.finish(process) for process in processes}
    assert outcomes[owner].code == 0, outcomes[owner].said
    assert outcomes[owner].json["status"] == "succeeded"
    for process in processes:
        if process is not owner:
            assert outcomes[process].code == 2, outcomes[process].said
            assert f"owned by process {owner.pid} on " in outcomes[process].err
            assert "Traceback" not in outcomes[process].err
    assert sorted(seen.prompt.split()[0] for seen in server.requests) == ["a", "b", "c"]


def test_a_running_run_can_not_be_resumed(anywhere: Project, server: Server) -> None:
    server.hold = FOREVER
    process = anywhere.start("run", anywhere.flow(steps=STEPS))
    with killed_at_exit(process):
        until(lambda: server.in_flight == 2, "the first requests", of=process)
        refused = anywhere.run("resume")
        assert refused.code == 2, refused.said
        assert f"owned by process {process.pid} on " in refused.err
        assert anywhere.json("show", "last")["status"] == "running"
        server.hold = 0
        assert anywhere.finish(process).code == 0
    assert len(server.requests) == 3


def _on_record(anywhere: Project) -> list[object]:
    tables = ("runs", "nodes", "attempts", "memo")
    return [anywhere.rows(f"SELECT * FROM {table} ORDER BY 1, 2, 3") for table in tables]


def test_a_stopped_owner_that_wakes_late_writes_nothing(anywhere: Project, server: Server) -> None:
    server.hold = FOREVER
    server.script = lambda body, n: Reply(text="of the former owner")
    process = anywhere.start("run", anywhere.flow(steps=STEPS), anew=True)
    with killed_at_exit(process):
        until(lambda: server.in_flight == 2, "the first requests", of=process)
        _stopped(process)
        (run_id,) = anywhere.run_ids()
        end(anywhere.engine)
        server.script = lambda body, n: Reply(text="of the new owner")
        server.hold = 0
        taken = anywhere.run("resume", run_id, "--json")
        assert taken.code == 0, taken.said
        before = _on_record(anywhere)
        process.send_signal(signal.SIGCONT)
        outcome = anywhere.finish(process)
    assert outcome.code not in {0, 2}, outcome.said
    assert "taken over by another process" in outcome.err
    assert "Traceback" not in outcome.err
    assert _on_record(anywhere) == before
    steps = anywhere.json("show", run_id)["steps"]
    assert {step["output"] for step in steps.values()} == {"of the new owner"}
    assert len(server.requests) == 5, "the former owner went on sending"


def _stopped(process: subprocess.Popen[str]) -> None:
    """Stop it, and wait until the kernel says that it is."""
    process.send_signal(signal.SIGSTOP)
    os.waitpid(process.pid, os.WUNTRACED)
