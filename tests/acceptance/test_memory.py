"""Memory does not grow with the data (P11): peaks of whole processes, as the kernel counts them."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from flowllm.storage.sqlite.connection import CACHE_KIB
from tests.support.dataset import each_once, texts
from tests.support.project import Project, killed_at_exit, prompts, until

MOST = 200.0
"""MB that 50,000 rows may take."""
GROWTH = 1.10
CACHE = CACHE_KIB / 2**10
"""MB of the database's pages that a writer keeps: a short run does not fill them."""
IN_FLIGHT = 20

_MEASURED = """
import pathlib, runpy, sys
told = pathlib.Path(sys.argv.pop(1))
try:
    runpy.run_module("flowllm", run_name="__main__", alter_sys=True)
finally:
    told.write_text(pathlib.Path("/proc/self/status").read_text())
"""


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What a process took."""

    peak: float
    """MB, resident."""
    seconds: float

    def told(self, rows: int) -> str:
        return f"{rows:,} rows: {self.peak:.0f} MB, {self.seconds:.0f} s, {rows / self.seconds:,.0f} rows/s"


def _measured(project: Project, *words: object) -> Taken:
    """Run a command to its end; it must succeed."""
    told = project.folder / "status"
    began = time.monotonic()
    outcome = subprocess.run(
        [sys.executable, "-c", _MEASURED, told, *map(str, words), "--quiet"],
        cwd=project.folder,
        env=project.environ,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr
    return Taken(peak=_kilobytes(told, "VmHWM") / 1024, seconds=time.monotonic() - began)


def _kilobytes(status: Path, name: str) -> int:
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(f"{name}:"))


def _two_steps(project: Project) -> str:
    return project.flow(
        inputs={"text": {"type": "string"}},
        providers={"sim": {"type": "simulated", "latency": "0ms"}},
        defaults={"provider": "sim", "model": "m"},
        limits={"max_concurrent": IN_FLIGHT},
        steps=prompts(first="first of {{ inputs.text }}", second="second of {{ inputs.text }}: {{ first }}"),
        outputs={"answer": "{{ second }}"},
    )


def _by_over(project: Project) -> tuple[str, ...]:
    file = project.flow(
        inputs={"text": {"type": "string"}},
        steps={"same": {"value": "{{ inputs.text }}"}},
        outputs={"same": "{{ same }}"},
    )
    return ("run", file, "--over", "rows.jsonl", "--output", "out.jsonl", "--overwrite")


def _by_foreach(project: Project) -> tuple[str, ...]:
    file = project.flow(steps={"same": {"foreach": {"file": "rows.jsonl"}, "value": "{{ item.text }}"}})
    return ("run", file)


WAYS = {"over": _by_over, "foreach": _by_foreach}


@pytest.mark.parametrize("way", WAYS)
def test_computed_rows_take_the_memory_of_a_window(way: str, project: Project) -> None:
    """Ten times the rows, and hardly a byte for each: what is allowed is the unrest of the allocator, and the pages of the
    database that a writer keeps, up to its cache's size."""
    words, few, many = WAYS[way](project), 400, 4000
    texts(project.folder / "rows.jsonl", few)
    first, before = _measured(project, *words), project.database.stat().st_size
    texts(project.folder / "rows.jsonl", many)
    second, after = _measured(project, *words), project.database.stat().st_size
    assert project.rows("SELECT count(*) FROM nodes WHERE place IS NOT NULL") == [(few + many,)]
    pages = min((after - before) / 2**20, CACHE)
    assert second.peak <= first.peak * GROWTH + 4 + pages, (
        f"{pages:.1f} MB of pages; {first.told(few)}; {second.told(many)}"
    )


# the large ones


@pytest.mark.soak
@pytest.mark.usefixtures("unhurried")
def test_50_000_rows_through_two_steps(project: Project) -> None:
    file, taken = _two_steps(project), {}
    for count in (10_000, 50_000):
        texts(project.folder / f"rows{count}.jsonl", count)
        words = ("--over", f"rows{count}.jsonl", "--output", f"out{count}.jsonl", "--db", f"{count}.db")
        taken[count] = _measured(project, "run", file, *words)
        print(taken[count].told(count))
        each_once(project.folder / f"out{count}.jsonl", count)
    assert taken[50_000].peak < MOST
    assert taken[50_000].peak <= taken[10_000].peak * GROWTH + CACHE


@pytest.mark.soak
@pytest.mark.usefixtures("unhurried")
def test_50_000_rows_killed_on_the_way(project: Project) -> None:
    count, kills, draw = 50_000, 3, random.Random(1)
    texts(project.folder / "rows.jsonl", count)
    out = project.folder / "out.jsonl"
    given: tuple[str, ...] = ("run", _two_steps(project), "--over", "rows.jsonl", "--output", "out.jsonl")
    for kill in range(kills):
        wanted = draw.randint(count * kill // (kills + 1), count * (kill + 1) // (kills + 1))
        process = project.start(*given, "--quiet")
        with killed_at_exit(process):
            _until_rows(project, wanted, process)
            assert process.poll() is None
        given = ("resume",)
    taken = _measured(project, *given)
    each_once(out, count)
    status = dict(project.rows("SELECT status, count(*) FROM attempts GROUP BY status"))
    assert status["succeeded"] == 2 * count
    assert status.get("unknown", 0) <= IN_FLIGHT * kills
    assert sum(status.values()) - 2 * count == status.get("unknown", 0)
    print(
        f"{status.get('unknown', 0)} requests repeated in {kills} kills; the last run attempt took {taken.peak:.0f} MB"
    )
    assert taken.peak < MOST


def _until_rows(project: Project, wanted: int, process: subprocess.Popen[str]) -> None:
    """Asked once a second at most; a patience of its own, since this takes minutes."""
    out = project.folder / "out.jsonl"
    until(out.exists, "the file", of=process)
    with out.open("rb") as file:
        seen = 0
        while seen < wanted:
            assert process.poll() is None, "the run ended before it could be killed"
            block = file.read()
            seen += block.count(b"\n")
            if not block:
                time.sleep(0.1)


@pytest.mark.soak
@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize("way", WAYS)
def test_a_million_computed_rows(way: str, project: Project) -> None:
    words, taken = WAYS[way](project), {}
    for count in (10_000, 1_000_000):
        texts(project.folder / "rows.jsonl", count)
        taken[count] = _measured(project, *words, "--db", f"{count}.db")
        print(taken[count].told(count))
        if way == "over":
            assert sum(1 for _ in (project.folder / "out.jsonl").open("rb")) == count
    assert taken[1_000_000].peak <= taken[10_000].peak * GROWTH + CACHE
