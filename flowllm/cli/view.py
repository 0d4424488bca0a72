"""How commands show a run that goes on: as a view on a terminal, in lines everywhere else."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import ExitStack

from flowllm.cli.options import debugging
from flowllm.reporting.live_view import LiveView, owning_terminal
from flowllm.reporting.progress import Progress
from flowllm.reporting.screen import Screen, moves_cursor


def drawn(screen: Screen) -> bool:
    """Whether there is a terminal for a view, and this process has it to itself."""
    return moves_cursor(screen.stream, os.environ) and screen.in_front()


def following(screen: Screen, process: ExitStack) -> LiveView | Progress:
    """The observer for that screen, until the end of the context; called on the loop."""
    if not drawn(screen):
        return Progress(screen, tracebacks=debugging())
    loop = asyncio.get_running_loop()
    view = LiveView(
        screen,
        later=lambda delay, callback: loop.call_soon_threadsafe(loop.call_later, delay, callback),
        now=time.time,
        timer=time.perf_counter,
    )
    process.enter_context(owning_terminal(view))
    before = signal.signal(signal.SIGCONT, lambda *_: view.forget())  # after Ctrl-Z and `fg`
    process.callback(signal.signal, signal.SIGCONT, before)
    return view
