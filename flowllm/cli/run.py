"""flowllm run and flowllm resume: the run, what is shown of it, and the exit code."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import click

from flowllm.app.flowllm import FlowLLM
from flowllm.app.result import RunResult
from flowllm.cli.database import LAST, command, find_run, open_app
from flowllm.cli.inputs import (
    GivenInputs,
    budget_option,
    cluster_option,
    full_option,
    input_options,
    mended_lines,
    run_options,
    until_option,
    workers_option,
)
from flowllm.cli.options import Location, collected, debugging, json_option, location_options
from flowllm.cli.output import (
    OutputLost,
    known_outputs,
    messages,
    print_json,
    print_outputs,
    results_apart,
    show_error,
    silence_output,
)
from flowllm.cli.process import finish_process
from flowllm.cli.signals import StopOnSignals
from flowllm.cli.view import drawn, following
from flowllm.core.cancel import StopSignal
from flowllm.core.descriptors import raise_limit
from flowllm.core.errors import OwnershipLost, StorageFailed, StoreError, UsageError
from flowllm.core.records import dataclass, replace
from flowllm.core.types import RunStatus
from flowllm.datasets.file_writes import FileConflict, FileRegistry
from flowllm.datasets.files import STDIN
from flowllm.reporting.base import EventsFile, Observer
from flowllm.reporting.progress import Notices
from flowllm.reporting.summary import Summary
from flowllm.runtime.options import RunOptions
from flowllm.storage.open import is_memory

_YOUNG = 10_000
"""New objects after which the garbage collector looks for cycles during a run; Python's own 700 costs a quarter of the
time of a run that is answered from the cache, and finds next to nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What is shown of a run, and where."""

    events: str | None = None
    as_json: bool = False
    full: bool = False
    """All items of long outputs."""
    quiet: bool = False

    def claims(self, *files: str) -> FileRegistry:
        """The files of the options, which a run must not write over: `files` hold inputs. Raises UsageError."""
        claims = FileRegistry()
        for path in files:
            if path != STDIN:
                claims.reads(path, "a file of inputs")
        if self.events is not None:
            try:
                claims.writes(self.events, "--events")
            except FileConflict as error:
                raise UsageError(str(error), hint="name another file") from None
        return claims


shown_options = collected(
    "shown",
    Shown,
    click.option("--events", metavar="FILE", help="Append each event to this file, as a line of JSON."),
    json_option,
    full_option,
    click.option("--quiet", "-q", is_flag=True, help="No progress; only results, notices and errors."),
)


@click.command()
@click.argument("file")
@input_options
@run_options
@workers_option
@shown_options
@location_options
def run(
    *, file: str, given: GivenInputs, options: RunOptions, workers: int | None, shown: Shown, location: Location
) -> int:
    """Run the workflow in FILE.

    Its outputs go to standard output, progress and the summary to standard error.

    \b
      flowllm run blog.yaml -i topic="Green tea"
      flowllm run blog.yaml -i topic=@topic.txt --json > result.json
      flowllm run blog.yaml --provider simulated
      flowllm run translate.yaml --over texts.csv --output translated.jsonl
    """  # noqa: D301 - \b is click's mark for lines that are kept as they are
    if shown.as_json and options.output == "-":
        raise UsageError("--json and --output - both write to standard output", hint="name a file with --output")
    inputs, texts, claims = given.values(), given.texts(), shown.claims(*given.files())

    async def start(app: FlowLLM, observers: Sequence[Observer], stop: StopSignal) -> RunResult:
        return await app.run(
            file,
            inputs=inputs,
            input_text=texts,
            options=options,
            observers=observers,
            stop=stop,
            claims=claims,
            workers=workers,
        )

    return asyncio.run(_execute(location, shown, start, grace=options.grace))


@click.command()
@click.argument("run", required=False)
@click.option("--file", metavar="FILE", help="Take the workflow as it is in this file now.")
@input_options
@click.option(
    "--mended",
    metavar="FILE",
    help="Lines of `flowllm failed`, mended: go on with their items in place of those that failed; - is standard input.",
)
@click.option("--retry-failed", is_flag=True, help="Also what failed under `on_error: continue`, and its dependents.")
@until_option
@budget_option
@cluster_option
@workers_option
@shown_options
@location_options
def resume(
    *,
    run: str | None,
    file: str | None,
    given: GivenInputs,
    mended: str | None,
    retry_failed: bool,
    until: str | None,
    budget: dict[str, float] | None,
    cluster: str | None,
    workers: int | None,
    shown: Shown,
    location: Location,
) -> int:
    """Go on with RUN, or with the newest run that has not succeeded.

    What succeeded is kept; everything else is carried out. RUN is an id, its beginning, or `last`. With --file, -i or
    --inputs the inputs it was given hold still, under those that are given now; others have the defaults of the file.

    \b
      flowllm failed last > letters.jsonl      # then mend the lines
      flowllm resume last --mended letters.jsonl
    """  # noqa: D301 - \b is click's mark for lines that are kept as they are
    inputs, texts = given.values(), given.texts()
    letters = [] if mended is None else mended_lines(mended)
    claims = shown.claims(*given.files(), *([] if mended is None else [mended]))

    async def start(app: FlowLLM, observers: Sequence[Observer], stop: StopSignal) -> RunResult:
        return await app.resume(
            (await find_run(app.store, run)).run_id if run and LAST.fullmatch(run) else run,
            file=file,
            inputs=inputs,
            input_text=texts,
            mended=letters,
            retry_failed=retry_failed,
            until=until,
            budget=budget,
            cluster=cluster,
            observers=observers,
            stop=stop,
            claims=claims,
            workers=workers,
        )

    return asyncio.run(_execute(location, shown, start))


async def _execute(
    location: Location,
    shown: Shown,
    start: Callable[[FlowLLM, Sequence[Observer], StopSignal], Awaitable[RunResult]],
    *,
    grace: float | None = None,
) -> int:
    """Start or resume a run, show it, and return the exit code.

    A signal that arrives once the run has ended does not keep its results from being shown.
    """
    stop, screen = StopSignal(), messages()
    summary = Summary(tracebacks=debugging(), errors_shown=not (shown.quiet or drawn(screen)))
    signals = StopOnSignals(stop, say=screen.line)
    with ExitStack() as process:
        process.enter_context(tuned_process())
        async with open_app(location) as app:
            process.enter_context(signals)
            observers: list[Observer] = [summary, Notices(screen, grace=grace)]
            if shown.events is not None:
                observers.append(EventsFile(Path(shown.events), warn=screen.line))
            with ExitStack() as terminal:
                observers += [] if shown.quiet else [following(screen, terminal)]
                terminal.enter_context(results_apart())
                try:
                    result = await start(app, observers, stop)
                except StoreError as error:
                    _add_command(error, summary.run_id, location, app.database)
                    raise
            if shown.as_json and shown.full:
                result = await app.result(result.run_id, full=True)
        code = signals.exit_code() if result.status is RunStatus.INTERRUPTED else result.exit_code
        try:
            _show(result, shown, summary, None if is_memory(app.database) else location)
            sys.stdout.flush()
        except OutputLost as error:
            if not code:
                raise
            show_error(error)
            silence_output()
        finish_process(code)
    return code


@contextlib.contextmanager
def tuned_process() -> Iterator[None]:
    """Allow more open files, and have the garbage collector run less often, until the run is over."""
    files, thresholds = resource.getrlimit(resource.RLIMIT_NOFILE), gc.get_threshold()
    raise_limit()
    if 0 < thresholds[0] < _YOUNG:
        gc.set_threshold(_YOUNG, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, files)


def _add_command(error: StoreError, run_id: str, location: Location, database: str) -> None:
    """Add to the hint the command that goes on with the run once the database can be written again."""
    if run_id and not is_memory(database) and not isinstance(error, OwnershipLost):
        if isinstance(error, StorageFailed) and error.database:
            location = replace(location, db=error.database)
        error.hint = f"{error.hint}\nThe run goes on with: {command('resume', run_id, location)}".strip()


def _show(result: RunResult, shown: Shown, summary: Summary, location: Location | None) -> None:
    """Print results, then the summary; without a `location` the run cannot be resumed or shown later.

    Raises OutputLost where the results could not be shown.
    """
    lost, screen = None, messages()
    apart = screen.stream.isatty() and sys.stdout.isatty() and not shown.quiet
    try:
        _show_results(result, shown, apart=apart)
    except BrokenPipeError:  # whoever read them has seen enough, which is no failure of the run
        silence_output()
    except OutputLost as error:
        lost = error
    resume_it, failed_items, show_it = (
        "" if location is None else command(verb, result.run_id, location) for verb in ("resume", "failed", "show")
    )
    if summary.ended is None:
        if not shown.quiet:
            screen.line(f"run {result.run_id} has {result.status} already; nothing was done")
    elif not (shown.quiet and result.status is RunStatus.SUCCEEDED):
        if not shown.quiet and (drawn(screen) or (apart and result.outputs)):
            screen.line()
        width = screen.width() if screen.stream.isatty() else None
        for line in summary.lines(resume_it, failed_items, result.path, width=width):
            screen.line(*line)
    if lost is not None:
        hint = f"the run has {result.status}{show_it and f'; what it gives is shown by: {show_it}'}"
        raise OutputLost(lost.message, hint=hint)


def _show_results(result: RunResult, shown: Shown, *, apart: bool) -> None:
    """`apart`: with a blank line before them, on a terminal where both streams meet."""
    if shown.as_json:
        print_json(result.as_dict())
    elif outputs := known_outputs(result.status, result.outputs):
        if apart:
            messages().line()
        print_outputs(outputs)
