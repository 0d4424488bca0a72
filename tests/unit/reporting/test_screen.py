"""What is drawn on a terminal that standard output does not go to."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import termios

import pytest

from flowllm.reporting.screen import Screen, plain, wrapped


@pytest.mark.parametrize("columns", [60, 200])
def test_what_is_drawn_over_is_as_wide_as_its_own_terminal(columns: int) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with os.fdopen(theirs, "w") as stream:
        screen = Screen(stream, colour=True)
        assert screen.size() == (columns, 24)
        assert screen.width() == columns
    os.close(ours)


def test_long_lines_go_on_between_words_and_commands_stay_whole() -> None:
    command = "flowllm resume 20261121-abc --db sqlite:///x.db"
    line = (("failed", "bold red"), " in 3s: 4 steps; posts 50 items", "; resume it with: ", (command, "bold"))
    assert [plain(one) for one in wrapped(line, 30)] == [
        "failed in 3s: 4 steps; posts",
        "  50 items; resume it with: ",
        f"  {command}",
    ]
    quoted = ("  see `flowllm show 20261121-abc 'a[0]'`, then go on",)
    assert [plain(one) for one in wrapped(quoted, 30)] == [
        "  see",
        "  `flowllm show 20261121-abc 'a[0]'`,",
        "  then go on",
    ]
    assert [plain(one) for one in wrapped(line, 200)] == [plain(line)]
    assert list(wrapped(("m at slow   3   157",), 10)) == [("m at slow   3   157",)]
    assert [plain(one) for one in wrapped(("",), 20)] == [""]
    assert [plain(one) for one in wrapped((), 20)] == [""]
    assert [plain(one) for one in wrapped(("  a hint", " of words"), 12)] == ["  a hint of", "  words"]
