"""A run on a real terminal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import IO

from tests.support.terminal import Terminal

FLOW = """
name: lines
steps:
  slow: {shell: "sleep 0.5; echo hi"}
  many: {foreach: {file: rows.txt}, value: "{{ item | upper }}"}
  fails: {foreach: [1, 0], value: "{{ 1 / item }}"}
"""


class Drawn:
    """A run that is drawn on a terminal; what it writes there is in `text`."""

    def __init__(self, folder: Path, out: IO[str], *words: str, **environ: str) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
        known = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "COLUMNS"}}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flowllm", "run", *words],
            cwd=folder,
            env={**known, "TERM": "xterm-256color", "PYTHONUTF8": "1", **environ},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=theirs,
        )
        os.close(theirs)
        self.text = ""

    def read(self, until: str = "\0") -> None:
        """Up to that, else to the end."""
        text = b""
        with contextlib.suppress(OSError):  # the other end is closed
            while until.encode() not in text and (block := os.read(self._ours, 65536)):
                text += block
        self.text += text.decode()

    def terminal(self) -> Terminal:
        """As it stands by now."""
        found = Terminal(60, 24)
        found.write(self.text.replace("\r\n", "\n"))
        return found

    def close(self) -> None:
        """Once the process has ended."""
        os.close(self._ours)


def test_a_run_is_drawn_on_the_terminal_that_standard_output_does_not_go_to(tmp_path: Path) -> None:
    (tmp_path / "lines.yaml").write_text(FLOW)
    (tmp_path / "rows.txt").write_text("a\nb\nc\n")
    with (tmp_path / "out").open("w") as out:
        drawn = Drawn(tmp_path, out, "lines.yaml", "--json")
    drawn.read()
    drawn.close()
    assert drawn.process.wait(timeout=60) == 1
    shown = drawn.terminal().shown
    assert '"status": "failed"' in (tmp_path / "out").read_text()
    assert shown[0].startswith("lines  2")
    assert "3 of 3 steps  failed in " in shown[0]
    assert [line[:5] for line in shown[1:4]] == ["✓ slo", "✓ man", "✗ fai"]
    assert "3 of 3  100%" in shown[2]
    assert "2 of 2  100%" in shown[3]
    assert "1 failed" in shown[3]
    errors = [line for line in shown if line.startswith("error:")]
    assert len(errors) == 2, "that of the item and that of its step, in the summary alone"


def test_a_killed_run_leaves_the_terminal_to_the_shell(tmp_path: Path) -> None:
    (tmp_path / "long.yaml").write_text("steps: {long: {shell: sleep 60}}")
    with (tmp_path / "out").open("w") as out:
        drawn = Drawn(tmp_path, out, "long.yaml", NO_COLOR="1")
    drawn.read(until="long  ")
    drawn.process.kill()
    drawn.process.wait(timeout=60)
    drawn.read()
    drawn.close()
    terminal = drawn.terminal()
    assert terminal.shown[0].startswith("long  2")
    assert terminal.cursor == (len(terminal.shown), 0), "the prompt stands below the view"
    assert not terminal.screen.cursor.hidden
    assert "m" not in re.findall(r"\x1b\[[\d;?]*(\w)", drawn.text), "no colours"
