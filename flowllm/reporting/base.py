"""What reads the events of a run."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from flowllm.core.events import Event


class Observer(Protocol):
    """Reads events as they happen; it changes nothing and must not wait."""

    def handle(self, event: Event) -> None:
        """Take note of one event. Called on the loop, in the order of the events."""
        ...


@runtime_checkable
class Closable(Protocol):
    """An observer that holds something open."""

    def close(self) -> None:
        """Called once, when the run is over."""
        ...
