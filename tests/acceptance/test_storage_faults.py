"""What a run does when its database cannot be used (P8)."""

from __future__ import annotations

import contextlib
import random
import re
import shlex
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowllm.storage.sqlite import mounts
from tests.support.project import Outcome, Project, prompts, until
from tests.support.replies import Reply, echo, prompt_of
from tests.support.server import Server


@contextlib.contextmanager
def _locked(project: Project) -> Iterator[sqlite3.Connection]:
    """Another process's write transaction."""
    with contextlib.closing(
        sqlite3.connect(project.database, isolation_level=None, check_same_thread=False)
    ) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield connection


def test_a_newer_database_is_refused_untouched(project: Project, server: Server) -> None:
    project.json("run", project.flow(steps=prompts(a="a")))
    with contextlib.closing(sqlite3.connect(project.database)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999_from_the_future'")
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = project.database.read_bytes()
    for words in (("run", "flow.yaml"), ("resume",), ("runs",), ("show", "last"), ("db", "upgrade")):
        outcome = project.cli(*words)
        assert outcome.code == 2, outcome.said
        assert "made by a newer flowllm" in outcome.err
        assert "Upgrade flowllm" in outcome.err
        assert "Traceback" not in outcome.err
    status = project.cli("db", "status")
    assert status.code == 2
    assert status.out.endswith("made by a newer flowllm, and this one does not touch it: upgrade flowllm\n")
    assert project.database.read_bytes() == before
    assert len(server.requests) == 1


def test_a_locked_database_fails_no_step(project: Project, server: Server) -> None:
    """Another process holds the write lock from the first request on, for a second and a half."""
    project.json("run", project.flow(name="warm.yaml", steps=prompts(a="warm")))
    server.requests.clear()
    locks: list[contextlib.AbstractContextManager[sqlite3.Connection]] = []

    def script(body: dict[str, Any], n: int) -> Reply:
        if n == 2:  # the first of this run
            lock = _locked(project)
            lock.__enter__()
            locks.append(lock)
            threading.Timer(1.5, lock.__exit__, (None, None, None)).start()
        return echo(body, n)

    server.script = lambda body, n: script(body, n + 1)
    file = project.flow(steps=prompts(**{f"s{n}": f"step {n}" for n in range(20)}, end="end {{ s0 }} {{ s19 }}"))
    result = project.json("run", file)
    assert locks
    assert result["status"] == "succeeded"
    assert result["requests"]["sent"] == 21
    assert len(server.requests) == 21


def test_a_folder_that_cannot_be_made(project: Project, server: Server) -> None:
    (project.folder / "file").write_text("no folder")
    outcome = project.cli("run", project.flow(steps=prompts(a="a")), "--db", "file/runs.db")
    assert outcome.code in {1, 2}, outcome.said
    assert "file/runs.db" in outcome.err
    assert "Traceback" not in outcome.err
    assert server.requests == []


def test_a_folder_that_is_read_only(project: Project, server: Server) -> None:
    folder = project.folder / "fixed"
    folder.mkdir(mode=0o500)
    outcome = project.run("run", project.flow(steps=prompts(a="a")), "--db", "fixed/runs.db", humble=True)
    assert outcome.code in {1, 2}, outcome.said
    assert "Traceback" not in outcome.err
    assert server.requests == []


@pytest.mark.parametrize("content", [b"this is no database at all, " * 200, b"SQLite format 3\0" + b"\xff" * 8000])
def test_a_file_that_is_no_database(content: bytes, project: Project, server: Server) -> None:
    project.database.parent.mkdir()
    project.database.write_bytes(content)
    outcome = project.cli("run", project.flow(steps=prompts(a="a")))
    assert outcome.code in {1, 2}, outcome.said
    assert "flowllm.db" in outcome.err
    assert "Traceback" not in outcome.err
    assert "bug" not in outcome.err
    assert project.database.read_bytes() == content
    assert server.requests == []


def test_an_answer_changed_on_disk_is_asked_again(project: Project, server: Server) -> None:
    """Its hash is looked at when it is read."""
    file = project.flow(steps=prompts(a="a"), outputs={"a": "{{ a }}"})
    first = project.json("run", file)["outputs"]
    with contextlib.closing(sqlite3.connect(project.database)) as connection:
        connection.execute("UPDATE memo SET answer = replace(answer, 'answer ', 'wrong ')")
        connection.commit()
    again = project.json("run", file)
    assert again["outputs"] == first
    assert again["requests"]["sent"] == 1


BIG = 200_000
"""Bytes that one answer takes on the disk: a few of them fill it."""


def test_a_full_disk_stops_the_run_and_resume_completes_it(project: Project, server: Server) -> None:
    """One request at a time: after the first answer that cannot be kept no other is sent."""
    server.script = lambda body, n: Reply(text=f"{prompt_of(body).split()[0]} " + random.Random(n).randbytes(BIG).hex())
    steps = {f"s{n}": {"prompt": f"s{n} {{{{ s{n - 1} | length }}}}" if n else "s0"} for n in range(12)}
    file = project.flow(steps=steps, outputs={"last": "{{ s11 | length }}"})
    outcome = project.run("run", file, largest_file=8 * BIG)
    assert outcome.code not in {0, 2}, outcome.said
    assert "Traceback" not in outcome.err
    assert "bug" not in outcome.err
    assert "resume" in outcome.err
    assert "flowllm.db cannot be used" in outcome.err
    sent = len(server.requests)
    kept = project.rows("SELECT count(*) FROM nodes WHERE status = 'succeeded'")[0][0]
    assert 0 < kept < 12
    assert sent <= kept + 1, "more was sent after an answer could not be kept"
    (run_id,) = project.run_ids()
    assert project.json("show", run_id)["status"] == "interrupted"
    resumed = project.json("resume", run_id)
    assert resumed["status"] == "succeeded"
    assert 12 - sent <= len(server.requests) - sent <= 12 - kept
    until(lambda: server.in_flight == 0)


def _resumed(project: Project, outcome: Outcome) -> Outcome:
    """The command that it printed, carried out."""
    (command,) = re.findall(r"goes on with: flowllm (resume .*)", outcome.err)
    return project.cli(*shlex.split(command), "--json")


@pytest.mark.parametrize("happening", ["removed", "moved", "replaced"])
def test_a_database_that_goes_away_stops_the_run_and_nothing_is_paid_twice(
    happening: str, project: Project, server: Server
) -> None:
    """At the tenth of forty requests, of which five are out at a time."""
    folder, other = project.database.parent, project.folder / "other"

    def happen() -> None:
        if happening == "removed":
            shutil.rmtree(folder)
        elif happening == "moved":
            folder.rename(other)
        else:
            shutil.copy(project.database, other)
            other.replace(project.database)

    def script(body: dict[str, Any], n: int) -> Reply:
        if len(server.requests) == 10:
            happen()
        return echo(body, n)

    server.script = script
    steps = {"each": {"prompt": "item {{ item }}", "foreach": list(range(40))}}
    file = project.flow(steps=steps, limits={"max_concurrent": 5}, outputs={"n": "{{ each | length }}"})
    outcome = project.cli("run", file, "--quiet")
    assert outcome.code == 1, outcome.said
    assert f"was {happening}" in outcome.err
    assert "nothing more is sent" in outcome.err
    assert len(server.requests) < 20
    server.script = echo
    resumed = _resumed(project, outcome)
    assert resumed.code == 0, resumed.said
    assert resumed.json["outputs"] == {"n": 40}
    assert len(server.requests) == len({seen.prompt for seen in server.requests}) == 40


def test_answers_that_find_the_disk_full_are_kept_and_no_resume_pays_for_them_again(
    project: Project, server: Server
) -> None:
    """Ten large answers at a time; the limit is there for the first resume too."""
    server.script = lambda body, n: Reply(text=f"{prompt_of(body)} {random.Random(n).randbytes(BIG // 2).hex()}")
    steps = {"each": {"prompt": "item {{ item }}", "foreach": list(range(60))}}
    file = project.flow(steps=steps, limits={"max_concurrent": 10}, outputs={"n": "{{ each | length }}"})
    outcome = project.run("run", file, "--quiet", largest_file=8 * BIG)
    assert outcome.code == 1, outcome.said
    kept = list(
        project.database.parent.glob("*.spill-*")
    )  # none where all that was out found room after the log was emptied
    assert ("are kept in" in outcome.err) == bool(kept), outcome.said
    sent = len(server.requests)
    assert 0 < sent < 60
    again = project.run("resume", "--quiet", largest_file=project.database.stat().st_size + BIG // 2)
    assert again.code == 1, again.said
    assert len(server.requests) < 60
    assert len(server.requests) == len({seen.prompt for seen in server.requests})
    resumed = _resumed(project, outcome)
    assert resumed.code == 0, resumed.said
    assert resumed.json["outputs"] == {"n": 60}
    assert len(server.requests) == len({seen.prompt for seen in server.requests}) == 60
    assert list(project.database.parent.glob("*.spill-*")) == []


def test_on_a_network_file_system_nothing_is_begun_and_doctor_tells(
    project: Project, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "mountinfo"
    told.write_text(f"31 22 0:50 / {project.database.parent} rw - nfs4 server:/home rw\n")
    monkeypatch.setattr(mounts, "MOUNTS", told)
    for command in (["run", str(project.flow(steps=prompts(a="a")))], ["doctor"]):
        refused = project.cli(*command)
        assert refused.code == (1 if command == ["doctor"] else 2), refused.said
        assert "network file system (nfs4)" in refused.said
        assert "--db postgresql://" in refused.said
    assert server.requests == []
    assert not project.database.exists()
