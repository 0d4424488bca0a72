"""Several processes in one event loop: the callbacks of each pass its gate, which can be shut."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar

from tests.support.virtual import Timer, VirtualLoop

T = TypeVar("T")


class Gate:
    """Shut, it keeps what was to happen in its process: nothing of it moves until it is opened, as with SIGSTOP, or ever
    again, as with SIGKILL."""

    def __init__(self, process: Any) -> None:
        self.process = process
        self.shut = False
        self.held: list[asyncio.Handle] = []

    def open(self) -> None:
        self.shut = False
        held, self.held = self.held, []
        asyncio.get_running_loop()._ready.extend(held)

    def context(self) -> Context:
        """For the first task of the process; those that it starts have it too."""
        context = copy_context()
        context.run(GATE.set, self)
        return context


GATE: ContextVar[Gate | None] = ContextVar("GATE", default=None)


class _Gated:
    def _run(self) -> None:
        gate = self._context.get(GATE)
        if gate is not None and gate.shut:
            gate.held.append(self)
        else:
            super()._run()


class _Handle(_Gated, asyncio.Handle):
    pass


class _Timer(_Gated, Timer):
    pass


class GatedLoop(VirtualLoop):
    """A virtual loop for several processes."""

    timer = _Timer

    def start(self, work: Coroutine[object, object, None]) -> None:
        """It goes on in no process, but for a server's sake."""
        task = self.create_task(work, context=Context())
        self._serving.add(task)
        task.add_done_callback(self._serving.discard, context=Context())

    def __init__(self) -> None:
        super().__init__()
        self._serving: set[asyncio.Task[None]] = set()

    def _call_soon(self, callback: Callable[..., Any], args: Any, context: Context | None) -> asyncio.Handle:
        handle = _Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle


def run_gated(main: Coroutine[object, object, T]) -> T:
    """The result of a coroutine that starts processes."""
    with asyncio.Runner(loop_factory=GatedLoop) as runner:
        return runner.run(main)
