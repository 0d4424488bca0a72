"""`--over`: the data set, the file that takes what comes of it, and the step that stands for the whole graph."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from flowllm.core.cancel import StopSignal
from flowllm.core.clock import Clock
from flowllm.core.errors import DataFailed, StorageFailed, UsageError
from flowllm.core.file_endings import refused_ending
from flowllm.core.records import dataclass, replace
from flowllm.core.tasks import start_task, to_the_end
from flowllm.core.types import ROW, Json, StepKind
from flowllm.datasets.base import Rows
from flowllm.datasets.file_writes import OutputLock
from flowllm.datasets.files import BY_ENDING, GUESSED_TABLE, STDIN, ending_of, open_file
from flowllm.datasets.layouts import layout_of, line_of
from flowllm.datasets.lines import refuse_foreign_ending
from flowllm.datasets.output import OutputFile
from flowllm.datasets.rows import LimitedRows, PeekedRows
from flowllm.datasets.spool import NAME as STDIN_NAME
from flowllm.datasets.spool import forget_spool, open_spool, standard_input
from flowllm.language.inputs import fit_of, own_fields
from flowllm.language.problems import Location
from flowllm.language.workflow import Step, Workflow, WorkflowBody
from flowllm.runtime.execute import DatasetRun
from flowllm.runtime.options import RunOptions
from flowllm.runtime.row_sink import Lines, RowSink
from flowllm.storage.base import RunLease, RunRecord, Store


class Printed:
    """Lines to standard output; nobody can tell what an earlier attempt has printed."""

    def __init__(self) -> None:
        self._waiting: list[bytes] = []
        self._size = 0

    def add(self, index: int, row: Json, outputs: Json) -> None:
        line = line_of(index, row, outputs)
        self._waiting.append(line)
        self._size += len(line)

    @property
    def waiting(self) -> int:
        return self._size

    def complete(self) -> None:
        """See `Lines`."""

    async def flush(self, before: Callable[[], Awaitable[None]] | None = None) -> int | None:  # noqa: ARG002
        block, self._waiting, self._size = b"".join(self._waiting), [], 0
        if block:
            await asyncio.to_thread(_print, block)
        return None

    def disown(self) -> None:
        """See `Lines`."""

    def close(self) -> None:
        """See `Lines`."""


def _print(block: bytes) -> None:
    stream = sys.__stdout__  # what functions of the user's own print is led elsewhere
    if stream is None:
        return
    try:
        stream.buffer.write(block)
        stream.buffer.flush()
    except BrokenPipeError:  # whoever read the lines has seen enough
        raise
    except OSError as error:
        raise StorageFailed(
            f"standard output cannot be written: {error.strerror}",
            hint="the answers are in the database: a new run with --output FILE takes them from the cache",
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFiles:
    """The two ends of `--over`, both open."""

    rows: Rows
    lines: Lines
    printed: bool
    """The lines go to standard output."""
    columns: tuple[str, ...] = ()
    """Of the data set's first rows."""
    notices: tuple[str, ...] = ()
    """What is to be told of the data set."""

    async def close(self) -> None:
        """Nothing comes of them: no run could be put on record."""
        self.lines.close()
        await self.rows.close()


def absolute_paths(options: RunOptions) -> RunOptions:
    """The options with the paths of both files as they will still be right from another folder.

    Raises UsageError for one without the other, or for the same file twice.
    """
    if options.over is None:
        for name, given in (
            ("--output", options.output),
            ("--ordered", options.ordered or None),
            ("--format", options.format),
            ("--delimiter", options.delimiter),
        ):
            if given is not None:
                raise UsageError(f"{name} belongs to --over", hint="--over DATASET runs the graph for each row")
        return options
    if options.delimiter is not None and options.format not in {None, "csv"}:
        raise UsageError("--delimiter is for CSV alone", hint="leave out --format, or write --format csv")
    if options.output is None:
        raise UsageError("--over needs --output", hint="name a file such as out.jsonl, or - for standard output")
    over, output = (absolute(name) for name in (options.over, options.output))
    if over == output and over != STDIN:
        raise UsageError(f"--over and --output are the same file: {over}", hint="name another one with --output")
    if refused := refused_ending(output, rows=True):
        raise UsageError(f"--output {options.output}: {refused[0]}", hint=refused[1])
    return replace(options, over=over, output=output)


