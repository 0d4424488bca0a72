"""Cancellation: a token tells the work of a run, or of a part of it, to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TypeVar

from flowllm.core.tasks import start_task
from flowllm.core.types import RunStatus

T = TypeVar("T")


class CallStopped(Exception):
    """The request was not sent: the run is stopping."""


class CancelToken:
    """Stopped once, for good: nothing new is sent, what is on the wire may finish. Cancelled, that is broken off too.

    Use it on the thread of the event loop. A run has one, and a child of it for each foreach that may end early.
    """

    def __init__(self) -> None:
        self.status: RunStatus | None = None
        """The status that the stopped work ends with; None while it goes on."""
        self.reason: str | None = None
        self.cancelled = False
        self._listeners: dict[object, tuple[Callable[[], None], Callable[[], None] | None]] = {}

    @property
    def stopped(self) -> bool:
        """Whether nothing new may be sent."""
        return self.status is not None

    def stop(self, status: RunStatus = RunStatus.INTERRUPTED, *, reason: str | None = None) -> None:
        """Send nothing new, let calls in flight finish, keep their results. Does nothing if already stopped."""
        if self.status is not None:
            return
        self.status, self.reason = status, reason
        for on_stop, _ in list(self._listeners.values()):
            on_stop()

    def cancel(self) -> None:
        """Stop, and cancel calls in flight too; results on record are kept."""
        self.stop(reason="cancelled")
        self.cancelled = True
        for _, on_cancel in list(self._listeners.values()):
            if on_cancel is not None:
                on_cancel()

    def listen(
        self, listener: object, on_stop: Callable[[], None], on_cancel: Callable[[], None] | None = None
    ) -> None:
        """Call back when it is stopped or cancelled, at once if it already is, until `forget(listener)`."""
        self._listeners[listener] = (on_stop, on_cancel)
        if self.stopped:
            on_stop()
        if self.cancelled and on_cancel is not None:
            on_cancel()

    def forget(self, listener: object) -> None:
        """Remove a listener."""
        self._listeners.pop(listener, None)

    def child(self) -> CancelToken:
        """A token that is stopped with this one and can be stopped alone; `forget` it here when it is no longer used."""
        token = CancelToken()
        self.listen(token, lambda: token.stop(self.status or RunStatus.INTERRUPTED, reason=self.reason), token.cancel)
        return token

    async def until_stopped(self, wait: Coroutine[object, object, T]) -> T:
        """The result of a wait. Raises CallStopped as soon as the token is stopped."""
        task = start_task(wait)
        self.listen(task, lambda: _cancel(task))
        try:
            return await task
        except asyncio.CancelledError:
            task.cancel()
            if being_cancelled():
                raise
            raise CallStopped from None
        finally:
            self.forget(task)


class StopSignal(CancelToken):
    """How a person, or a program, tells runs to stop; see `FlowLLM.run`."""

    def __init__(self) -> None:
        super().__init__()
        self.grace: float | None = None
        """Seconds that calls in flight get once it is stopped; None before a run has begun."""
        self.on_own_code: Callable[[float], object] | None = None
        """Called with the grace when a run begins that has functions of the user's."""

    def begun(self, grace: float, *, own_code: bool) -> None:
        """A run has begun that listens to it."""
        self.grace = grace
        if own_code and self.on_own_code is not None:
            self.on_own_code(grace)

    def request(self, reason: str) -> None:
        """Stop gracefully; the reason is in the event StopRequested."""
        self.stop(reason=reason)


def being_cancelled() -> bool:
    """Whether the current task was cancelled. Without that, a CancelledError came out of code that it called."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _cancel(task: asyncio.Task[T]) -> None:
    task.cancel()
