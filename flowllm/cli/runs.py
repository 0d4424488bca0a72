"""flowllm runs: the history as a list."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import click

from flowllm.cli.confirm import confirm, space_given_back, yes_option
from flowllm.cli.failures import say
from flowllm.cli.history import step_kinds
from flowllm.cli.options import DURATION, Place, json_option, place_options
from flowllm.cli.output import print_json, print_table
from flowllm.cli.session import find_run, open_app, open_to_read, wait_for
from flowllm.core.clock import timestamp
from flowllm.core.errors import DatabaseCorrupt
from flowllm.core.money import price
from flowllm.core.types import Json, NodeStatus, RunId
from flowllm.reporting.text import duration, plural
from flowllm.runtime.recorded import COUNTED, figures_of
from flowllm.storage.base import RunRecord, Store

EVERY = 1_000_000_000
"""A limit that no history reaches."""
_PLACE = "flowllm.cli.runs.place"


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

    def cells(self) -> list[str]:
        """As a line of the table."""
        return [
            self.run.run_id,
            self.run.workflow,
            self.run.status.value,
            shown_time(self.run.started_at),
            duration(self.run.stats.get("duration_s")),
            f"{self.succeeded}/{self.steps}",
            price(self.figures),
        ]


def shown_time(seconds: float | None) -> str:
    """A wall clock time for people: UTC, to the second."""
    stamp = timestamp(seconds)
    return "-" if stamp is None else f"{stamp[:10]} {stamp[11:19]}Z"


@click.group(invoke_without_command=True)
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="The newest so many.")
@click.option("--workflow", metavar="NAME", help="Only runs of this workflow.")
@json_option
@place_options
@click.pass_context
def runs(ctx: click.Context, *, limit: int, workflow: str | None, as_json: bool, place: Place) -> None:
    """List runs, the newest first; or prune or delete some."""
    ctx.meta[_PLACE] = place
    if ctx.invoked_subcommand is not None:
        return
    rows = wait_for(_rows(place, limit, workflow))
    if as_json:
        print_json([row.as_dict() for row in rows])
    elif not rows:
        say("no runs yet: start one with `flowllm run FILE`")
    else:
        headers = ["RUN", "WORKFLOW", "STATUS", "STARTED", "TOOK", "STEPS OK", "COST"]
        print_table(headers, [row.cells() for row in rows], right=("TOOK", "STEPS OK", "COST"))


async def _rows(place: Place, limit: int, workflow: str | None) -> list[Row]:
    async with open_to_read(place) as app:
        found = await app.store.runs(limit=limit, workflow=workflow)
        return list(await asyncio.gather(*(_row(app.store, run) for run in found)))


async def _row(store: Store, run: RunRecord) -> Row:
    counts = await store.count_steps(run.run_id)
    figures = await figures_of(store, run)
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
@place_options
@click.pass_context
def prune(ctx: click.Context, *, older_than: float, yes: bool, place: Place) -> None:
    """Delete runs that ended longer ago than that, and give their space back to the disk. Stored answers stay."""
    place = _inherited(ctx, place)
    before = time.time() - older_than

    async def work() -> str:
        async with open_app(place) as app:
            old = [run.run_id for run in await app.store.runs(limit=EVERY, ended_before=before)]
            if not old:
                return _deleted(0)
            confirm(f"delete {plural(len(old), 'run')} that ended before {shown_time(before)}", yes=yes)
            return _deleted(await app.delete(old), await space_given_back(app.store))

    say(wait_for(work()))


@runs.command()
@click.argument("run_ids", nargs=-1, required=True, metavar="RUN...")
@place_options
@click.pass_context
def delete(ctx: click.Context, *, run_ids: Sequence[str], place: Place) -> None:
    """Delete RUNs with their results. Stored answers stay."""
    place = _inherited(ctx, place)

    async def work() -> str:
        async with open_app(place) as app:
            found = [await _id_of(app.store, named) for named in run_ids]
            return _deleted(await app.delete(found), await space_given_back(app.store))

    say(wait_for(work()))


def _deleted(count: int, more: str = "") -> str:
    return f"deleted {plural(count, 'run')}{more}"


async def _id_of(store: Store, named: str) -> RunId:
    """Of a run that is to be deleted; a damaged one is known by its whole id alone."""
    try:
        return (await find_run(store, named)).run_id
    except DatabaseCorrupt:
        return RunId(named)


def _inherited(ctx: click.Context, place: Place) -> Place:
    """`runs --db X delete` is `runs delete --db X`."""
    above: Place = ctx.meta[_PLACE]
    return Place(db=place.db or above.db, config=place.config or above.config)