def absolute(name: str) -> str:
    """A path as it will still be right from another folder."""
    return name if name == STDIN else str(Path(name).absolute())


async def open_files(
    workflow: Workflow,
    options: RunOptions,
    *,
    run: RunRecord,
    new: bool,
    spool: Path,
    given: Mapping[str, Json],
    stop: StopSignal,
) -> RowFiles:
    """Both files of a run that is `new`, and not on record yet, or is resumed. `given` are inputs that hold for every row.
    No output is changed before its first line is durable.

    Raises UsageError, also for a data set whose columns are not the workflow's inputs.
    """
    rows = PeekedRows(_rows(options, spool))
    try:
        notices, columns = await _fitting(workflow, options, rows, given, stop, new=new)
        if _is_gone(options, run):
            notices = (*notices, f"{options.output} is gone: all its lines are written anew")
        lines = _lines(workflow, options, run, columns, new=new)
    except BaseException:  # also when it is cancelled
        await to_the_end(rows.close())
        if new:
            forget_spool(spool)
        raise
    limited = rows if options.limit is None else LimitedRows(rows, options.limit)
    return RowFiles(rows=limited, lines=lines, printed=options.output == STDIN, columns=columns, notices=notices)


async def planned_rows(
    workflow: Workflow, options: RunOptions, given: Mapping[str, Json]
) -> tuple[Rows | None, tuple[str, ...]]:
    """The data set of a run that is only planned, and what is to be told of it; None where it is standard input, which is
    not read. Raises UsageError as `open_files` does."""
    if options.over == STDIN:
        return None, ()
    rows = PeekedRows(_rows(options, Path()))
    try:
        notices, _ = await _fitting(workflow, options, rows, given, StopSignal(), new=True)
    except BaseException:  # also when it is cancelled
        await to_the_end(rows.close())
        raise
    return (rows if options.limit is None else LimitedRows(rows, options.limit)), notices


async def open_again(
    workflow: Workflow, options: RunOptions, run: RunRecord, spool: Path, store: Store, *, anew: bool, stop: StopSignal
) -> RowFiles | None:
    """The files of a run that is resumed, None without `--over`; `anew`: rows that have their lines may be run again, so
    all lines are written again. Raises UsageError."""
    if options.over is None:
        return None
    files = await open_files(workflow, options, run=run, new=False, spool=spool, given=run.inputs, stop=stop)
    if not anew or run.output_offset is None:
        return files
    files.lines.close()
    try:
        await store.mark_output(RunLease(run_id=run.run_id, epoch=run.epoch), 0)
    except BaseException:  # as above
        await to_the_end(files.rows.close())
        raise
    return replace(files, lines=_lines(workflow, options, replace(run, output_offset=0), files.columns, new=False))


