"""Other Python processes, spoken to by lines, and gone when the test is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIMIT = 60.0
"""Seconds after which a process that should have ended fails its test."""


class Worker:
    """A module run as a process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.pid = process.pid

    def hear(self) -> str:
        """The next line it prints, "" at its end."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def tell(self, line: object = "") -> None:
        """Give it a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def rest(self) -> tuple[list[str], int]:
        """All further lines, and its exit code."""
        out, _ = self.process.communicate(timeout=LIMIT)
        return out.splitlines(), self.process.returncode


@contextmanager
def worker(module: str, *arguments: object) -> Iterator[Worker]:
    """Start `python -m module arguments`; it is killed at the end if it has not ended by itself."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Worker(process)
    finally:
        process.kill()
        process.communicate(timeout=LIMIT)
