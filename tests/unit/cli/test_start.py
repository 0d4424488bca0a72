"""Signals outside of a run: while modules are imported, and once all is shown."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

NUMBERS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
AT_AN_IMPORT = """
import os, sys
class Finder:
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), {number})
sys.meta_path.insert(0, Finder())
"""
AT_EXIT = """
import atexit, os
atexit.register(lambda: os.kill(os.getpid(), {number}))
"""
WHEN_OBJECTS_GO = """
import os, sys
class Last:
    def __del__(self, kill=os.kill, pid=os.getpid()):
        kill(pid, {number})
sys.last_of_all = Last()
sys.modules['flowllm.steps.python.runner'] = None  # with functions of the user's objects are removed
"""


def flowllm(before: str) -> tuple[int, str, str]:
    code = f"{before}\nimport sys\nsys.argv = ['flowllm', '--version']\nfrom flowllm.cli.start import main\nmain()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("module", ["click", "flowllm.cli.main"])
@pytest.mark.parametrize(("number", "code"), NUMBERS)
def test_one_that_comes_early_ends_it_in_a_word(module: str, number: int, code: int) -> None:
    assert flowllm(AT_AN_IMPORT.format(module=module, number=number)) == (code, "", "stopped\n")


def test_what_was_to_be_done_at_the_end_before_it_began_is_done() -> None:
    assert flowllm("import atexit\natexit.register(lambda: print('done'))")[1].endswith("\ndone\n")


@pytest.mark.parametrize("number", [number for number, _ in NUMBERS])
@pytest.mark.parametrize("moment", [AT_EXIT, WHEN_OBJECTS_GO])
def test_one_that_comes_late_changes_nothing(moment: str, number: int) -> None:
    code, out, err = flowllm(moment.format(number=number))
    assert (code, err) == (0, "")
    assert out.startswith("flowllm ")


def test_one_that_is_ignored_stays_so() -> None:
    ignored = f"import signal\nsignal.signal({signal.SIGHUP}, signal.SIG_IGN)\n"
    early = ignored + AT_AN_IMPORT.format(module="click", number=signal.SIGHUP)
    assert flowllm(early)[0] == 0
