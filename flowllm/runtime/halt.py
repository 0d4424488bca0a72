"""That a part of a run is to stop: nothing new is sent for it, what is on the wire may finish."""

from __future__ import annotations

from collections.abc import Callable

from flowllm.calls.gate import Gate
from flowllm.core.types import RunStatus


class Halt:
    """One for the run, and one below it for each foreach that may end early. Asked once, for good."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.status: RunStatus | None = None
        """What the graphs under it become; None while they go on."""
        self._listeners: dict[object, Callable[[RunStatus], None]] = {}

    def call(self, status: RunStatus) -> None:
        """Stop."""
        if self.status is not None:
            return
        self.status = status
        self.gate.shut()
        for callback in list(self._listeners.values()):
            callback(status)

    def listen(self, listener: object, callback: Callable[[RunStatus], None]) -> None:
        """Call back when it is called, also if it has been, until `forget`."""
        if self.status is not None:
            callback(self.status)
        else:
            self._listeners[listener] = callback

    def forget(self, listener: object) -> None:
        """Stop listening."""
        self._listeners.pop(listener, None)

    def below(self) -> Halt:
        """One that is called with this one, and can be called alone; `forget` it here when it is done with."""
        halt = Halt()
        self.listen(halt, halt.call)
        return halt
