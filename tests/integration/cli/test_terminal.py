"""A run on a real terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

from tests.support.terminal import Terminal

FLOW = """
name: lines
steps:
  slow: {shell: "sleep 0.5; echo hi"}
  many: {foreach: {file: rows.txt}, value: "{{ item | upper }}"}
  fails: {foreach: [1, 0], value: "{{ 1 / item }}"}
"""


def test_a_run_is_drawn_on_the_terminal_that_standard_output_does_not_go_to(tmp_path: Path) -> None:
    (tmp_path / "lines.yaml").write_text(FLOW)
    (tmp_path / "rows.txt").write_text("a\nb\nc\n")
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    environ = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "COLUMNS"}}
    with (tmp_path / "out").open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "flowllm", "run", "lines.yaml", "--json"],
            cwd=tmp_path,
            env={**environ, "TERM": "xterm-256color", "PYTHONUTF8": "1"},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=theirs,
        )
    os.close(theirs)
    terminal, text = Terminal(60, 24), b""
    try:
        while block := os.read(ours, 65536):
            text += block
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert process.wait(timeout=60) == 1
    terminal.write(text.decode().replace("\r\n", "\n"))
    shown = terminal.shown
    assert '"status": "failed"' in (tmp_path / "out").read_text()
    assert shown[0].startswith("lines  2")
    assert "3 of 3 steps  failed in " in shown[0]
    assert [line[:5] for line in shown[1:4]] == ["✓ slo", "✓ man", "✗ fai"]
    assert "3 of 3  100%" in shown[2]
    assert "2 of 2  100%" in shown[3]
    assert "1 failed" in shown[3]
    errors = [line for line in shown if line.startswith("error:")]
    assert len(errors) == 2, "that of the item and that of its step, in the summary alone"
