"""Standard streams that are closed, full or read by nobody never change a run."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.project import HANG, Project

PRINTS = """
import sys

def work():
    print("to standard output")
    print("to standard error", file=sys.stderr, flush=True)
    return "done"
"""


def _shell(project: Project, line: str, **streams: object) -> subprocess.CompletedProcess[str]:
    """`flowllm` in the line is this one."""
    return subprocess.run(
        ["/bin/sh", "-c", line.replace("flowllm", f"{sys.executable} -m flowllm")],
        cwd=project.folder,
        env=project.environ,
        timeout=HANG,
        check=False,
        **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **streams},
    )


def _left(project: Project, line: str, stream: str) -> subprocess.CompletedProcess[str]:
    """With nobody who reads that stream any more."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        return _shell(project, line, **{stream: write_end})
    finally:
        os.close(write_end)


@pytest.fixture
def file(project: Project) -> str:
    project.write("steps.py", PRINTS)
    chain = {"a": {"python": "./steps.py:work"}, "b": {"value": "{{ a }} é"}}
    return project.flow(steps=chain, outputs={"b": "{{ b }}"})


def test_a_run_does_not_need_standard_error(project: Project, file: str) -> None:
    for outcome in (
        _left(project, f"flowllm run {file}", "stderr"),
        _shell(project, f"flowllm run {file} 2>/dev/full"),
        _shell(project, f"flowllm run {file} 2>&- <&-"),
        _shell(project, f"flowllm run {file} --events /dev/full 2>/dev/full"),
    ):
        assert (outcome.returncode, outcome.stdout) == (0, "b\n-\ndone é\n")
    assert set(project.rows("SELECT status FROM runs")) == {("succeeded",)}


def test_results_that_cannot_be_shown_are_told_and_kept(project: Project, file: str) -> None:
    full, closed = (_shell(project, f"flowllm run {file} >/dev/full"), _shell(project, f"flowllm run {file} -q >&-"))
    for outcome, why in ((full, "No space left on device"), (closed, "Bad file descriptor")):
        assert outcome.returncode == 1
        assert f"error: standard output cannot be written: {why}\n" in outcome.stderr
        assert "the run has succeeded; what it gives is shown by: flowllm show 2" in outcome.stderr
    assert "succeeded in" in full.stderr, "the summary"
    assert _shell(project, f"flowllm run {file} >&- 2>&-").returncode == 1
    assert set(project.rows("SELECT status FROM runs")) == {("succeeded",)}
    for words in ("show last", "run --help"):
        outcome = _shell(project, f"flowllm {words} >/dev/full")
        assert (outcome.returncode, outcome.stderr) == (
            1,
            "error: standard output cannot be written: No space left on device\n",
        )


def test_a_reader_of_the_results_may_leave(project: Project, file: str) -> None:
    outcome = _left(project, f"flowllm run {file}", "stdout")
    assert outcome.returncode == 0
    assert "succeeded in" in outcome.stderr
    assert "error: " not in outcome.stderr
    listed = _left(project, "flowllm runs", "stdout")
    assert (listed.returncode, listed.stderr) == (1, "")


def test_what_a_terminal_cannot_show_is_escaped(project: Project, file: str) -> None:
    outcome = _shell(project, f"PYTHONIOENCODING=ascii flowllm run {file} -q")
    assert (outcome.returncode, outcome.stdout) == (0, "b\n-\ndone \\xe9\n")
