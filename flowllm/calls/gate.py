"""The door through which a run's requests go out; shut once, when the run is told to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TypeVar

from flowllm.core.tasks import start_task

T = TypeVar("T")


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

    async def until_shut(self, wait: Coroutine[object, object, T]) -> T:
        """The result of a wait; CallStopped as soon as the gate shuts."""
        task = start_task(wait)
        self.listen(task, lambda: _cancel(task))
        if not self.is_open:
            task.cancel()
        try:
            return await task
        except asyncio.CancelledError:
            task.cancel()
            if being_cancelled():
                raise
            raise CallStopped from None
        finally:
            self.forget(task)

    def shut(self) -> None:
        """Let nothing out any more."""
        self.is_open = False
        for callback in list(self._listeners.values()):
            callback()


def being_cancelled() -> bool:
    """Whether the current task was told to stop. Without that, a CancelledError came out of code that it called."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _cancel(task: asyncio.Task[T]) -> None:
    task.cancel()
