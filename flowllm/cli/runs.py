"""flowllm runs: the history as a list."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import click

from flowllm.app.flowllm import FlowLLM
from flowllm.cli.database import compacted, confirm, find_run, reading, step_kinds, writing, yes_option
from flowllm.cli.failures import say
from flowllm.cli.options import DURATION, Location, json_option, location_options
from flowllm.cli.output import clock_time, print_json, print_table, results
from flowllm.core.clock import timestamp
from flowllm.core.errors import DatabaseCorrupt
from flowllm.core.money import price
from flowllm.core.types import Json, NodeStatus, RunId
from flowllm.reporting.text import duration, plural
from flowllm.runtime.recorded import COUNTED, figures_of
from flowllm.storage.base import RunRecord, Store

_ALL = 1_000_000_000
"""A limit that no history reaches."""
WIDE = 90
"""Columns of a terminal that has room for whole times."""
_LOCATION = "flowllm.cli.runs.location"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One run of the list."""

    run: RunRecord
    succeeded: int
    steps: int
    """All of the workflow's."""
    figures: Mapping[str, Json]

    def as_dict(self) -> dict[str, Json]:
        """As JSON."""
        return {
            "run_id": self.run.run_id,
            "workflow": self.run.workflow,
            "status": self.run.status.value,
            "started_at": timestamp(self.run.started_at),
            "finished_at": timestamp(self.run.finished_at),
            "duration_s": self.run.stats.get("duration_s"),
            "steps": {"succeeded": self.succeeded, "total": self.steps},
            **{name: self.figures[name] for name in ("cost_usd", "at_least", "unknown")},
            "path": self.run.path,
            "tenant": self.run.tenant,
        }

    def cells(self, *, narrow: bool) -> list[str]:
        """As a line of the table; `narrow`: without the year and the seconds."""
        started = clock_time(self.run.started_at)
        return [
            self.run.run_id,
            self.run.workflow,
            self.run.status.value,
            started[5:16] if narrow else started,
            duration(self.run.stats.get("duration_s")),
            f"{self.succeeded}/{self.steps}",
            price(self.figures),
        ]


@click.group(invoke_without_command=True)
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="The newest so many.")
@click.option("--workflow", metavar="NAME", help="Only runs of this workflow.")
@json_option
@location_options
@click.pass_context
def runs(ctx: click.Context, *, limit: int, workflow: str | None, as_json: bool, location: Location) -> None:
    """List runs, the newest first; or prune or delete some."""
    ctx.meta[_LOCATION] = location
    if ctx.invoked_subcommand is not None:
        return

    async def work(app: FlowLLM) -> list[Row]:
        found = await app.store.runs(limit=limit, workflow=workflow)
        return list(await asyncio.gather(*(_row(app.store, run) for run in found)))

    rows = reading(location, work)
    if as_json:
        print_json([row.as_dict() for row in rows])
    elif not rows:
        say("no runs yet: start one with `flowllm run FILE`")
    else:
        headers = ["RUN", "WORKFLOW", "STATUS", "STARTED", "TOOK", "STEPS OK", "COST"]
        narrow = results().stream.isatty() and results().width() < WIDE
        print_table(headers, [row.cells(narrow=narrow) for row in rows], right=("TOOK", "STEPS OK", "COST"))


async def _row(store: Store, run: RunRecord) -> Row:
    counts = await store.count_steps(run.run_id)
    figures = figures_of(run)
    steps = figures.get(COUNTED, 0)
    if not steps:  # it runs, its process is gone, or it is older than this figure
        with suppress(DatabaseCorrupt):  # a damaged one is listed as failed
            steps = len(step_kinds(await store.run(run.run_id)))
    return Row(
        run=run, succeeded=counts.get(NodeStatus.SUCCEEDED, 0), steps=max(sum(counts.values()), steps), figures=figures
    )


@runs.command()
@click.option("--older-than", type=DURATION, required=True, metavar="DURATION", help="Such as 30d.")
@yes_option
@location_options
@click.pass_context
def prune(ctx: click.Context, *, older_than: float, yes: bool, location: Location) -> None:
    """Delete runs that ended longer ago than that, and give their space back to the disk. Stored answers stay."""
    before = time.time() - older_than

    async def work(app: FlowLLM) -> str:
        old = [run.run_id for run in await app.store.runs(limit=_ALL, ended_before=before)]
        if not old:
            return _deleted(0)
        confirm(f"delete {plural(len(old), 'run')} that ended before {clock_time(before)}", yes=yes)
        return _deleted(await app.delete(old), await compacted(app.store))

    say(writing(_inherited(ctx, location), work))


@runs.command()
@click.argument("run_ids", nargs=-1, required=True, metavar="RUN...")
@location_options
@click.pass_context
def delete(ctx: click.Context, *, run_ids: Sequence[str], location: Location) -> None:
    """Delete RUNs with their results. Stored answers stay."""

    async def work(app: FlowLLM) -> str:
        found = [await _id_of(app.store, named) for named in run_ids]
        return _deleted(await app.delete(found), await compacted(app.store))

    say(writing(_inherited(ctx, location), work))


def _deleted(count: int, more: str = "") -> str:
    return f"deleted {plural(count, 'run')}{more}"


async def _id_of(store: Store, named: str) -> RunId:
    """Of a run that is to be deleted; a damaged one is known by its whole id alone."""
    try:
        return (await find_run(store, named)).run_id
    except DatabaseCorrupt:
        return RunId(named)


def _inherited(ctx: click.Context, location: Location) -> Location:
    """`runs --db X delete` is `runs delete --db X`."""
    above: Location = ctx.meta[_LOCATION]
    return Location(db=location.db or above.db, config=location.config or above.config)
