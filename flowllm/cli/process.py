"""The process of a command, from its first line to its end: signals, garbage, the exit code.

`start.py` needs it before anything else is imported: `signal` and `ctypes` take longer to import than all that comes before them.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import atexit
import gc
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SIGNALS = (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP)


class _Process:
    exit_code: int | None = None
    starting = False
    others = True
    """Something waits for the end of the process that was there before flowllm."""


def finish_process(exit_code: int) -> None:
    """From now on a signal ends the process with this exit code: everything is done and shown."""
    _Process.exit_code = exit_code


def end_imports() -> None:
    """Collect garbage from now on, but none of what there is: all modules of a command were imported."""
    if _Process.starting:
        _Process.starting = False
        gc.freeze()
        gc.enable()


def begin_imports() -> None:
    """From now on a signal ends the process, except where `signals.py` handles it, and gives no traceback; garbage is left
    until `end_imports`."""
    gc.disable()  # what imports make stays, and to look through it takes a tenth of their time
    _Process.starting = True
    for number in SIGNALS:
        if _signal.getsignal(number) in (_signal.SIG_DFL, _signal.default_int_handler):
            _signal.signal(number, _end)
    _Process.others = getattr(atexit, "_ncallbacks", lambda: True)() > 0  # CPython's; elsewhere it may be so
    atexit.register(_leave)
    for number in SIGNALS:
        if _signal.getsignal(number) is _end:
            handle_once(number, resume_calls=False)


def _leave() -> None:
    """Runs after all exit functions that were registered later; Python calls no signal handler after it.

    Ends the process here, unless there are earlier ones or functions of the user's were loaded: to take all modules
    apart, as Python does next, is a fifth of a short run, and only code that is not ours may have left something to that.
    """
    for number in SIGNALS:
        _signal.signal(number, _signal.SIG_IGN)
    if _Process.exit_code is None or _Process.others or "flowllm.steps.python.runner" in sys.modules:
        return
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        return  # which Python tells of
    os._exit(_Process.exit_code)


def _end(number: int, _frame: object) -> None:
    """Not by an exception: during imports and while objects are removed, exceptions are printed and lost."""
    if _Process.exit_code is None:
        os.write(2, b"stopped\n")
    os._exit(128 + number if _Process.exit_code is None else _Process.exit_code)


def handle_once(number: int, handler: int | None = None, *, resume_calls: bool = True) -> int | None:
    """Have the system restore its own handling of a signal, which ends the process, when Python's handler is called.

    So a second one ends a process that hangs in C, for example in a regular expression that never returns, where Python
    calls no handler. Returns the address of Python's handler, to be passed in when it is set again; None on systems
    without such a call, where nothing was changed. With `resume_calls` interrupted system calls go on, as under asyncio;
    without, they return to Python's handler.
    """
    install = _sysv_signal()
    if install is None:
        return None
    address: int | None = install(number, None) if handler is None else handler
    install(number, address)
    if resume_calls:
        _signal.siginterrupt(number, False)
    return address


def leave_to_system(number: int) -> None:
    """Have the next such signal end the process, where the system has the call for it; from any thread."""
    install = _sysv_signal()
    if install is not None:
        install(number, None)


def _sysv_signal() -> Any:
    import ctypes  # noqa: PLC0415 - signals are handled meanwhile

    try:
        install = ctypes.CDLL(None).sysv_signal
    except (OSError, AttributeError):
        return None
    install.argtypes, install.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    return install
