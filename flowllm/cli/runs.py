"""flowllm runs and failed: what is on record as lists, and its removal."""

from __future__ import annotations

import asyncio
import functools
import math
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import click

from flowllm.app.flowllm import FlowLLM
from flowllm.app.result import COUNTED, figures_of
from flowllm.cli.database import command, find_run, reading, writing
from flowllm.cli.options import DURATION, MOMENT, Location, collected, json_option, location_options
from flowllm.cli.output import page_width, print_json, print_table, results, say, unicode_output
from flowllm.core.clock import timestamp
from flowllm.core.errors import DatabaseCorrupt, UsageError
from flowllm.core.records import dataclass, fields
from flowllm.core.types import ROW, Json, NodeStatus, RunId, RunStatus, step_path
from flowllm.language.problems import nearest
from flowllm.reporting.text import (
    at_least,
    byte_size,
    clock_time,
    dollars,
    duration,
    json_text,
    one_line,
    plural,
    visible,
)
from flowllm.storage.base import NodeRecord, RunRecord, Store
from flowllm.views.runs import seen_at, worked_s
from flowllm.views.steps import step_kinds

yes_option = click.option("--yes", "-y", is_flag=True, help="Do not ask.")

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
    took_s: float
    figures: Mapping[str, Json]

    def as_dict(self) -> dict[str, Json]:
        """As JSON."""
        return {
            "run_id": self.run.run_id,
            "workflow": self.run.workflow,
            "status": self.run.status.value,
            "started_at": timestamp(self.run.started_at),
            "finished_at": timestamp(self.run.finished_at),
            "duration_s": round(self.took_s, 3),
            "steps": {"succeeded": self.succeeded, "total": self.steps},
            **{name: self.figures[name] for name in ("cost_usd", "at_least", "unknown")},
            "path": self.run.path,
            "tenant": self.run.tenant,
            "tags": list(self.run.tags),
        }

    def cells(self, started: str, *, narrow: bool) -> dict[str, str]:
        """As a line of the table; `started` is the header of its beginning; `narrow`: without the year and the seconds."""
        at = clock_time(self.run.started_at)
        return {
            "RUN": self.run.run_id,
            "WORKFLOW": self.run.workflow,
            "STATUS": self.run.status.value,
            started: at[5:16] if narrow else at,
            "TOOK": duration(self.took_s),
            "STEPS OK": f"{self.succeeded:,}/{self.steps:,}",
            "COST": at_least(self.figures["cost_usd"], self.figures["at_least"]["cost_usd"], dollars),
            "TAGS": one_line(", ".join(self.run.tags), _TAGS),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which runs are listed."""

    workflow: str | None = None
    status: str | None = None
    since: float | None = None
    tag: str | None = None

    def filters(self) -> dict[str, Any]:
        """What of it was given, as `Store.runs` takes it."""
        given = {one.name: getattr(self, one.name) for one in fields(self)}
        given["status"] = self.status and RunStatus(self.status)
        return {name: value for name, value in given.items() if value is not None}


wanted_options = collected(
    "wanted",
    Wanted,
    click.option("--workflow", metavar="NAME", help="Only runs of this workflow."),
    click.option(
        "--status", type=click.Choice([status.value for status in RunStatus]), help="Only runs that stand so."
    ),
    click.option(
        "--since", type=MOMENT, metavar="2d|DATE", help="Only runs that began so long ago at most, or from then on."
    ),
    click.option("--tag", metavar="TAG", help="Only runs that were given this with `run --tag`."),
)
_TAGS = 40
"""Columns of tags that a table shows."""


@click.group(invoke_without_command=True)
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="The newest so many.")
@wanted_options
@json_option
@location_options
@click.pass_context
def runs(ctx: click.Context, *, limit: int, wanted: Wanted, as_json: bool, location: Location) -> None:
    """List runs, the newest first; or prune or delete some.

    \b
      flowllm runs --status failed --since 2d
      flowllm runs --workflow blog --tag nightly --since 2026-11-30
    """  # noqa: D301 - \b is click's mark for lines that are kept as they are
    ctx.meta[_LOCATION] = location
    filters = wanted.filters()
    if ctx.invoked_subcommand is not None:
        if filters:
            given = ", ".join(f"--{name}" for name in filters)
            raise UsageError(f"{given} chooses what is listed, not what `{ctx.invoked_subcommand}` removes")
        return

    async def work(app: FlowLLM) -> tuple[list[Row], str]:
        found = await app.store.runs(limit=limit, **filters)
        nothing = "" if found else await _nothing(app.store, filters)
        now = time.time()
        return list(await asyncio.gather(*(_row(app.store, run, now) for run in found))), nothing

    rows, nothing = reading(location, work)
    if as_json:
        print_json([row.as_dict() for row in rows])
    elif not rows:
        say(nothing)
    else:
        _print_rows(rows, more=len(rows) == limit)


async def _nothing(store: Store, filters: Mapping[str, Any]) -> str:
    """Why the list is empty."""
    if not await store.runs(limit=1):
        return "no runs yet: start one with `flowllm run FILE`"
    for name, known in (("workflow", store.workflows), ("tag", store.tags)):
        if name in filters and filters[name] not in (names := await known()):
            hint = nearest(filters[name], names)
            return f"no run has the {name} `{visible(filters[name])}`{hint and f': {hint}'}"
    since = f" since {clock_time(filters['since'], zone=True)}" if "since" in filters else ""
    others = ", ".join(f"{name} {visible(str(value))}" for name, value in filters.items() if name != "since")
    return f"no run{since}{others and f' with {others}'}; `flowllm runs` lists all"


def _print_rows(rows: Sequence[Row], *, more: bool) -> None:
    """On a terminal as wide as it is; `more`: there may be others."""
    narrow = (page_width() or WIDE) < WIDE
    started = f"STARTED {clock_time(rows[0].run.started_at, zone=True)[20:]}"
    cells = [row.cells(started, narrow=narrow) for row in rows]
    spare = ("TAGS", "STEPS OK", "COST", started, "TOOK", "WORKFLOW")
    print_table(cells, right=("TOOK", "STEPS OK", "COST"), spare=spare, cut="WORKFLOW")
    if len(rows) > 1:
        known = math.fsum(row.figures["at_least"]["cost_usd"] for row in rows)
        cost = known if all(row.figures["cost_usd"] is not None for row in rows) else None
        say(
            f"{plural(len(rows), 'run')}{' (--limit shows more)' if more else ''}: {at_least(cost, known, dollars)} in all"
        )


async def _row(store: Store, run: RunRecord, now: float) -> Row:
    counts = await store.count_steps(run.run_id)
    figures = figures_of(run)
    steps = figures.get(COUNTED, 0)
    if not steps:  # it runs, its process is gone, or it is older than this figure
        with suppress(DatabaseCorrupt):  # a damaged one is listed as failed
            steps = len(step_kinds(await store.run(run.run_id)))
    return Row(
        run=run,
        succeeded=counts.get(NodeStatus.SUCCEEDED, 0),
        steps=max(sum(counts.values()), steps),
        took_s=worked_s(run, now=await seen_at(store, run, now=now)),
        figures=figures,
    )


@runs.command("prune")
@click.option("--older-than", type=DURATION, required=True, metavar="DURATION", help="Such as 30d.")
@yes_option
@location_options
@click.pass_context
def prune_runs(ctx: click.Context, *, older_than: float, yes: bool, location: Location) -> None:
    """Delete runs that ended longer ago than that, and give their space back to the disk. Stored answers stay."""
    before = time.time() - older_than

    async def work(app: FlowLLM) -> str:
        old = [run.run_id for run in await app.store.runs(limit=_ALL, ended_before=before)]
        if not old:
            return _deleted(0)
        confirm(f"delete {plural(len(old), 'run')} that ended before {clock_time(before, zone=True)}", yes=yes)
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


PAGE = 500


@click.command()
@click.argument("run")
@click.option("--step", metavar="STEP", help="Only items of this foreach.")
@location_options
def failed(*, run: str, step: str | None, location: Location) -> None:
    """Print the failed items of RUN as JSON Lines, to be mended and given back to it.

    Each line has the fields of the item, or `item` if it has none, with `_node` and `_error` beside them. Of a run
    with --over these are its rows. RUN is an id, its beginning, or `last`. What is mended takes the item's place, under
    its own number and in the same output.

    \b
      flowllm failed last > letters.jsonl      # then mend the lines
      flowllm resume last --mended letters.jsonl
    """  # noqa: D301 - \b is click's mark for lines that are kept as they are

    async def work(app: FlowLLM) -> None:
        found = await find_run(app.store, run)
        await _print(app, found, step, command("resume", found.run_id, location))

    reading(location, work)


async def _print(app: FlowLLM, run: RunRecord, step: str | None, resume: str) -> None:
    wanted = _foreach(run, step)
    name = _name_of_rows(app, run)
    screen, ascii_only = results(), not unicode_output()
    printed = others = 0
    async for node in _failures(app.store, run):
        if wanted and step_path(node.parent) != wanted:
            others += 1
            continue
        printed += 1
        screen.line(json_text(_line(node, name), indent=None, ascii_only=ascii_only))
    if not printed:
        say(f"run {run.run_id} has no failed {'rows' if wanted == ROW else 'items'}")
    elif sys.stdout.isatty():
        say(f"mend these lines, then: {resume} --mended FILE")
    if others and step is None:
        say(f"{plural(others, 'failed item')} within rows: --step {ROW}.STEP prints those of one step")


async def _failures(store: Store, run: RunRecord) -> AsyncIterator[NodeRecord]:
    after = ("", -1)
    while page := await store.failed_items(run.run_id, after=after, limit=PAGE):
        for node in page:
            yield node
        after = (page[-1].parent, page[-1].place or 0)


def _foreach(run: RunRecord, step: str | None) -> str:
    """Whose items are wanted, without the numbers of items; empty: everyone's. Raises UsageError."""
    kinds = step_kinds(run)
    if step is None:
        return ROW if ROW in kinds else ""
    path = step_path(step)
    top = path.partition(".")[0]
    if kinds and top not in kinds:
        known = nearest(top, kinds) or f"it has: {', '.join(kinds)}"
        raise UsageError(f"run {run.run_id} has no step `{step}`", hint=known)
    return path


def _name_of_rows(app: FlowLLM, run: RunRecord) -> Callable[[], str]:
    """Under which name a row that has no fields is taken by --over again: the one input that it can be."""

    @functools.cache
    def name() -> str:
        inputs = app.workflow_of(run).inputs
        required = [name for name, declared in inputs.items() if declared.required]
        alone = required if len(required) == 1 else list(inputs)
        return alone[0] if len(alone) == 1 else "item"

    return name


def _line(node: NodeRecord, name_of_rows: Callable[[], str]) -> dict[str, Json]:
    """One line: the item, where it was, and its error."""
    error = node.error or {}
    found = {"_node": node.node_id, "_error": {name: error.get(name) for name in ("type", "message")}}
    if isinstance(node.item, dict):
        return {**node.item, **found}
    name = name_of_rows() if node.parent == ROW else "item"
    return {name: node.item, **found}


def confirm(what: str, *, yes: bool) -> None:
    """Ask whether to `what`, unless `yes`. Raises UsageError where nobody can be asked, click.Abort for a no."""
    if yes:
        return
    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError(f"this would {what}", hint="add --yes if that is meant")
    click.confirm(f"{what[:1].upper()}{what[1:]}?", abort=True, err=True)


async def compacted(store: Store) -> str:
    """Give the space of what was removed back to the disk; words about that, to follow what was removed."""
    freed = await store.compact()
    if freed is None:
        return " (the database is in use: its file stays as large, and the space is used again)"
    return f", {byte_size(freed)} given back to the disk" if freed > 0 else ""
