"""Standard input through the command line, as real processes: rows as they come, kill -9, resumes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.project import Project, until

STEPS = {"twice": {"value": "{{ inputs.n }}{{ inputs.n }}"}}
GRAPH = {"inputs": {"n": {"type": "string"}}, "outputs": {"twice": "{{ twice }}"}}
OVER = ("run", "flow.yaml", "--over", "-", "--output", "out.jsonl")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path)
    project.flow(steps=STEPS, **GRAPH)
    return project


@contextlib.contextmanager
def _fed(project: Project, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """The command, with its standard input held by the test."""
    process = subprocess.Popen(
        [sys.executable, "-m", "flowllm", *words],
        cwd=project.folder,
        env=project.environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _feed(process: subprocess.Popen[bytes], data: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(data)
    process.stdin.flush()


def _written(project: Project) -> list[dict[str, Any]]:
    path = project.folder / "out.jsonl"
    lines = path.read_bytes().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def _indices(project: Project) -> list[int]:
    return sorted(line["index"] for line in _written(project))


def _spool(project: Project) -> list[str]:
    return sorted(path.name for path in (project.database.parent / "spool").iterdir())


def test_rows_go_through_before_the_input_ends(project: Project) -> None:
    with _fed(project, *OVER) as process:
        for n in range(3):
            _feed(process, b'{"n": "%d"}\n' % n)
            until(lambda n=n: _indices(project) == list(range(n + 1)), "the row", of=process)  # type: ignore[misc]
        _, err = process.communicate(b'{bad\n{"n": "4"}')
    assert process.returncode == 1, err
    assert b"standard input:4: not JSON" in err
    assert _indices(project) == [0, 1, 2, 4]
    assert _written(project)[0]["outputs"] == {"twice": "00"}


def test_killed_in_the_middle_of_the_input(project: Project) -> None:
    with _fed(project, *OVER) as process:
        _feed(process, b'{"n": "0"}\n{"n": "1"}\n{"n": "')
        until(lambda: _indices(project) == [0, 1], "two rows", of=process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    [part] = _spool(project)
    assert part.endswith(".part")
    outcome = project.cli("resume")
    assert outcome.code == 1, outcome.said
    assert "standard input was not read to its end before the run stopped" in outcome.err
    assert "start a new run with the same input" in outcome.err
    assert _indices(project) == [0, 1]
    with _fed(project, *OVER, "--overwrite") as process:
        _, err = process.communicate(b'{"n": "0"}\n{"n": "1"}\n{"n": "2"}\n')
    assert process.returncode == 0, err
    assert _indices(project) == [0, 1, 2]


def test_a_resume_reads_the_copy(project: Project) -> None:
    """It has no standard input of its own."""
    step = {
        "shell": 'test -e "go$N" && echo "$N"',
        "env": {"N": "{{ item.n }}"},
        "foreach": {"file": "-", "format": "csv"},
    }
    project.flow(steps={"each": step}, outputs={"all": "{{ each }}"})
    with _fed(project, "run", "flow.yaml") as process:
        _, err = process.communicate(b"n\n1\n2\n3\n")
    assert process.returncode == 1, err
    assert b"3 of 3 items failed" in err
    for n in (1, 2, 3):
        project.write(f"go{n}", "")
    result = project.json("resume")
    assert result["status"] == "succeeded"
    assert [line.strip() for line in result["outputs"]["all"]] == ["1", "2", "3"]


def test_a_limit_stops_reading(project: Project) -> None:
    with _fed(project, *OVER, "--limit", "2") as process:
        _feed(process, b'{"n": "0"}\n{"n": "1"}\n{"n": "2"}\n')
        assert process.wait(60) == 0
    assert _indices(project) == [0, 1]


@pytest.mark.soak
@pytest.mark.parametrize("count", [20_000, 80_000])
def test_memory_stays_flat(count: int, project: Project) -> None:
    with _fed(project, *OVER, "--quiet") as process:
        assert process.stderr is not None
        reader = threading.Thread(target=process.stderr.read)
        reader.start()
        for start in range(0, count, 1000):
            _feed(process, b"".join(b'{"n": "%d"}\n' % n for n in range(start, start + 1000)))
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None  # `communicate` flushes it
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        reader.join()
    assert process.returncode == 0
    assert len(_written(project)) == count
    assert usage.ru_maxrss < 200 * 1024
