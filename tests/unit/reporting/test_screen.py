"""What is drawn on a terminal that standard output does not go to."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import termios

import pytest

from flowllm.reporting.screen import Screen


@pytest.mark.parametrize("columns", [60, 200])
def test_what_is_drawn_over_is_as_wide_as_its_own_terminal(columns: int) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with os.fdopen(theirs, "w") as stream:
        screen = Screen(stream, colour=True)
        assert screen.size() == (columns, 24)
        assert screen.width() == columns
    os.close(ours)
