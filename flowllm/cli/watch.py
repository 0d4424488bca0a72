"""flowllm watch: a run of another process, as that process shows it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from contextlib import ExitStack
from typing import Final

import click

from flowllm.app.flowllm import FlowLLM
from flowllm.app.result import RunResult, figures_of
from flowllm.cli.database import command, find_run, reading
from flowllm.cli.options import Location, location_options
from flowllm.cli.output import INTERRUPTED, messages, say
from flowllm.cli.process import SIGNALS
from flowllm.cli.view import drawn, following
from flowllm.core.errors import FlowLLMError, RunNotFound
from flowllm.core.events import RunStarted
from flowllm.core.records import replace
from flowllm.core.types import RunStatus
from flowllm.reporting.summary import Summary
from flowllm.reporting.text import clock_time
from flowllm.storage.base import RunRecord, Store
from flowllm.views.follow import RunFollower
from flowllm.views.steps import step_kinds

OFTEN: Final = 0.5
"""Seconds from one look at the record to the next."""


@click.command()
@click.argument("run", required=False)
@location_options
def watch(*, run: str | None, location: Location) -> int:
    """Watch RUN, which another process carries out, until it ends.

    Without RUN, the newest run that goes on, or the newest that has ended. RUN is an id, its beginning, or `last`. Ctrl-C ends the
    watching, not the run. The exit code is that of the run.
    """
    return reading(location, lambda app: _watch(app, run, location))


async def _watch(app: FlowLLM, named: str | None, location: Location) -> int:
    run = await (_newest(app.store) if named is None else find_run(app.store, named))
    screen, stopped = messages(), asyncio.Event()
    for number in SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    with ExitStack() as process:
        view = following(screen, process)
        summary = Summary(errors_shown=not drawn(screen))
        started = _started(app, run)
        follower = RunFollower(app.store, run, started.steps)
        observers = (summary, view)
        for observer in observers:
            observer.handle(started)
        while not stopped.is_set():
            now = time.time()
            for event in await follower.events(replace(run, stats=figures_of(run)), now):
                for observer in observers:
                    observer.handle(event)
            if not run.going:
                break
            view.look(now, await follower.accounts(now))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopped.wait(), OFTEN)
            run = await app.store.run(run.run_id)
    if summary.ended is None:
        say(f"no longer watched, the run goes on: {command('watch', run.run_id, location)}")
        return INTERRUPTED
    _print_end(run, summary, location)
    return RunResult.of(run, []).exit_code


def _print_end(run: RunRecord, summary: Summary, location: Location) -> None:
    screen = messages()
    resume, failed = (command(verb, run.run_id, location) for verb in ("resume", "failed"))
    if drawn(screen):
        screen.line()
    for line in summary.lines(resume, failed, run.path, width=screen.width() if screen.stream.isatty() else None):
        screen.line(*line)
    if run.finished_at is None and summary.ended is not None:
        gone = f"its process is gone; its last sign of life was at {clock_time(summary.ended.at, zone=True)}"
        screen.line((gone, "yellow"))


async def _newest(store: Store) -> RunRecord:
    """The newest that goes on, else the newest. Raises RunNotFound."""
    found = await store.runs(limit=1, status=RunStatus.RUNNING) or await store.runs(limit=1)
    if not found:
        raise RunNotFound("there is no run yet", hint="start one with `flowllm run FILE`")
    return await store.run(found[0].run_id)


def _started(app: FlowLLM, run: RunRecord) -> RunStarted:
    """Of a workflow that this version cannot read, with the names of its steps alone."""
    try:
        return app.started(run)
    except FlowLLMError:
        steps = dict.fromkeys(step_kinds(run), ())
        return RunStarted(
            run_id=run.run_id,
            at=run.started_at,
            workflow=run.workflow,
            provider=run.provider,
            nodes=len(steps),
            over=run.options.get("over"),
            output=run.options.get("output"),
            steps=steps,
        )
