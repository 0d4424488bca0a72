"""flowllm show: one run, or one step of it, as it is on record."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import click

from flowllm.app.flowllm import FlowLLM
from flowllm.app.prepare import step_of
from flowllm.app.result import figures_of
from flowllm.cli.database import command, find_run, reading
from flowllm.cli.inputs import full_option
from flowllm.cli.options import Location, json_option, location_options
from flowllm.cli.output import known_outputs, page_width, print_json, print_outputs, results
from flowllm.cli.pager import paged, pager_option
from flowllm.cli.record import Record, read_node, read_run
from flowllm.cli.show_parts import print_error, print_field, print_steps, print_times
from flowllm.cli.show_step import print_step
from flowllm.core.errors import FlowLLMError
from flowllm.core.types import RUN_RESUMABLE, Json, NodeStatus, step_path
from flowllm.language.workflow import Accept
from flowllm.reporting.models import model_lines
from flowllm.reporting.screen import Part, Screen, plain, status_part
from flowllm.reporting.summary import figures, took
from flowllm.reporting.tables import wrapped
from flowllm.reporting.text import clock_time, json_text, one_line, resume_options, visible
from flowllm.storage.base import NodeRecord, RunRecord
from flowllm.views.nodes import MOST_ITEMS
from flowllm.views.runs import seen_at, worked_s

_ERRORS = 5
"""Errors of steps that are shown in full."""


@click.command()
@click.argument("run")
@click.argument("step", required=False)
@json_option
@full_option
@pager_option
@location_options
def show(*, run: str, step: str | None, as_json: bool, full: bool, no_pager: bool, location: Location) -> None:
    """Show RUN, or one STEP of it with its prompt, answer and attempts.

    RUN is an id, its beginning, or `last`. STEP may be an item, or a step within a step: 'posts[17]', post.headline.
    """
    outputs = (None if full else MOST_ITEMS) if as_json else 0

    async def work(app: FlowLLM) -> tuple[Record, Accept | None, tuple[float, float]]:
        store, found = app.store, await find_run(app.store, run)
        at = await seen_at(store, found, now=time.time())
        times = at, worked_s(found, now=at)
        found = replace(found, stats=figures_of(found))
        if step is None:
            return await read_run(store, found, outputs, requests=as_json), None, times
        record = await read_node(store, found, step, outputs, as_json=as_json)
        wanted = record.node is not None and not as_json and record.node.counts is not None
        return record, _accept(app, found, step) if wanted else None, times

    record, accept, times = reading(location, work)
    if as_json:
        print_json(record.as_dict())
        return
    with paged(wanted=not no_pager):
        if record.node is None:
            _print_run(record, location, *times)
        else:
            print_step(record, record.node, accept)
            step = f" --step {shlex.quote(step_path(record.node.node_id))}"
            _print_failed_items([record.node], command("failed", record.run.run_id, location) + step)


def _accept(app: FlowLLM, run: RunRecord, step: str) -> Accept | None:
    """When a foreach had enough, if the run's file can still be read."""
    try:
        found = step_of(app.workflow_of(run), step)
    except FlowLLMError:
        return None
    return None if found is None or found.foreach is None else found.foreach.accept


def _print_failed_items(nodes: Sequence[NodeRecord], failed: str) -> None:
    if any(node.counts is not None and node.counts.failed for node in nodes):
        screen = results(wraps=True)
        screen.line()
        screen.line("the failed items: ", (failed, "bold"))


def _print_run(record: Record, location: Location, at: float, took_s: float) -> None:
    """`at`: now, or when a run whose process is gone gave its last sign of life."""
    run, screen = record.run, results(wraps=True)
    screen.line("run ", (run.run_id, "bold"), f": {visible(run.workflow)}, ", status_part(run.status))
    _print_run_facts(screen, run, at, took_s)
    _print_figures(screen, record)
    if record.nodes:
        screen.line()
        print_steps(record)
    failed = [node for node in record.nodes if node.status is NodeStatus.FAILED and node.error]
    for node in failed[:_ERRORS]:
        print_error(screen, {**(node.error or {}), "traceback": None}, node.node_id)
    if run.error is not None and not failed:
        print_error(screen, run.error)
    if outputs := known_outputs(run.status, run.outputs or {}):
        screen.line()
        print_outputs(outputs)
    _print_failed_items(record.nodes, command("failed", run.run_id, location))
    if run.status in RUN_RESUMABLE:
        screen.line()
        errors = [*(node.error for node in failed), *([] if run.error is None else [run.error])]
        options = resume_options(run.status, [error for error in errors if error], run.path)
        screen.line("resume it with: ", (command("resume", run.run_id, location) + options, "bold"))


def _print_figures(screen: Screen, record: Record) -> None:
    run, lines = record.run, list[tuple[Part, ...]]()
    if run.finished_at is None:  # its requests are not counted yet
        lines = [(took(run.stats),)]
    else:
        lines = figures(run.stats, latency=not record.models)
        if run.epoch > 1:
            screen.line("  since it was last resumed:")
    for one in lines:
        for part in wrapped(f"  {plain(one)}", page_width(), indent="    "):
            screen.line(part)
    if record.models:
        screen.line()
        for line in model_lines(record.models, page_width()):
            screen.line(*line)


def _print_run_facts(screen: Screen, run: RunRecord, at: float, took_s: float) -> None:
    print_field(screen, "file", run.path)
    print_times(screen, run.started_at, run.finished_at, took_s)
    if run.finished_at is None and not run.going:
        print_field(screen, "last sign", clock_time(at, zone=True))
    if run.going and run.owner is not None:
        print_field(screen, "owner", f"process {run.owner.pid} on {run.owner.host}")
    print_field(screen, "provider", run.provider)
    if run.tags:
        print_field(screen, "tags", ", ".join(run.tags))
    if run.options.get("config"):
        print_field(screen, "config", str(run.options["config"]))
    if options := _options(run.options):
        print_field(screen, "options", options)
    for name, value in run.inputs.items():
        print_field(
            screen, f"input {name}", one_line(value if isinstance(value, str) else json_text(value, indent=None))
        )


def _options(given: Mapping[str, Json]) -> str:
    """As they were written behind `flowllm run`."""
    words: list[str] = []
    for name, value in given.items():
        option = f"--{name.replace('_', '-')}"
        match value:
            case _ if name in {"config", "given", "mended"}:
                pass
            case True:
                words.append(option)
            case Mapping():
                option = option.replace("settings", "set")
                words += [word for key, one in value.items() for word in (option, f"{key}={one}")]
            case list():
                words += [word for one in value for word in (option, str(one))]
            case _:
                words += [option, f"{value:g}s" if name == "grace" else str(value)]
    return shlex.join(words)
