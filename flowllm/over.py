"""`--over`: the data set, the file that takes what comes of it, and the step that stands for the whole graph."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from flowllm.data.files import STDIN, open_file
from flowllm.data.formats import BY_ENDING, GUESSED_TABLE
from flowllm.data.layouts import layout_of, line_of, refused_ending
from flowllm.data.lists import LimitedRows
from flowllm.data.output import OutputFile
from flowllm.data.spool import open_spool, standard_input
from flowllm.engine.rows import RowSink
from flowllm.engine.scheduler import Over
from flowllm.errors import DataFailed, StorageFailed, UsageError
from flowllm.spec.reference import Location
from flowllm.spec.workflow import Step, WorkflowBody
from flowllm.store.base import Fence
from flowllm.types import ROW, StepKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowllm.clock import Clock
    from flowllm.data.base import Rows
    from flowllm.engine.rows import Lines
    from flowllm.result import RunOptions
    from flowllm.spec.workflow import Workflow
    from flowllm.store.base import RunRecord, Store
    from flowllm.types import Json


class Printed:
    """Lines to standard output; nobody can tell what an earlier sitting has printed."""

    def __init__(self) -> None:
        self._waiting: list[bytes] = []
        self._size = 0

    def add(self, index: int, row: Json, outputs: Json) -> None:
        """See `Lines`."""
        line = line_of(index, row, outputs)
        self._waiting.append(line)
        self._size += len(line)

    @property
    def waiting(self) -> int:
        """See `Lines`."""
        return self._size

    async def flush(self) -> int:
        """See `Lines`."""
        block, self._waiting, self._size = b"".join(self._waiting), [], 0
        if block:
            await asyncio.to_thread(_print, block)
        return 0

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


def absolute_paths(options: RunOptions) -> RunOptions:
    """The options with the paths of both files as they will still be right from another folder.

    Raises UsageError for one without the other, or for the same file twice.
    """
    if options.over is None:
        for name, given in (("--output", options.output), ("--ordered", options.ordered or None)):
            if given is not None:
                raise UsageError(
                    f"{name} belongs to --over", hint="--over DATASET runs the graph for each row"
                )
        return options
    if options.output is None:
        raise UsageError(
            "--over needs --output", hint="name a file such as out.jsonl, or - for standard output"
        )
    over, output = (_absolute(name) for name in (options.over, options.output))
    if over == output and over != STDIN:
        raise UsageError(
            f"--over and --output are the same file: {over}", hint="name another one with --output"
        )
    if refused := refused_ending(output):
        raise UsageError(f"--output {options.output}: {refused}", hint="name x.jsonl or x.csv")
    return replace(options, over=over, output=output)


def _absolute(name: str) -> str:
    return name if name == STDIN else str(Path(name).absolute())


def open_files(
    workflow: Workflow, options: RunOptions, *, spool: Path, run: RunRecord | None = None
) -> RowFiles:
    """Both files; `run` is the one that is resumed, None for a new one. Raises UsageError."""
    rows = _rows(options, spool)
    assert options.output is not None  # noqa: S101 - absolute_paths has checked it
    if options.output == STDIN:
        return RowFiles(rows=rows, lines=Printed(), printed=True)
    path, layout = Path(options.output), layout_of(options.output, list(workflow.outputs))
    if run is None or (not run.output_offset and not path.exists()):
        lines = OutputFile.begin(path, overwrite=options.overwrite, layout=layout)
    else:
        lines = OutputFile.resume(path, run.output_offset or 0, layout=layout)
    return RowFiles(rows=rows, lines=lines, printed=False)


def _rows(options: RunOptions, spool: Path) -> Rows:
    assert options.over is not None  # noqa: S101 - asked for only then
    rows: Rows
    try:
        if options.over == STDIN:
            rows = open_spool(standard_input, spool, kind=GUESSED_TABLE)
        else:
            if not Path(options.over).exists():
                raise UsageError(f"there is no file {options.over}", hint="--over names a data set")
            path = Path(options.over)
            known = path.suffix.lower() in BY_ENDING
            rows = open_file(path, kind=None if known else GUESSED_TABLE, name=path.name)
    except DataFailed as error:
        raise UsageError(error.message, hint=error.hint) from None
    return rows if options.limit is None else LimitedRows(rows, options.limit)


def over_of(
    workflow: Workflow,
    files: RowFiles,
    *,
    run: RunRecord,
    given: Mapping[str, Json],
    options: RunOptions,
    store: Store,
    clock: Clock,
) -> Over:
    """What the engine needs. `given` are inputs that hold for every row that does not have them itself."""
    inputs = {
        name: replace(declared, default=given[name]) if name in given else declared
        for name, declared in workflow.inputs.items()
    }
    step = Step(
        id=ROW,
        kind=StepKind.WORKFLOW,
        body=WorkflowBody(graph=replace(workflow.graph, inputs=inputs)),
        where=Location(file=workflow.path, line=1, column=1),
    )
    sink = RowSink(
        files.lines,
        store=store,
        fence=Fence(run_id=run.run_id, epoch=run.epoch),
        clock=clock,
        ordered=options.ordered,
        again=not files.printed,
    )
    return Over(step=step, rows=files.rows, sink=sink)
