"""Ctrl-C, SIGTERM and SIGHUP during a run: the first asks it to stop, the second cancels it, the third kills it.

None of them needs a running event loop, nor Python at all. A thread receives the signals, and after the second ends the
process once its loop does not answer any more; so it does when the grace period after the first is over. `process.py` has
the system end the process where that thread cannot run, as beside a regular expression that never returns. A guard, a
process of its own, ends it where a signal stays in the thread's socket: a first one during a function of the user's that
holds the interpreter, for the grace, and a second one for as long as the loop may be silent.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any, Final, NoReturn, Self

from flowllm.cli.process import handle_once, leave_to_system
from flowllm.core.cancel import StopSignal

BEAT: Final = 0.25
"""Seconds in which a running loop answers."""
MISSED: Final = 6
"""Beats in a row without an answer after which the loop counts as stuck. A machine that stops and starts
again, or gives this process no time for a while, costs one beat only."""
LONGEST: Final = 20
"""Beats after which a loop that runs, but does not finish, is not waited for any more."""
_REASONS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP"}
_LEFT: Final = b"stopped as it is: a step does not let go; go on with `flowllm resume`\n"
_GUARD: Final = """
import os, socket, sys, time
parent, patience, watched = int(sys.argv[1]), float(sys.argv[2]), set(map(int, sys.argv[3:]))
receiver, since, length = socket.socket(fileno=0), 0.0, -1
while os.getppid() == parent:
    came = receiver.recv(64, socket.MSG_PEEK)
    if not came:
        sys.exit()
    found = [number for number in came if number in watched]
    if not found or len(came) != length:
        since, length = time.monotonic(), len(came)
    if found and time.monotonic() - since > patience:
        for number in (found[0], 9):
            if os.getppid() == parent:
                os.kill(parent, number)
                time.sleep(0.1)
    time.sleep(0.1)
"""
"""Ends the process when a signal has waited in the socket for longer than that, and nothing has come behind it."""


class StopOnSignals:
    """A context, on the loop of the main thread, in which signals reach the run's StopSignal."""

    def __init__(self, stop: StopSignal, *, say: Callable[[str], None]) -> None:
        self._stop = stop
        self._say = say
        self._before: dict[int, Any] = {}
        self._handlers: dict[int, int | None] = {}
        self._guards: list[int] = []
        self._over = threading.Event()
        self.received: int | None = None
        """The number of the first signal that came."""

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        receiver, self._sender = socket.socketpair()
        self._sender.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        for watched in _REASONS:
            if watched == signal.SIGHUP and signal.getsignal(watched) == signal.SIG_IGN:
                continue  # nohup: the run is to outlive its terminal
            self._before[watched] = signal.signal(watched, _do_nothing)
            self._handlers[watched] = handle_once(watched)
        self._thread = threading.Thread(target=self._listen, args=(receiver,), name="flowllm-signals", daemon=True)
        self._thread.start()

        self._stop.on_own_code = lambda grace: self._start_guard(receiver, grace + LONGEST * BEAT)
        return self

    def _start_guard(self, receiver: socket.socket, patience: float) -> bool:
        guard = _guarded(receiver, patience, *self._before)
        if guard is not None:
            self._guards.append(guard)
        return guard is not None

    def __exit__(self, *exception: object) -> None:
        for watched, handler in self._before.items():
            signal.signal(watched, handler)
        signal.set_wakeup_fd(self._wakeup)
        self._over.set()
        self._sender.close()
        self._thread.join()
        self._stop.on_own_code = None
        self._end_guards()

    def _end_guards(self, count: int | None = None) -> None:
        """The first so many, else all. They end by themselves too: so that nobody need reap them."""
        for guard in self._guards[:count]:
            self._guards.remove(guard)
            os.kill(guard, signal.SIGKILL)
            os.waitpid(guard, 0)

    def _listen(self, receiver: socket.socket) -> None:
        """In a thread, until the end of the run."""
        coming, answered, missed = select.poll(), threading.Event(), 0
        coming.register(receiver, select.POLLIN)
        wait: float | None = None
        with receiver:
            while True:
                if not coming.poll(None if wait is None else wait * 1000):  # the grace is over
                    missed = 0 if answered.is_set() else missed + 1
                    if missed > MISSED:
                        self._leave()
                    answered.clear()
                    self._on_loop(answered.set)
                    wait = BEAT
                    continue
                came = receiver.recv(1, socket.MSG_PEEK)
                if not came:
                    return
                number = came[0]
                if number in self._before and self.received is not None:
                    self._second(receiver)
                    return
                receiver.recv(1)
                if number in self._before:
                    self._first(signal.Signals(number), receiver)
                    wait = self._stop.grace

    def _first(self, number: signal.Signals, receiver: socket.socket) -> None:
        self.received = number
        handle_once(number, self._handlers[number])  # at once: a second one may follow directly
        if not self._start_guard(receiver, MISSED * BEAT):
            leave_to_system(number)
        self._on_loop(lambda: self._stop.request(_REASONS[number]))

    def _second(self, receiver: socket.socket) -> None:
        """Cancel; end the process as it is when the loop is stuck, or does not finish. The signal stays in the socket, for
        a guard, and a byte behind it says that the loop answers."""
        before = len(self._guards)
        self._start_guard(receiver, (MISSED + 1) * BEAT)  # before they end: no turn may follow for this thread
        self._end_guards(before)
        for number in self._before:
            leave_to_system(number)
        self._on_loop(self._cancel)
        answered, missed = threading.Event(), 0
        for _ in range(LONGEST):
            self._on_loop(answered.set)
            if self._over.wait(BEAT):
                return
            missed = 0 if answered.is_set() else missed + 1
            if answered.is_set():
                with contextlib.suppress(OSError):  # the run is over
                    self._sender.send(b"\0")
            answered.clear()
            if missed == MISSED:
                break
        self._leave()

    def _leave(self) -> NoReturn:
        with contextlib.suppress(OSError):
            os.write(2, _LEFT)
        os._exit(self.exit_code())

    def _on_loop(self, callback: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # it is closed: the run is over
            self._loop.call_soon_threadsafe(callback)

    def _cancel(self) -> None:
        self._stop.cancel()
        self._say("stopping at once: calls in flight are cancelled")

    def exit_code(self) -> int:
        """128 and the signal's number, as shells give it; SIGINT's if a program asked for the stop."""
        return 128 + (self.received or signal.SIGINT)


def _do_nothing(_number: int, _frame: object) -> None:
    """The thread has it already."""


def _guarded(receiver: socket.socket, *values: float) -> int | None:
    """Start a process out of reach of the terminal's keys; its id, if it could be started."""
    try:
        # not on this process's output: who reads that to its end would wait for the guard too
        silent = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_WRONLY, 0) for stream in (1, 2)]
        streams = [(os.POSIX_SPAWN_DUP2, receiver.fileno(), 0), *silent]
        words = [sys.executable, "-ISc", _GUARD, str(os.getpid()), *(f"{value:g}" for value in values)]
        return os.posix_spawn(sys.executable, words, os.environ, file_actions=streams, setpgroup=0)
    except OSError:
        return None
