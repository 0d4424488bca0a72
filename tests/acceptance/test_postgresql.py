"""The command line on a PostgreSQL database: the same commands, and no password anywhere."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

from flowllm.core.clock import SystemClock
from flowllm.core.errors import UsageError
from flowllm.storage.open import pulse_of
from flowllm.ui.database import Database
from tests.support.postgres import ask, database
from tests.support.project import Project, prompts, until
from tests.support.server import Server

pytestmark = pytest.mark.anyio
SECRET = "canary-4711"
STEPS = prompts(first="first of {{ inputs.topic }}", second="second of {{ first }}")


@pytest.fixture
def url() -> Iterator[str]:
    """With a password, which the server does not ask for."""
    with database() as found:
        parts = urlsplit(found)
        user, _, hosts = parts.netloc.rpartition("@")
        yield urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:{SECRET}@{hosts}"))


def flow(project: Project) -> str:
    return project.flow(inputs={"topic": "tea"}, steps=STEPS, outputs={"answer": "{{ second }}"})


def everything(url: str) -> str:
    """All that is on record, and in files."""
    tables = [name for (name,) in ask(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
    return "\n".join(str(ask(url, f"SELECT to_json({name})::text FROM {name}")) for name in tables)


def test_every_command_and_no_password_in_what_it_says(project: Project, server: Server, url: str) -> None:
    project.use(url)
    done = project.cli("run", flow(project), "--events", "events.jsonl", "--json")
    assert done.code == 0, done.said
    run = json.loads(done.out)["run_id"]
    said = [done.said, (project.folder / "events.jsonl").read_text()]
    for words in (
        ("runs",),
        ("show", run),
        ("show", run, "second"),
        ("why", run, "second"),
        ("watch", run),
        ("plan", "flow.yaml"),
        ("graph", "flow.yaml", "--run", run),
        ("export", run, "second", "--format", "json"),
        ("failed", run),
        ("diff", run, run),
        ("report", run, "--output", "run.html"),
        ("db", "status"),
        ("db", "status", "--json"),
        ("db", "upgrade"),
        ("cache", "stats"),
        ("cache", "prune", "--older-than", "1d", "--yes"),
        ("cache", "clear", "--yes"),
        ("resume", run, "--db", url),
        ("runs", "delete", run),
    ):
        found = project.cli(*words)
        assert found.code in {0, 2}, found.said
        assert found.code == 0 or words[0] == "resume", found.said
        said.append(found.said)
    assert "removed 2 stored answers" in "\n".join(said)
    said += [project.cli("doctor").said, everything(url)]
    said += [path.read_text(errors="replace") for path in project.folder.rglob("*") if path.is_file()]
    assert SECRET not in "\n".join(said)
    assert project.json("runs") == []


def test_one_that_was_interrupted_is_resumed_by_the_command_that_is_told(
    project: Project, server: Server, url: str
) -> None:
    server.latency = 0.2
    process = project.start("run", flow(project), "--db", url)
    until(lambda: len(server.requests) == 1, "the first request")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    shown = url.replace(f":{SECRET}", "")
    assert "flowllm resume" in said
    assert shown in said
    assert SECRET not in said
    again = project.cli("resume", "--db", shown)
    assert again.code == 0, again.said
    assert len(server.requests) == 2


def test_a_database_without_tables_is_made_by_what_writes_alone(project: Project, server: Server) -> None:
    with database(empty=True) as url:
        project.use(url)
        assert project.cli("runs").out == ""
        named = project.cli("runs", "--db", url)
        assert (named.code, "there is no database" in named.err) == (2, True), named.said
        assert ask(url, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]
        assert project.cli("run", flow(project)).code == 0
        assert len(project.json("runs")) == 1


def test_a_server_that_cannot_be_reached_is_told_in_two_lines(project: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    found = project.cli("runs", "--db", f"postgresql://me:{SECRET}@127.0.0.1:{port}/flow")
    assert found.code == 1, found.said
    assert f"error: The database postgresql://me@127.0.0.1:{port}/flow cannot be reached" in found.err
    assert SECRET not in found.err
    assert "Traceback" not in found.err


def test_the_page_hears_of_what_is_written(project: Project, server: Server, url: str) -> None:
    pulse = pulse_of(url)
    before = pulse.beat()
    assert before is not None
    project.use(url)
    assert project.cli("run", flow(project)).code == 0
    after = pulse.beat()
    assert after is not None
    assert after[0] == before[0]
    assert after[1] != before[1]
    pulse.close()
    with database(empty=True) as empty:
        nothing = pulse_of(empty)
        assert nothing.beat() is not None
        nothing.close()


async def test_a_page_over_an_older_database_says_what_brings_it_up_to_date(url: str) -> None:
    ask(url, "UPDATE alembic_version SET version_num = '0010'")
    shown = Database(url, clock=SystemClock())
    with pytest.raises(UsageError, match="made by an older flowllm") as caught:
        await shown.store()
    assert "flowllm db upgrade --db" in caught.value.hint
    assert "backup" not in caught.value.hint
    assert SECRET not in f"{caught.value.message} {caught.value.hint} {shown.option}"
    await shown.close()


def test_what_is_installed_without_the_driver_says_how_to_get_it(project: Project, tmp_path: Path) -> None:
    blocked = tmp_path / "asyncpg.py"
    blocked.write_text("raise ImportError('not here')\n")
    found = project.run(
        "runs", "--db", "postgresql://h/flow", anew=True, PYTHONPATH=f"{tmp_path}:{project.environ['PYTHONPATH']}"
    )
    assert found.code == 2, found.said
    assert 'pip install "flowllm[postgres]"' in found.err
