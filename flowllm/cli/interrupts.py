"""Signals that end the process also where nothing of Python can run any more."""

from __future__ import annotations

import ctypes
import signal
from typing import Any


def handle_once(number: int, handler: int | None = None, *, resume_calls: bool = True) -> int | None:
    """Have the system put its own handling of a signal, which ends the process, back when Python's handler is called.

    So a second one ends a process that hangs in C, as in a regular expression that never comes back, where Python calls
    no handler. Gives the address of Python's handler, to be passed in when it is set again; None on systems that have
    no such call, where nothing was changed. With `resume_calls` system calls of others go on, as under asyncio; without,
    one that waits is left for Python's handler.
    """
    put = _put()
    if put is None:
        return None
    address: int | None = put(number, None) if handler is None else handler
    put(number, address)
    if resume_calls:
        signal.siginterrupt(number, False)
    return address


def leave_to_system(number: int) -> None:
    """Have the next such signal end the process, where the system has the call for it; from any thread."""
    put = _put()
    if put is not None:
        put(number, None)


def _put() -> Any:
    try:
        put = ctypes.CDLL(None).sysv_signal
    except (OSError, AttributeError):
        return None
    put.argtypes, put.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    return put