async def _fitting(
    workflow: Workflow, options: RunOptions, rows: PeekedRows, given: Mapping[str, Json], stop: StopSignal, *, new: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What is to be told of the data set's columns, and the columns of its first rows. Raises UsageError where they do not fit, and for a new run also where
    the data cannot be read."""
    peeked = rows.peek()
    stopped = asyncio.Event()
    stop.listen(stopped, stopped.set)
    waiting = start_task(stopped.wait())  # data may be long in coming
    try:
        await asyncio.wait([peeked, waiting], return_when=asyncio.FIRST_COMPLETED)
        if not peeked.done():
            return (), ()
        taken = await asyncio.shield(peeked)
        first = [row.value for row in taken if row.error is None]
        if not taken:
            first = [dict.fromkeys(rows.columns, "")] if rows.columns else []
    except DataFailed as error:
        if not new:
            return (), ()  # the run tells it, as it would have before it was stopped
        raise UsageError(error.message, hint=error.hint) from None
    finally:
        waiting.cancel()
        stop.forget(stopped)
    fit = fit_of(workflow.inputs, given, first, _shown(options))
    if fit.error:
        raise UsageError(fit.error, hint=fit.hint)
    columns = dict.fromkeys(name for row in first for name in (own_fields(row) if isinstance(row, dict) else ("item",)))
    return (fit.notices if taken else (f"{_shown(options)} has no rows",)), tuple(columns)


def _shown(options: RunOptions) -> str:
    return STDIN_NAME if options.over == STDIN else Path(str(options.over)).name


def _lines(workflow: Workflow, options: RunOptions, run: RunRecord, columns: Sequence[str], *, new: bool) -> Lines:
    """Where the lines go; behind those on record of a run that is resumed. Raises UsageError."""
    assert options.output is not None  # noqa: S101 - absolute_paths has checked it
    if options.output == STDIN:
        return Printed()
    path, layout = Path(options.output), layout_of(options.output, list(workflow.outputs), columns)
    lock = OutputLock(path, run.run_id)
    try:
        if run.output_offset is not None and not _is_gone(options, run):
            return OutputFile.resume(path, run.output_offset, layout=layout, lock=lock)
        overwrite = options.overwrite and (new or not _written_since(path, run.started_at))
        return OutputFile.begin(path, overwrite=overwrite, layout=layout, lock=lock)
    except UsageError as error:
        lock.release()
        if new or run.output_offset is not None or not path.is_file():
            raise
        raise UsageError(
            error.message, hint="this run has not written to it: move it away, then go on with `flowllm resume`"
        ) from None


def _is_gone(options: RunOptions, run: RunRecord) -> bool:
    """The run has written lines to a file that is not there any more; rows that are done have them on record."""
    return bool(run.output_offset) and options.output != STDIN and not os.path.lexists(str(options.output))


def _written_since(path: Path, moment: float) -> bool:
    try:
        return path.stat().st_mtime > moment
    except OSError:
        return False


def _rows(options: RunOptions, spool: Path) -> Rows:
    assert options.over is not None  # noqa: S101 - asked for only then
    delimiter = options.delimiter
    kind = "csv" if delimiter is not None else options.format
    rows: Rows
    try:
        if options.over == STDIN:
            rows = open_spool(standard_input, spool, kind=kind or GUESSED_TABLE, delimiter=delimiter)
        else:
            if not Path(options.over).exists():
                raise UsageError(f"there is no file {options.over}", hint="--over names a data set")
            path = Path(options.over)
            if kind is None and ending_of(path.name) not in BY_ENDING:
                refuse_foreign_ending(path.name)
                kind = GUESSED_TABLE
            rows = open_file(path, kind=kind, delimiter=delimiter, name=path.name)
    except DataFailed as error:
        raise UsageError(error.message, hint=error.hint) from None
    return rows


def row_step(workflow: Workflow, given: Mapping[str, Json]) -> Step:
    """The step that stands for the whole graph. `given` are inputs that hold for every row that does not have them itself."""
    inputs = {
        name: replace(declared, default=given[name]) if name in given else declared
        for name, declared in workflow.inputs.items()
    }
    return Step(
        id=ROW,
        kind=StepKind.WORKFLOW,
        body=WorkflowBody(graph=replace(workflow, inputs=inputs)),
        where=Location(file=workflow.path, line=1, column=1),
    )


def over_of(
    workflow: Workflow,
    files: RowFiles,
    *,
    run: RunRecord,
    given: Mapping[str, Json],
    options: RunOptions,
    store: Store,
    clock: Clock,
) -> DatasetRun:
    """What the engine needs; `given` as for `row_step`."""
    sink = RowSink(
        files.lines,
        store=store,
        lease=RunLease(run_id=run.run_id, epoch=run.epoch),
        clock=clock,
        ordered=options.ordered,
        again=not files.printed,
    )
    return DatasetRun(step=row_step(workflow, given), rows=files.rows, sink=sink)
