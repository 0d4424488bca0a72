"""What `run` and `resume` share: observers around a run, then its results."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from flowllm.app.flowllm import FlowLLM
from flowllm.app.result import RunResult
from flowllm.cli.failures import tell
from flowllm.cli.options import Place, debugging
from flowllm.cli.output import messages, outputs_there, print_json, print_outputs
from flowllm.cli.session import failed_command, open_app, resume_command, show_command
from flowllm.cli.signals import StopOnSignals
from flowllm.cli.start import settle
from flowllm.cli.streams import OutputLost, results_apart, silence_output
from flowllm.core.cancel import StopSignal
from flowllm.core.descriptors import raise_limit
from flowllm.core.errors import OwnershipLost, StorageFailed, StoreError, UsageError
from flowllm.core.types import RunStatus
from flowllm.datasets.claims import Claimed, Claims
from flowllm.datasets.files import STDIN
from flowllm.reporting.base import Observer
from flowllm.reporting.events_file import EventsFile
from flowllm.reporting.progress import Notices, Progress
from flowllm.reporting.screen import Screen
from flowllm.reporting.summary import Summary
from flowllm.storage.location import is_memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What is shown of a run, and where."""

    as_json: bool = False
    full: bool = False
    """All items of long outputs."""
    quiet: bool = False
    events: str | None = None
    grace: float | None = None
    debug: bool = field(default_factory=debugging)
    """Tracebacks are shown."""
    screen: Screen = field(default_factory=messages)

    def claims(self, inputs: str | None, texts: Sequence[str] = (), mended: str | None = None) -> Claims:
        """The files of the options, which a run does not write over: `texts` are those of -i. Raises UsageError."""
        claims = Claims()
        values = (text.partition("=")[2] for text in texts)
        files = [value[1:] for value in values if value.startswith("@") and not value.startswith("@@")]
        for path in (*files, inputs, mended):
            if path not in {None, STDIN}:
                claims.reads(str(path), "a file of inputs")
        if self.events is not None:
            try:
                claims.writes(self.events, "--events")
            except Claimed as error:
                raise UsageError(str(error), hint="name another file") from None
        return claims

    def observers(self, summary: Summary) -> list[Observer]:
        """Those that this run gets. Raises UsageError if the events' file cannot be written."""
        found: list[Observer] = [summary, Notices(self.screen, grace=self.grace)]
        if not self.quiet:
            found.append(Progress(self.screen))
        if self.events is not None:
            found.append(EventsFile(Path(self.events), warn=self.screen.line))
        return found


async def carry_out(
    place: Place, shown: Shown, start: Callable[[FlowLLM, Sequence[Observer], StopSignal], Awaitable[RunResult]]
) -> int:
    """Start a run or go on with one, show it, and give the exit code. A signal that comes once the run has ended does not
    keep its results from being shown."""
    raise_limit()
    stop, summary = StopSignal(), Summary(tracebacks=shown.debug, items_told=not shown.quiet)
    signals = StopOnSignals(stop, say=shown.screen.line)
    with ExitStack() as heard:
        async with open_app(place) as app:
            heard.enter_context(signals)
            with results_apart():
                try:
                    result = await start(app, shown.observers(summary), stop)
                except StoreError as error:
                    _add_command(error, summary.run_id, place, app.database)
                    raise
            if shown.as_json and shown.full:
                result = await app.result(result.run_id, full=True)
        code = signals.exit_code() if result.status is RunStatus.INTERRUPTED else result.exit_code
        try:
            _show(result, shown, summary, None if is_memory(app.database) else place)
            sys.stdout.flush()
        except OutputLost as error:
            if not code:
                raise
            tell(error)
            silence_output()
        settle(code)
    return code


def _add_command(error: StoreError, run_id: str, place: Place, database: str) -> None:
    """Tell the command that goes on with the run once that is mended."""
    if run_id and not is_memory(database) and not isinstance(error, OwnershipLost):
        if isinstance(error, StorageFailed) and error.database:
            place = replace(place, db=error.database)
        error.hint = f"{error.hint}\nThe run goes on with: {resume_command(run_id, place)}".strip()


def _blank(screen: Screen, *, wanted: bool) -> None:
    """On a terminal, where both streams meet, results stand apart from messages."""
    if wanted:
        screen.line()


def _show(result: RunResult, shown: Shown, summary: Summary, place: Place | None) -> None:
    """Results, then the summary; without a `place` there is nothing to come back to later. Raises OutputLost where the
    results could not be shown."""
    lost = None
    try:
        _show_results(result, shown)
    except BrokenPipeError:  # whoever read them has seen enough, which is no matter of the run's
        silence_output()
    except OutputLost as error:
        lost = error
    if summary.ended is None:
        if not shown.quiet:
            shown.screen.line(f"run {result.run_id} has {result.status} already; nothing was done")
    elif not (shown.quiet and result.status is RunStatus.SUCCEEDED):
        commands = ("", "")
        if place is not None:
            commands = (resume_command(result.run_id, place), failed_command(result.run_id, place))
        for line in summary.lines(*commands, result.path):
            shown.screen.line(*line)
    if lost is not None:
        hint = f"the run has {result.status}"
        if place is not None:
            hint += f"; what it gives is shown by: {show_command(result.run_id, place)}"
        raise OutputLost(lost.message, hint=hint)


def _show_results(result: RunResult, shown: Shown) -> None:
    if shown.as_json:
        print_json(result.as_dict())
    elif there := outputs_there(result.status, result.outputs):
        apart = shown.screen.stream.isatty() and not shown.quiet
        _blank(shown.screen, wanted=apart)
        print_outputs(there)
        _blank(shown.screen, wanted=apart)
