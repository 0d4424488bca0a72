"""What is longer than the screen goes through a pager, as git does it: on a terminal only."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, TextIO

import click

_LESS = {"LESS": "FRX", "LV": "-c"}
"""What pagers are told unless the user tells them: to leave what fits on the screen, to show colours and not to clear."""
_NOT_THERE = frozenset({126, 127})
"""What a shell says of a command that it cannot execute."""

pager_option = click.option("--no-pager", is_flag=True, help="Do not show what is longer than the screen in $PAGER.")


class _Held(io.StringIO):
    """Takes what is printed in place of a terminal, as which it passes."""

    def __init__(self, terminal: TextIO) -> None:
        super().__init__()
        self._terminal = terminal

    def __getattribute__(self, name: str) -> Any:
        return self._terminal.encoding if name == "encoding" else super().__getattribute__(name)

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._terminal.fileno()


@contextlib.contextmanager
def paged(*, wanted: bool = True) -> Iterator[None]:
    """What is printed meanwhile is shown by $PAGER (less, if that is not set) where it is longer than the terminal."""
    terminal, pager = sys.stdout, os.environ.get("PAGER", "less").strip()
    if not wanted or not terminal.isatty() or pager in {"", "cat"} or os.environ.get("TERM") == "dumb":
        yield
        return
    sys.stdout = held = _Held(terminal)
    try:
        yield
    finally:
        sys.stdout = terminal
        text = held.getvalue()
        fits = text.count("\n") < os.get_terminal_size(terminal.fileno()).lines
        if fits or not _page(text, pager, terminal.encoding):
            terminal.write(text)


def _page(text: str, pager: str, encoding: str) -> bool:
    """Whether the pager has shown the text."""
    sys.stdout.flush()
    try:
        process = subprocess.Popen(  # noqa: S602 - the user's own command line, as git takes it
            pager, shell=True, stdin=subprocess.PIPE, env=_LESS | os.environ
        )
    except OSError:
        return False
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the pager
    try:
        process.communicate(text.encode(encoding, "backslashreplace"))
    finally:
        signal.signal(signal.SIGINT, before)
    return process.returncode not in _NOT_THERE
