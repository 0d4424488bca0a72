"""flowllm export: the results of a run as a file that other programs read."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from flowllm.app.export import export_rows
from flowllm.app.flowllm import FlowLLM
from flowllm.cli.database import find_run, reading
from flowllm.cli.options import Location, location_options
from flowllm.cli.output import say
from flowllm.core.errors import UsageError
from flowllm.core.types import NodeStatus
from flowllm.datasets.file_writes import write_file
from flowllm.datasets.files import STDIN
from flowllm.datasets.output import check_output
from flowllm.datasets.row_files import FORMATS, format_of
from flowllm.reporting.text import harmless_json, plural, visible
from flowllm.views.rows import Rows, RunRows
from flowllm.views.steps import step_kinds

_STATUSES = [status.value for status in NodeStatus if status is not NodeStatus.PENDING]


@click.command()
@click.argument("run")
@click.argument("step", required=False)
@click.option("--format", "form", type=click.Choice(FORMATS), help="What to write  [default: by FILE's ending, or csv]")
@click.option("--output", metavar="FILE", help="Where to  [default: standard output]")
@click.option("--overwrite", is_flag=True, help="FILE may exist already.")
@click.option("--status", "statuses", type=click.Choice(_STATUSES), multiple=True, help="Only rows of that status.")
@click.option("--columns", metavar="NAME,…", help="Only these columns, in this order.")
@location_options
def export(
    *,
    run: str,
    step: str | None,
    form: str | None,
    output: str | None,
    overwrite: bool,
    statuses: Sequence[str],
    columns: str | None,
    location: Location,
) -> None:
    """Write the results of RUN as a table: one row for each item of STEP's foreach, or of the rows of --over.

    RUN is an id, its beginning, or `last`. STEP may be left out where only one step has items; it may be a step within items,
    as in posts.title, one item, 'posts[17]', or a step without items, which is one row. A run that goes on gives what there is.

    \b
      flowllm export last --output results.csv
      flowllm export last classify --format jsonl --status failed
    """  # noqa: D301 - \b is click's mark for lines that are kept as they are
    path = None if output in {None, STDIN} else Path(str(output))
    form = form or ("csv" if path is None else format_of(path.name))
    wanted = [name.strip() for name in columns.split(",") if name.strip()] if columns else []
    if path is not None:
        check_output(path, overwrite=overwrite)
    elif form == "parquet" and sys.stdout.isatty():
        raise UsageError("Parquet is nothing for a terminal", hint="name a file with --output")

    async def work(app: FlowLLM) -> int:
        found = await find_run(app.store, run)
        results = app.store.results(found.run_id)
        source = RunRows(run_id=found.run_id, going=found.going, steps=step_kinds(found), results=results)
        return _export(source.of(step, [NodeStatus(status) for status in statuses]), path, form, wanted)

    count = reading(location, work)
    if path is not None:
        say(f"wrote {plural(count, 'row')} to {visible(str(output))}")


def _export(rows: Rows, path: Path | None, form: str, columns: Sequence[str]) -> int:
    if path is None:
        with _StandardOutput(visible if form in {"csv", "tsv"} else harmless_json) as stream:
            return export_rows(rows, stream, form, columns)
    return write_file(path, lambda file: export_rows(rows, file, form, columns))


class _StandardOutput(io.RawIOBase):
    """Standard output for bytes; on a terminal, or where it takes texts alone, as harmless text."""

    def __init__(self, harmless: Callable[[str], str]) -> None:
        self._text = harmless if sys.stdout.isatty() else str
        self._bytes = None if sys.stdout.isatty() else getattr(sys.stdout, "buffer", None)

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, block: bytes, /) -> int:  # type: ignore[override]
        """All of it."""
        if self._bytes is None:
            sys.stdout.write(self._text(block.decode()))
        else:
            self._bytes.write(block)
        return len(block)

    def __exit__(self, *_: object) -> None:
        sys.stdout.flush()
