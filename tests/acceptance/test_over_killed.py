"""`--over` under kill -9 at its worst moments, signals and full disks: every row comes out once, and little is asked twice.

Kills at any moment are in test_storms.py.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.dataset import each_once, json_lines, lines, texts
from tests.support.project import HANG, Project, killed_at_exit, prompts, until
from tests.support.replies import Reply, prompt_of
from tests.support.server import Server
from tests.support.warm import DIES

IN_FLIGHT = 20
OUT = ("--over", "rows.jsonl", "--output", "out.jsonl")


def _two_steps(project: Project) -> str:
    return project.flow(
        inputs={"text": {"type": "string"}},
        limits={"max_concurrent": IN_FLIGHT},
        steps=prompts(first="first of {{ inputs.text }}", second="second of {{ inputs.text }}: {{ first }}"),
        outputs={"answer": "{{ second }}"},
    )


# kill -9 between two things that belong together


@pytest.mark.parametrize(
    ("point", "old_stands"),
    [
        ("lines-half-written:1", True),
        ("before-rename:1", True),
        ("after-rename:1", False),
        ("lines-half-written:2", False),
        ("lines-written:2", False),
    ],
)
def test_killed_before_it_is_on_record_how_far_the_file_is(
    point: str, old_stands: bool, project: Project, server: Server
) -> None:
    server.latency = 0.05
    texts(project.folder / "rows.jsonl", 40)
    out = project.write("out.jsonl", "old\n")
    outcome = project.run("run", _one_step(project), *OUT, "--overwrite", **{DIES: point})
    assert outcome.code == -signal.SIGKILL, outcome.said
    assert (out.read_text() == "old\n") == old_stands
    outcome = project.cli("resume", "--quiet")
    assert outcome.code == 0, outcome.said
    each_once(out, 40)
    assert not list(project.folder.glob(".flowllm-*")), "the file beside it is left"
    assert len({seen.prompt for seen in server.requests}) == 40
    assert len(server.requests) <= 40 + IN_FLIGHT


# signals


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_lets_rows_in_flight_answer_and_a_resume_completes(
    number: int, code: int, project: Project, server: Server
) -> None:
    server.latency = 0.05
    texts(project.folder / "rows.jsonl", 60)
    process = project.start("run", _two_steps(project), *OUT)
    with killed_at_exit(process):
        until(lambda: len(server.requests) >= 60, "the moment to stop", of=process)
        process.send_signal(number)
        outcome = project.finish(process)
    assert outcome.code == code, outcome.said
    out = project.folder / "out.jsonl"
    well = project.rows("SELECT count(*) FROM nodes WHERE parent = 'row' AND status = 'succeeded'")[0][0]
    assert len(lines(out)) == well, "what was done by then is in the file"
    assert 0 < well < 60
    (command,) = re.findall(r"^resume it with: (.*)$", outcome.err, re.MULTILINE)
    resumed = project.cli(*shlex.split(command)[1:], "--quiet")
    assert resumed.code == 0, resumed.said
    each_once(out, 60)
    assert len(server.requests) == 120, "something was asked twice"


# standard input and output


def _piped(project: Project, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "flowllm", *words],
        cwd=project.folder,
        env=project.environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    )


def _one_step(project: Project) -> str:
    return project.flow(
        inputs={"text": {"type": "string"}},
        limits={"max_concurrent": IN_FLIGHT},
        steps=prompts(first="first of {{ inputs.text }}"),
        outputs={"answer": "{{ first }}"},
    )


def test_rows_of_a_slow_producer_are_asked_as_they_come(project: Project, server: Server) -> None:
    out = project.folder / "out.jsonl"
    process = _piped(project, "run", _one_step(project), "--over", "-", "--output", "out.jsonl")
    with killed_at_exit(process):
        assert process.stdin is not None
        for number in range(3):
            process.stdin.write(f'{{"text": "row {number}"}}\n')
            until(lambda number=number: len(server.requests) == number + 1, f"row {number}", of=process)
            until(lambda number=number: out.exists() and len(lines(out)) == number + 1, "its line", of=process)
        _, said = process.communicate(timeout=HANG)
    assert process.returncode == 0, said
    each_once(out, 3)


def test_standard_input_is_there_for_a_resume(project: Project, server: Server) -> None:
    process = _piped(project, "run", _one_step(project), "--over", "-", "--output", "out.jsonl")
    with killed_at_exit(process):
        _, said = process.communicate('{"text": "a"}\n{"text": "b [status=400]"}\n{"text": "c"}\n', timeout=HANG)
    assert process.returncode == 1, said
    assert len(lines(project.folder / "out.jsonl")) == 2
    server.script.mended = True
    outcome = project.cli("resume", "--quiet")
    assert outcome.code == 0, outcome.said
    each_once(project.folder / "out.jsonl", 3)
    assert len(server.requests) == 4


def test_lines_to_standard_output_are_all_there_is_on_it(project: Project, server: Server) -> None:
    json_lines(project.folder / "rows.jsonl", [{"text": "a"}, {"text": "b [status=400]"}, {"text": "c"}])
    words = ("--over", "rows.jsonl", "--output", "-")
    outcome = project.run("run", _one_step(project), *words)
    assert outcome.code == 1, outcome.said
    (project.folder / "printed").write_text(outcome.out)
    assert sorted(line["index"] for line in lines(project.folder / "printed")) == [0, 2]
    server.script.mended = True
    outcome = project.run("resume")
    assert outcome.code == 0, outcome.said
    (project.folder / "printed").write_text(outcome.out)
    assert [line["index"] for line in lines(project.folder / "printed")] == [1]


def test_a_reader_that_leaves_stops_the_run(project: Project, server: Server) -> None:
    """As `| head -1` does."""
    server.latency = 0.02
    texts(project.folder / "rows.jsonl", 1000)
    process = project.start("run", _one_step(project), "--over", "rows.jsonl", "--output", "-", "--quiet")
    with killed_at_exit(process):
        assert process.stdout is not None
        assert process.stderr is not None
        assert '"index"' in process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
        assert process.wait(HANG) != 0
    assert "Traceback" not in said
    assert "bug" not in said
    assert len(server.requests) < 1000


# full disks


def test_standard_output_that_is_full_is_told(project: Project) -> None:
    texts(project.folder / "rows.jsonl", 3)
    words = ("run", _one_step(project), "--over", "rows.jsonl", "--output", "-", "--quiet")
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "flowllm", *words],
            cwd=project.folder,
            env=project.environ,
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert ended.returncode not in {0, 2}
    assert "standard output cannot be written: No space left on device" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "bug" not in ended.stderr


@contextlib.contextmanager
def _small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of that size; the test is skipped where none can be had."""
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("a file system can be mounted by root only")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_under_the_file_stops_the_run_and_a_resume_completes_it(project: Project, server: Server) -> None:
    server.script = lambda body, _: Reply(text=f"{prompt_of(body)} " + "x" * 20_000, delay=0.05)
    rows = 300
    texts(project.folder / "rows.jsonl", rows)
    with _small_disk(project.folder / "small", "1m") as small:
        out = small / "out.jsonl"
        outcome = project.run("run", _one_step(project), "--over", "rows.jsonl", "--output", out, "--quiet")
        assert outcome.code not in {0, 2}, outcome.said
        assert f"{out} cannot be written" in outcome.err
        assert "resume" in outcome.err
        assert "Traceback" not in outcome.err
        sent = len(server.requests)
        assert sent < rows, "it went on although nothing could be written"
        kept = project.rows("SELECT count(*) FROM nodes WHERE parent = 'row' AND status = 'succeeded'")[0][0]
        assert kept == sent, "an answer that was paid for is lost"
        assert project.json("show", "last")["status"] == "interrupted"
        subprocess.run(["mount", "-o", "remount,size=40m", small], check=True)
        outcome = project.cli("resume", "--quiet")
        assert outcome.code == 0, outcome.said
        each_once(out, rows)
    assert len(server.requests) == rows


