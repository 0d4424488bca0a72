"""A run whose items are executed by workers, processes of their own: what comes of it is as with one process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowllm.core.clock import SystemClock
from flowllm.core.types import RunId
from flowllm.storage.open import open_store
from tests.support.dataset import each_once, json_lines, lines, texts
from tests.support.over import one_step, two_steps
from tests.support.project import Project, killed_at_exit, until
from tests.support.server import Server
from tests.support.warm import Forked

OUT = ("--over", "rows.jsonl", "--output", "out.jsonl")
IN_FLIGHT = 10
LIMITS = {"max_concurrent": IN_FLIGHT}


def _pids(project: Project) -> list[int]:
    """The workers that have items."""
    if not project.run_ids():
        return []
    query = "SELECT DISTINCT pid FROM ranges JOIN processes ON process_id = process WHERE processes.ended_at IS NULL"
    return [pid for (pid,) in project.rows(query)]


@contextlib.contextmanager
def _going(project: Project, *words: object, workers: int = 2) -> Iterator[Forked]:
    """A run under way whose workers all have items."""
    process = project.start("run", *words, "--workers", workers)
    with killed_at_exit(process):
        until(lambda: len(_pids(project)) >= workers, "workers with items", of=process)
        yield process


def test_rows_and_figures_are_as_with_one_process(anywhere: Project, server: Server) -> None:
    texts(anywhere.folder / "rows.jsonl", 60)
    file = two_steps(anywhere, limits=LIMITS)
    alone = anywhere.json(
        "run", file, "--over", "rows.jsonl", "--output", "alone.jsonl", "--ordered", "--db", "alone.db"
    )
    split = anywhere.json("run", file, *OUT, "--ordered", "--workers", 2)
    assert (anywhere.folder / "out.jsonl").read_bytes() == (anywhere.folder / "alone.jsonl").read_bytes()
    assert len(server.requests) == 240
    for name in ("status", "requests", "usage", "cost_usd"):
        assert split[name] == alone[name], name
    assert split["steps"]["row"]["counts"] == alone["steps"]["row"]["counts"]
    assert split["steps"]["row"]["usage"] == alone["steps"]["row"]["usage"]
    assert anywhere.rows("SELECT count(*) FROM ranges, reports") == [(0,)], "something of it is left"


def test_the_items_of_a_foreach_at_the_top_see_the_steps_before_it(project: Project, server: Server) -> None:
    file = project.flow(
        limits=LIMITS,
        steps={
            "topic": {"value": "tea"},
            "kinds": {"foreach": [1, 2, 3], "prompt": "kind {{ item }}"},
            "each": {
                "foreach": "{{ range(30) | list }}",
                "prompt": "{{ topic }} {{ item }} of {{ kinds | length }} {{ kinds[0] }}",
            },
            "all": {"value": "{{ each | length }} {{ each[7] }}"},
        },
        outputs={"all": "{{ all }}", "each": "{{ each }}", "kinds": "{{ kinds }}"},
    )
    alone = project.json("run", file, "--db", "alone.db")
    split = project.json("run", file, "--workers", 2)
    assert split["outputs"] == alone["outputs"]
    assert split["requests"] == alone["requests"]
    assert {seen.prompt for seen in server.requests if "tea 7" in seen.prompt} == {
        f"tea 7 of 3 {alone['outputs']['kinds'][0]}"
    }


def test_a_worker_that_is_killed_is_replaced_and_no_row_is_lost(anywhere: Project, server: Server) -> None:
    server.latency = 0.05
    texts(anywhere.folder / "rows.jsonl", 150)
    with _going(anywhere, two_steps(anywhere, limits=LIMITS), *OUT) as process:
        until(lambda: len(server.requests) >= 60, "the moment to kill one", of=process)
        os.kill(_pids(anywhere)[0], signal.SIGKILL)
        outcome = anywhere.finish(process)
    assert outcome.code == 0, outcome.said
    assert "is started again: it was killed by signal 9" in outcome.err
    each_once(anywhere.folder / "out.jsonl", 150)
    assert len({seen.prompt for seen in server.requests}) == 300
    assert len(server.requests) <= 300 + IN_FLIGHT


@pytest.mark.parametrize("workers", [(), ("--workers", 2)])
def test_a_coordinator_that_is_killed_leaves_no_worker_and_a_run_that_goes_on(
    workers: tuple[object, ...], anywhere: Project, server: Server
) -> None:
    server.latency = 0.05
    texts(anywhere.folder / "rows.jsonl", 100)
    with _going(anywhere, two_steps(anywhere, limits=LIMITS), *OUT) as process:
        until(lambda: len(server.requests) >= 60, "the moment to kill it", of=process)
        pids = _pids(anywhere)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    until(lambda: not any(map(_alive, pids)), "the end of its workers")
    resumed = anywhere.cli("resume", "--quiet", *workers)
    assert resumed.code == 0, resumed.said
    each_once(anywhere.folder / "out.jsonl", 100)
    assert len({seen.prompt for seen in server.requests}) == 200
    assert len(server.requests) <= 200 + 2 * IN_FLIGHT


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def test_who_joins_works_and_who_is_told_to_leave_gives_back_what_it_has(anywhere: Project, server: Server) -> None:
    server.latency = 0.05
    texts(anywhere.folder / "rows.jsonl", 100)
    process = anywhere.start("run", one_step(anywhere, limits=LIMITS), *OUT, "--workers", 0)
    with killed_at_exit(process):
        until(anywhere.run_ids, "the run", of=process)
        first = anywhere.start("work", "--exit-when-idle", "30s")
        with killed_at_exit(first):
            until(lambda: len(server.requests) >= 20, "work", of=first)
            first.send_signal(signal.SIGTERM)
            left = anywhere.finish(first)
        assert (left.code, "waiting for items of runs" in left.err) == (0, True), left.said
        assert len(server.requests) < 100
        second = anywhere.start("work", "last")
        with killed_at_exit(second):
            outcome, worked = anywhere.finish(process), anywhere.finish(second)
    assert (outcome.code, worked.code) == (0, 0), outcome.said + worked.said
    assert "no worker is started" in outcome.err
    assert "is over (succeeded): there is nothing to do" in anywhere.cli("work", "last").err
    each_once(anywhere.folder / "out.jsonl", 100)
    assert len(server.requests) == 100, "something was asked twice"


def test_a_signal_lets_what_workers_have_in_flight_answer(project: Project, server: Server) -> None:
    server.latency = 0.1
    texts(project.folder / "rows.jsonl", 200)
    with _going(project, two_steps(project, limits=LIMITS), *OUT) as process:
        until(lambda: len(server.requests) >= 40, "the moment to stop", of=process)
        process.send_signal(signal.SIGINT)
        outcome = project.finish(process)
    assert outcome.code == 130, outcome.said
    assert "error" not in outcome.err
    well = project.rows("SELECT count(*) FROM nodes WHERE parent = 'row' AND status = 'succeeded'")[0][0]
    assert len(lines(project.folder / "out.jsonl")) == well
    assert 0 < well < 200
    resumed = project.cli("resume", "--quiet")
    assert resumed.code == 0, resumed.said
    each_once(project.folder / "out.jsonl", 200)
    assert len(server.requests) == 400, "something was asked twice"


def test_as_many_are_accepted_as_are_wanted_and_those_first_in_the_data(project: Project) -> None:
    file = project.flow(
        limits=LIMITS,
        steps={
            "each": {
                "foreach": "{{ range(60) | list }}",
                "accept": {"when": "{{ item % 3 == 0 }}", "count": 8},
                "prompt": "number {{ item }}",
            }
        },
        outputs={"each": "{{ each }}", "n": "{{ steps.each.counts.accepted }}"},
    )
    alone = project.json("run", file, "--db", "alone.db")
    split = project.json("run", file, "--workers", 2)
    assert split["outputs"] == alone["outputs"]
    assert split["outputs"]["n"] == 8


def test_too_many_failures_fail_the_step(project: Project, server: Server) -> None:
    file = project.flow(
        limits=LIMITS,
        steps={
            "each": {
                "foreach": "{{ range(400) | list }}",
                "prompt": "[status=400] [sleep=0.1] {{ item }}",
                "on_error": "continue",
                "max_failed": 10,
            }
        },
        outputs={"each": "{{ each }}"},
    )
    split = project.json("run", file, "--workers", 2, code=1)
    counts = split["steps"]["each"]["counts"]
    assert (counts["total"], counts["failed"] + counts["not_sent"]) == (400, 400)
    assert "`max_failed` allows 10" in split["steps"]["each"]["error"]["message"]
    assert len(server.requests) < 400


def test_what_cannot_be_split_is_said_and_executed_here(project: Project, server: Server) -> None:
    file = project.flow(steps={"a": {"prompt": "x"}}, outputs={"a": "{{ a }}"})
    outcome = project.cli("run", file, "--workers", 2)
    assert outcome.code == 0
    assert "no workers: there is no --over, and no foreach at the top of the graph" in outcome.err
    json_lines(project.folder / "rows.jsonl", [{"text": "a"}])
    outcome = project.cli("run", one_step(project), *OUT, "--workers", 2, "--db", "memory:")
    assert outcome.code == 0
    assert "no workers: the database is in memory" in outcome.err


def test_who_joins_a_run_that_was_started_without_workers_shares_its_rows(anywhere: Project, server: Server) -> None:
    server.latency = 0.1
    texts(anywhere.folder / "rows.jsonl", 300)
    process = anywhere.start("run", one_step(anywhere, limits={"max_concurrent": 4}), *OUT)
    with killed_at_exit(process):
        until(lambda: len(server.requests) >= 4, "its own work", of=process)
        joined = anywhere.start("work", "last")
        with killed_at_exit(joined):
            until(lambda: _pids(anywhere), "a worker with rows", of=joined)
            outcome, worked = anywhere.finish(process), anywhere.finish(joined)
    assert (outcome.code, worked.code) == (0, 0), outcome.said + worked.said
    assert "working at run" in worked.err
    each_once(anywhere.folder / "out.jsonl", 300)
    assert len(server.requests) == 300, "something was asked twice"


def test_when_no_worker_is_left_the_run_goes_on_by_itself(project: Project, server: Server) -> None:
    server.latency = 0.05
    texts(project.folder / "rows.jsonl", 120)
    with _going(project, one_step(project, limits=LIMITS), *OUT, workers=1) as process:
        until(lambda: len(server.requests) >= 20, "the moment to stop it", of=process)
        os.kill(_pids(project)[0], signal.SIGTERM)
        outcome = project.finish(process)
    assert outcome.code == 0, outcome.said
    assert "no worker is left: this process executes the rest" in outcome.err
    each_once(project.folder / "out.jsonl", 120)
    assert len(server.requests) == 120, "something was asked twice"


def test_a_worker_without_the_key_or_the_code_of_a_run_says_so_and_leaves(project: Project, server: Server) -> None:
    server.latency = 0.05
    texts(project.folder / "rows.jsonl", 40)
    project.write("own.py", "def own(text):\n    return text\n")
    file = project.flow(
        inputs={"text": {"type": "string"}},
        steps={
            "first": {"prompt": "{{ inputs.text }}"},
            "own": {"python": "./own.py:own", "with": {"text": "{{ first }}"}},
        },
        outputs={"answer": "{{ own }}"},
        providers={"keyed": {"type": "openai", "base_url": server.url, "api_key_env": "KEYED"}},
        defaults={"provider": "keyed", "model": "test-model"},
    )
    process = project.start("run", file, *OUT, "--workers", 0, KEYED="k-0123456789")
    with killed_at_exit(process):
        until(project.run_ids, "the run", of=process)
        keyless = project.run("work", "last")
        assert keyless.code == 2, keyless.said
        assert "no work at run" in keyless.err
        assert "KEYED" in keyless.err
        project.write("own.py", "def own(text):\n    return text * 2\n")
        other = project.run("work", "last", KEYED="k-0123456789")
        assert (other.code, "own.py is not here as the run has it" in other.err) == (2, True), other.said
        project.write("own.py", "def own(text):\n    return text\n")
        right, outcome = project.run("work", "last", KEYED="k-0123456789"), project.finish(process)
    assert (right.code, outcome.code) == (0, 0), right.said + outcome.said
    each_once(project.folder / "out.jsonl", 40)


def test_a_worker_waits_for_a_run_whose_process_was_killed_and_goes_on_with_who_resumes_it(
    project: Project, server: Server
) -> None:
    server.latency = 0.05
    texts(project.folder / "rows.jsonl", 120)
    process = project.start("run", one_step(project, limits=LIMITS), *OUT, "--workers", 0)
    with killed_at_exit(process):
        until(project.run_ids, "the run", of=process)
        worker = project.start("work", "last")
        with killed_at_exit(worker):
            until(lambda: len(server.requests) >= 30, "work", of=worker)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            resumed = project.cli("resume", "--quiet", "--workers", 0)
            worked = project.finish(worker)
    assert (resumed.code, worked.code) == (0, 0), resumed.said + worked.said
    each_once(project.folder / "out.jsonl", 120)
    assert len({seen.prompt for seen in server.requests}) == 120
    assert len(server.requests) <= 120 + IN_FLIGHT


def test_what_waits_for_a_worker_that_never_comes_is_executed_by_the_run_itself(
    project: Project, server: Server
) -> None:
    async def promise(run_id: RunId) -> None:
        store = await open_store(str(project.database), clock=SystemClock())
        assert await store.want_range(run_id)
        until(lambda: project.rows("SELECT * FROM ranges"), "rows for a worker")
        assert project.rows("SELECT count(*) FROM ranges WHERE status <> 'free'") == [(0,)]
        await store.close()

    server.latency = 0.1
    texts(project.folder / "rows.jsonl", 150)
    process = project.start("run", one_step(project, limits={"max_concurrent": 4}), *OUT)
    with killed_at_exit(process):
        until(lambda: len(server.requests) >= 4, "its own work", of=process)
        asyncio.run(promise(RunId(project.run_ids()[0])))
        outcome = project.finish(process)
    assert outcome.code == 0, outcome.said
    each_once(project.folder / "out.jsonl", 150)
    assert len(server.requests) == 150


def test_what_workers_did_is_reused_by_a_resume_without_them_and_the_other_way_round(project: Project) -> None:
    project.write(
        "own.py",
        """
        from pathlib import Path

        def use(all, rows, one):
            with open("calls.txt", "a") as file:
                file.write(f"{one}\\n")
            return [one, len(all), len(rows), all[one % 3]]

        def check(done):
            if not Path("ready").exists():
                raise ValueError("not ready")
            return done
        """,
    )
    each = {
        "foreach": "{{ range(12) | list }}",
        "python": "./own.py:use",
        "with": {"all": "{{ kinds }}", "rows": "{{ steps.kinds.rows }}", "one": "{{ item }}"},
    }
    check = {"python": "./own.py:check", "with": {"done": "{{ each | length }}"}}
    kinds = {"foreach": [1, 2, 3], "prompt": "kind {{ item }}"}
    file = project.flow(
        limits=LIMITS, steps={"kinds": kinds, "each": each, "check": check}, outputs={"each": "{{ each }}"}
    )
    for first, then in ((("--workers", 1), ()), ((), ("--workers", 1))):
        project.json("run", file, *first, code=1)
        project.write("ready", "")
        done = project.json("resume", *then)
        assert done["outputs"]["each"][4][:3] == [4, 3, 3]
        (project.folder / "ready").unlink()
        calls = (project.folder / "calls.txt").read_text().split()
        assert sorted(map(int, calls)) == list(range(12)), "something was executed twice"
        (project.folder / "calls.txt").unlink()


def test_what_items_save_is_written_once_by_the_process_that_has_the_run(project: Project, server: Server) -> None:
    file = project.flow(
        limits=LIMITS,
        steps={
            "each": {
                "foreach": ["a", "b", "a b", "b"],
                "as": "name",
                "prompt": "{{ name }} {{ index }}",
                "save": "out/{{ name | slug }}.txt",
                "on_error": "continue",
            }
        },
        outputs={"each": "{{ each }}"},
    )
    split = project.json("run", file, "--workers", 1)
    each = split["outputs"]["each"]
    assert each.count(None) == 1, "two items have one path, which the second one cannot have"
    saved = {path.name: path.read_text() for path in (project.folder / "out").iterdir()}
    assert saved == {"a.txt": each[0], "a-b.txt": each[2], "b.txt": each[1] or each[3]}
    assert split["steps"]["each"]["counts"]["failed"] == 1


def test_a_run_stops_at_its_error_rate_whichever_worker_has_the_failures(project: Project, server: Server) -> None:
    json_lines(project.folder / "rows.jsonl", ({"text": f"[status=400] [sleep=0.1] {n}"} for n in range(400)))
    file = two_steps(project, limits={**LIMITS, "stop_at_error_rate": "20%"})
    outcome = project.cli("run", file, *OUT, "--workers", 2)
    assert outcome.code == 1, outcome.said
    assert "more than `stop_at_error_rate` allows" in outcome.err
    assert len(server.requests) < 400
