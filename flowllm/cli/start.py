"""What the command `flowllm` calls, before anything else is imported: from here on no signal gives a traceback."""

from __future__ import annotations

# Not `signal`, which takes longer to import than all that comes before it.
import _signal  # type: ignore[import-not-found]
import atexit
import os
from typing import NoReturn

TYPE_CHECKING = False

NUMBERS = (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP)


class _Process:
    code: int | None = None


def settle(code: int) -> None:
    """From now on a signal ends the process with this exit code: all is done, and shown."""
    _Process.code = code


def main() -> NoReturn:
    """Run the command line; a signal ends the process, but where `signals.py` hears it."""
    for number in NUMBERS:
        if _signal.getsignal(number) in (_signal.SIG_DFL, _signal.default_int_handler):
            _signal.signal(number, _end)
    atexit.register(_finish)
    from flowllm.cli.interrupts import handle_once  # noqa: PLC0415 - signals are heard meanwhile

    for number in NUMBERS:
        if _signal.getsignal(number) is _end:
            handle_once(number, resume_calls=False)
    from flowllm.cli.main import main as command  # noqa: PLC0415 - as above

    command()


def _finish() -> None:
    """After all else, as this was registered first: what is left is a moment in which Python calls no handler any more."""
    for number in NUMBERS:
        _signal.signal(number, _signal.SIG_IGN)


def _end(number: int, _frame: object) -> None:
    """Not by an exception: where modules are imported and objects removed, those are printed and lost."""
    if _Process.code is None:
        os.write(2, b"stopped\n")
    os._exit(128 + number if _Process.code is None else _Process.code)