def test_a_write_that_fails_stops_the_run_at_once(
    project: Project, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without root: the disk says that it is full when the lines are to be put on it."""
    rows = 400
    texts(project.folder / "rows.jsonl", rows)
    file = _one_step(project)
    server.latency = 0.05

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        outcome = project.cli("run", file, *OUT, "--quiet")
    assert outcome.code not in {0, 2}, outcome.said
    assert "No space left on device" in outcome.err
    sent = len(server.requests)
    assert sent <= 64, "rows were started after the first line could not be written"
    outcome = project.cli("resume", "--quiet")
    assert outcome.code == 0, outcome.said
    each_once(project.folder / "out.jsonl", rows)
    assert len(server.requests) == rows


def test_a_full_disk_under_the_database_loses_nothing_that_was_answered(project: Project, server: Server) -> None:
    rows, size = 60, 50_000
    server.script = lambda body, _: Reply(text=f"{prompt_of(body)} " + "x" * size)
    texts(project.folder / "rows.jsonl", rows)
    outcome = project.run("run", _one_step(project), *OUT, "--max-concurrent", "1", "--quiet", largest_file=30 * size)
    assert outcome.code not in {0, 2}, outcome.said
    assert "Traceback" not in outcome.err
    sent = len(server.requests)
    assert sent < rows
    outcome = project.cli("resume", "--quiet")
    assert outcome.code == 0, outcome.said
    each_once(project.folder / "out.jsonl", rows)
    assert len(server.requests) <= rows + 1, "an answer was lost"
