"""Standard streams that may be closed, full, or whose reader is gone.

What goes to standard error is for people and changes nothing, so it is dropped where it cannot be written. What goes to
standard output is what the command is for, so that is told.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, TextIO

from flowllm.core.errors import FlowLLMError

_OUT, _ERROR = 1, 2


class OutputLost(FlowLLMError):
    """Standard output cannot be written."""


class _Output(io.FileIO):
    def write(self, block: Any, /) -> int:
        try:
            while (written := super().write(block)) is None:  # somebody has set it not to block
                select.select((), (self,), ())
        except BrokenPipeError:  # whoever read it has seen enough
            raise
        except OSError as error:
            raise OutputLost(f"standard output cannot be written: {error.strerror}") from error
        return written


class _Messages(io.FileIO):
    def write(self, block: Any, /) -> int:
        with suppress(OSError):
            return super().write(block) or memoryview(block).nbytes
        return memoryview(block).nbytes


def open_streams() -> None:
    """Replace the standard streams of this process. Characters that they cannot show are escaped."""
    for number in (0, _OUT, _ERROR):
        _occupy(number)
    sys.stdout = _text(_Output(_OUT, "w", closefd=False), sys.stdout)
    sys.stderr = _text(_Messages(_ERROR, "w", closefd=False), sys.stderr)


@contextlib.contextmanager
def results_apart() -> Iterator[None]:
    """What is printed meanwhile by functions of the user's, by libraries and by their child processes goes to standard
    error; `sys.__stdout__` alone is standard output."""
    kept, results = os.dup(_OUT), sys.__stdout__
    sys.stdout.flush()
    os.dup2(_ERROR, _OUT)
    sys.__stdout__ = io.TextIOWrapper(io.BufferedWriter(io.FileIO(kept, "w")))  # type: ignore[misc]
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, _OUT)
        ours, sys.__stdout__ = sys.__stdout__, results  # type: ignore[misc]
        with suppress(OSError, ValueError):  # who lost it has been told
            ours.close()


def silence_output() -> None:
    """Point standard output at nothing, so that Python does not complain when it flushes it at its end."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _occupy(number: int) -> None:
    """Let no other file get the number of a stream that is closed; what is written to it, or read from it, fails."""
    try:
        os.fstat(number)
    except OSError:
        found = os.open(os.devnull, os.O_RDONLY if number else os.O_WRONLY)
        if found != number:
            os.dup2(found, number)
            os.close(found)


def _text(raw: io.FileIO, before: TextIO | None) -> Any:
    encoding = "utf-8" if before is None else before.encoding
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding=encoding, errors="backslashreplace", line_buffering=True)
