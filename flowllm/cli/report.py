"""flowllm report: a run as one file that can be sent to somebody."""

from __future__ import annotations

import time
from pathlib import Path

import click

from flowllm.app.flowllm import FlowLLM
from flowllm.cli.database import find_run, reading
from flowllm.cli.options import Location, location_options
from flowllm.cli.output import say
from flowllm.core.errors import InvalidWorkflow
from flowllm.datasets.file_writes import write_file
from flowllm.datasets.output import check_output
from flowllm.reporting.text import visible
from flowllm.ui.report.run_page import run_page
from flowllm.views.report import ITEMS_SHOWN, Report
from flowllm.views.report import report as read_report


@click.command()
@click.argument("run")
@click.option("--output", metavar="FILE", required=True, help="Where to.")
@click.option("--overwrite", is_flag=True, help="FILE may exist already.")
@click.option(
    "--items",
    type=click.IntRange(min=0),
    default=ITEMS_SHOWN,
    show_default=True,
    help="Items of each foreach to tell in full, failed ones first.",
)
@location_options
def report(*, run: str, output: str, overwrite: bool, items: int, location: Location) -> None:
    """Write RUN as a page for a browser: one file, which runs no script and loads nothing.

    What failed comes first, then the steps over time, the graph, the models, and each step with its prompts and answers. RUN is an
    id, its beginning, or `last`.
    """
    path = Path(output)
    check_output(path, overwrite=overwrite)

    async def work(app: FlowLLM) -> Report:
        found = await find_run(app.store, run)
        try:
            workflow = app.workflow_of(found)
        except InvalidWorkflow:  # of another version
            workflow = None
        return await read_report(app.store, found, workflow, items=items, now=time.time())

    write_page(path, run_page(reading(location, work), now=time.time()))


def write_page(path: Path, page: str) -> None:
    """Put a page in its place, whole. Raises StorageFailed."""
    write_file(path, lambda file: file.write(page.encode()))
    say(f"wrote {visible(str(path))}")
