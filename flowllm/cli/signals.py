"""Ctrl-C and SIGTERM while a run goes on: the first asks it to stop, the second cancels, the third kills."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowllm.engine.stop import StopSignal

_WATCHED = (signal.SIGINT, signal.SIGTERM)
_REASONS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class StopOnSignals:
    """A context, on the loop, in which signals reach the run's StopSignal."""

    def __init__(self, stop: StopSignal, *, say: Callable[[str], None]) -> None:
        self._stop = stop
        self._say = say
        self._count = 0
        self.received: int | None = None
        """The number of the first signal that came."""

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for watched in _WATCHED:
            loop.add_signal_handler(watched, self._handle, watched)
        return self

    def __exit__(self, *exception: object) -> None:
        loop = asyncio.get_running_loop()
        for watched in _WATCHED:
            loop.remove_signal_handler(watched)

    def _handle(self, number: signal.Signals) -> None:
        self._count += 1
        if self._count == 1:
            self.received = number
            self._stop.request(_REASONS[number])
        elif self._count == 2:  # noqa: PLR2004 - the second
            self._say("stopping at once: calls in flight are cancelled")
            self._stop.cancel()
        else:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def exit_code(self) -> int:
        """128 and the signal's number, as shells give it; SIGINT's if a program asked for the stop."""
        return 128 + (self.received or signal.SIGINT)
