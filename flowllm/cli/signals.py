"""Ctrl-C, SIGTERM and SIGHUP while a run goes on: the first asks it to stop, the second cancels, the third kills.

None of them needs a loop that turns, nor Python at all. A thread hears them. `interrupts.py` has the system end the
process where that thread cannot run, as beside a regular expression that never comes back; and from the first signal on
a guard, a process of its own, ends this one if the second has not done so soon.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any, Final, Self

from flowllm.cli.interrupts import handle_once

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowllm.engine.stop import StopSignal

PATIENCE: Final = 1.5
"""Seconds that what is cancelled may take to put itself on record before the process ends as it is."""
_REASONS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP"}
_GUARD: Final = """
import os, socket, sys, time
parent, patience, watched = int(sys.argv[1]), float(sys.argv[2]), {int(number) for number in sys.argv[3:]}
ear = socket.socket(fileno=0)
while os.getppid() == parent:
    came = ear.recv(64, socket.MSG_PEEK)
    found = [number for number in came if number in watched]
    if found:
        time.sleep(patience)
        for number in (found[0], 9):
            if os.getppid() == parent:
                os.kill(parent, number)
                time.sleep(0.1)
    if found or not came:
        break
    time.sleep(0.05)
"""
"""Waits for a second signal, which the thread leaves where it is, or for the end of the run."""


class StopOnSignals:
    """A context, on the loop of the main thread, in which signals reach the run's StopSignal."""

    def __init__(self, stop: StopSignal, *, say: Callable[[str], None]) -> None:
        self._stop = stop
        self._say = say
        self._before: dict[int, Any] = {}
        self._handlers: dict[int, int | None] = {}
        self.received: int | None = None
        """The number of the first signal that came."""

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        ear, self._mouth = socket.socketpair()
        self._mouth.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._mouth.fileno(), warn_on_full_buffer=False)
        for watched in _REASONS:
            if watched == signal.SIGHUP and signal.getsignal(watched) == signal.SIG_IGN:
                continue  # nohup: the run is to outlive its terminal
            self._before[watched] = signal.signal(watched, _noted)
            self._handlers[watched] = handle_once(watched)
        threading.Thread(target=self._hear, args=(ear,), name="flowllm-signals", daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        for watched, handler in self._before.items():
            signal.signal(watched, handler)
        handle_once(signal.SIGINT)
        signal.set_wakeup_fd(self._wakeup)
        self._mouth.close()

    def _hear(self, ear: socket.socket) -> None:
        """In a thread, until the second signal, or the end of the run."""
        with ear:
            while came := ear.recv(1, socket.MSG_PEEK):
                number = came[0]
                if number in self._before and self.received is not None:
                    self._on_loop(self._cancel)
                    return
                ear.recv(1)
                if number in self._before:
                    self._first(signal.Signals(number), ear)

    def _first(self, number: signal.Signals, ear: socket.socket) -> None:
        self.received = number
        if _guarded(ear, self._before):  # else the system's handling stays
            handle_once(number, self._handlers[number])
        self._on_loop(lambda: self._stop.request(_REASONS[number]))

    def _on_loop(self, callback: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # it is closed: the run is over
            self._loop.call_soon_threadsafe(callback)

    def _cancel(self) -> None:
        self._stop.cancel()
        self._say("stopping at once: calls in flight are cancelled")

    def exit_code(self) -> int:
        """128 and the signal's number, as shells give it; SIGINT's if a program asked for the stop."""
        return 128 + (self.received or signal.SIGINT)


def _noted(_number: int, _frame: object) -> None:
    """It is with the thread already."""


def _guarded(ear: socket.socket, watched: dict[int, Any]) -> bool:
    """Start the guard, out of reach of the terminal's keys; whether it could be."""
    words = [sys.executable, "-ISc", _GUARD, str(os.getpid()), str(PATIENCE), *map(str, map(int, watched))]
    try:
        # not on this process's output: who reads that to its end would wait for the guard too
        silent = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_WRONLY, 0) for stream in (1, 2)]
        streams = [(os.POSIX_SPAWN_DUP2, ear.fileno(), 0), *silent]
        os.posix_spawn(sys.executable, words, os.environ, file_actions=streams, setpgroup=0)
    except OSError:
        return False
    return True
