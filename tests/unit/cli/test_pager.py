from __future__ import annotations

import fcntl
import os
import pty
import struct
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import pytest

from flowllm.cli.output import print_table, results
from flowllm.cli.pager import paged


@pytest.fixture
def show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[str, str]]:
    """Prints so many lines on a terminal of ten; gives what the pager got, and what the terminal."""

    def show(lines: int, *, pager: str | None = None, wanted: bool = True) -> tuple[str, str]:
        file = tmp_path / "paged"
        file.write_text("")
        monkeypatch.setenv("PAGER", f"cat > {file}" if pager is None else pager)
        monkeypatch.setenv("TERM", "xterm")
        upper, lower = pty.openpty()
        fcntl.ioctl(lower, termios.TIOCSWINSZ, struct.pack("HHHH", 10, 60, 0, 0))
        with os.fdopen(lower, "w") as terminal:
            monkeypatch.setattr(sys, "stdout", terminal)
            with paged(wanted=wanted):
                assert (results().width(), results().stream.encoding) == (60, terminal.encoding)
                print_table([{"é": "x"}] * (lines - 1))
            monkeypatch.undo()
            terminal.write("\0")
            terminal.flush()
            found = b""
            while not found.endswith(b"\0"):
                found += os.read(upper, 10_000)
        os.close(upper)
        return file.read_text(), found[:-1].decode().replace("\r\n", "\n")

    return show


def test_what_is_longer_than_the_terminal_goes_through_the_pager(show: Callable[..., tuple[str, str]]) -> None:
    long, direct = show(10)
    assert (long.count("\n"), "é" in long, direct) == (10, True, "")
    for lines, how in ((9, {}), (10, {"wanted": False}), (10, {"pager": ""}), (10, {"pager": "no-such-pager 2>&-"})):
        paged_text, direct = show(lines, **how)
        assert (paged_text, direct.count("\n")) == ("", lines), how


def test_what_goes_elsewhere_is_not_paged(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAGER", "exit 1")
    with paged():
        print("x\n" * 1000)
    assert capsys.readouterr().out.count("x") == 1000
