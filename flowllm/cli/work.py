"""flowllm work: a worker, which executes items of runs that other processes have."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Sequence

import click

from flowllm.cli.database import find_run, open_app
from flowllm.cli.options import DURATION, Location, location_options
from flowllm.cli.output import messages
from flowllm.cli.process import finish_process
from flowllm.cli.run import tuned_process
from flowllm.cli.signals import StopOnSignals
from flowllm.core.cancel import StopSignal
from flowllm.reporting.base import Observer
from flowllm.reporting.progress import Notices
from flowllm.storage.address import name_of
from flowllm.storage.base import RunRecord


@click.command()
@click.argument("run", required=False)
@click.option(
    "--exit-when-idle",
    "idle",
    type=DURATION,
    metavar="DURATION",
    help="Leave when there was nothing to do for so long.",
)
@click.option("--quiet", "-q", is_flag=True, help="No messages but errors.")
@click.option("--started", is_flag=True, hidden=True, help="By the run, which ends it through standard input.")
@location_options
def work(*, run: str | None, idle: float | None, quiet: bool, started: bool, location: Location) -> int:
    """Execute items of RUN, which another process has, or of any run of the database that has workers.

    A worker may join and leave at any time, from any machine that reaches the database. It takes the workflow from the run's record,
    keys from its environment, and Python files and data from where they were as the run was started. RUN may have been started with
    or without --workers; this ends when RUN does. Without RUN it goes from one run with workers to the next. Ctrl-C and SIGTERM
    let it finish what is in flight, and it gives the rest back: exit code 0. A second one breaks that off.

    \b
      flowllm work --db postgresql://me@db.example.com/flowllm
      flowllm work last --exit-when-idle 5m
    """  # noqa: D301 - \b is click's mark for lines that are kept as they are
    return asyncio.run(_work(run, idle, quiet=quiet or started, started=started, location=location))


async def _work(run: str | None, idle: float | None, *, quiet: bool, started: bool, location: Location) -> int:
    stop, screen = StopSignal(), messages()

    def observers(joined: RunRecord) -> Sequence[Observer]:
        if not quiet:
            screen.line(f"working at run {joined.run_id} of {joined.workflow}")
        return [] if started else [Notices(screen)]

    with tuned_process():
        async with open_app(location) as app:
            with StopOnSignals(stop, say=screen.line):
                if started:
                    _end_with_input(stop)
                wanted = None if run is None else await find_run(app.store, run)
                if not quiet and wanted is None:
                    screen.line(f"waiting for items of runs at {name_of(app.database)}")
                elif not quiet and wanted is not None and wanted.finished_at is not None:
                    screen.line(f"run {wanted.run_id} is over ({wanted.status}): there is nothing to do")
                run_id = None if wanted is None else wanted.run_id
                await app.work(run_id, idle=idle, observers=observers, tell=screen.line, stop=stop, started=started)
        finish_process(0)
    return 0


def _end_with_input(stop: StopSignal) -> None:
    """Stop when standard input ends: whoever started this process has no more use for it, or is gone."""
    loop = asyncio.get_running_loop()

    def wait() -> None:
        with contextlib.suppress(OSError, ValueError):
            while os.read(sys.stdin.fileno(), 1):
                pass
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(lambda: stop.request("the run is over, or its process is gone"))

    threading.Thread(target=wait, name="flowllm-parent", daemon=True).start()
