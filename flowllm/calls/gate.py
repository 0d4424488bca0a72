"""The door through which a run's requests go out; shut once, when the run is told to stop."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class CallStopped(Exception):
    """The request was not sent: the run is stopping."""


class Gate:
    """Open until `shut`. Whoever waits to send registers to be told."""

    def __init__(self) -> None:
        self.is_open = True
        self._listeners: dict[object, Callable[[], None]] = {}

    def listen(self, listener: object, callback: Callable[[], None]) -> None:
        """Call back when the gate shuts, until `forget`."""
        self._listeners[listener] = callback

    def forget(self, listener: object) -> None:
        """Stop listening."""
        self._listeners.pop(listener, None)

    def shut(self) -> None:
        """Let nothing out any more."""
        self.is_open = False
        for callback in list(self._listeners.values()):
            callback()
