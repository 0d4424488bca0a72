"""Points at which a process is killed (kill -9) by itself, between two things that belong together."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

from flowllm.datasets.output import OutputFile
from flowllm.storage.sql import writer

BESIDE = re.compile(r"\.flowllm-\w+\.tmp")
"""Files that are renamed once they are whole."""


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Point:
    """Counts down to the end."""

    def __init__(self, number: int) -> None:
        self._left = number

    def reached(self) -> bool:
        self._left -= 1
        return self._left == 0


def _at_rename(point: Point, *, before: bool) -> None:
    rename = Path.replace

    def replace(self: Path, target: Path) -> Path:
        last = bool(BESIDE.fullmatch(self.name)) and point.reached()
        if last and before:
            _die()
        found = rename(self, target)
        if last:
            _die()
        return found

    Path.replace = replace  # type: ignore[method-assign,assignment]


def _behind_lines(point: Point, *, half: bool) -> None:
    write = OutputFile._write

    def written(self: OutputFile) -> None:
        write(self)
        if point.reached():
            if half:
                self._file.truncate(self._offset - 5)
            _die()

    OutputFile._write = written  # type: ignore[method-assign]


def _at_commit(point: Point, *, before: bool) -> None:
    def commit() -> None:
        if point.reached():
            _die()

    made = writer.Failpoints(**{"before_commit" if before else "after_commit": commit})
    writer.Failpoints = lambda: made  # type: ignore[misc,assignment]


POINTS: dict[str, Callable[[Point], None]] = {
    "before-rename": lambda point: _at_rename(point, before=True),
    "after-rename": lambda point: _at_rename(point, before=False),
    "lines-half-written": lambda point: _behind_lines(point, half=True),
    "lines-written": lambda point: _behind_lines(point, half=False),
    "before-commit": lambda point: _at_commit(point, before=True),
    "after-commit": lambda point: _at_commit(point, before=False),
}
"""`lines-written` is before their end in the file is on record."""


def arm(point: str) -> None:
    """`NAME:NUMBER`: end this process when it comes to that point for that time."""
    name, number = point.split(":")
    POINTS[name](Point(int(number)))
