"""How commands open the database, find a run in it, and remove things from it; flowllm cache."""

from __future__ import annotations

import asyncio
import shlex
import sys
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import click

from flowllm.app.flowllm import FlowLLM
from flowllm.cli.failures import say
from flowllm.cli.options import DURATION, Location, json_option, location_options
from flowllm.cli.output import print_json, results
from flowllm.core.clock import timestamp
from flowllm.core.errors import RunNotFound, UsageError
from flowllm.core.types import ROW, RunId, StepKind
from flowllm.language.kinds import kinds
from flowllm.language.nodes import Mapping
from flowllm.language.problems import SourceError
from flowllm.language.source import parse_yaml
from flowllm.reporting.text import byte_size, clock_time, plural, visible
from flowllm.storage.base import RunRecord, Store
from flowllm.storage.location import database_path, is_memory

T = TypeVar("T")
LAST = "last"
yes_option = click.option("--yes", "-y", is_flag=True, help="Do not ask.")


def open_app(location: Location) -> FlowLLM:
    """The application, to be entered."""
    return FlowLLM(database=location.db, config=location.config)


def writing(location: Location, work: Callable[[FlowLLM], Awaitable[T]]) -> T:
    """Run `work` with the application to its end; creates a database that does not exist."""
    return asyncio.run(_within(open_app(location), work))


def reading(location: Location, work: Callable[[FlowLLM], Awaitable[T]]) -> T:
    """The same for commands that only read: they create no database.

    Raises UsageError for a database that was named and does not exist.
    """
    app = open_app(location)
    if not is_memory(app.database) and not database_path(app.database).exists():
        if location.db:
            raise UsageError(f"there is no database {app.database}", hint="`flowllm run` makes one")
        app = FlowLLM(database="memory:", config=location.config)
    return asyncio.run(_within(app, work))


async def _within(app: FlowLLM, work: Callable[[FlowLLM], Awaitable[T]]) -> T:
    async with app:
        return await work(app)


async def find_run(store: Store, named: str) -> RunRecord:
    """A run by its id, an unambiguous beginning of it, or `last`. Raises RunNotFound."""
    if named != LAST:
        return await store.run(RunId(named))
    newest = await store.runs(limit=1)
    if not newest:
        raise RunNotFound("there is no run yet", hint="start one with `flowllm run FILE`")
    return await store.run(newest[0].run_id)


def step_kinds(run: RunRecord) -> dict[str, StepKind]:
    """The steps of a run's workflow and their kinds, in the order of its file, without checking the workflow again: a run
    of another version, or with settings that are gone, can be shown all the same. Empty if the file cannot be read.

    A run over the rows of a data set has one step, which stands for the whole graph.
    """
    if run.options.get("over") is not None:
        return {ROW: StepKind.WORKFLOW}
    try:
        root = parse_yaml(run.snapshot.get(run.path, ""), run.path)
    except SourceError:
        return {}
    steps = root.get("steps") if isinstance(root, Mapping) else None
    found = {}
    for entry in steps.entries if isinstance(steps, Mapping) else ():
        keys = entry.value.keys() if isinstance(entry.value, Mapping) else {}
        found[entry.key] = next((spec.kind for key, spec in kinds().items() if key in keys), StepKind.PROMPT)
    return found


def command(verb: str, run_id: str, location: Location) -> str:
    """The exact command line that applies a command to a run."""
    words = ["flowllm", verb, run_id]
    words += ["--db", location.db] if location.db else []
    words += ["--config", location.config] if location.config else []
    return shlex.join(words)


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


@click.group()
def cache() -> None:
    """Look at the stored answers, or remove them. Results of runs are not touched."""


@cache.command()
@json_option
@location_options
def stats(*, as_json: bool, location: Location) -> None:
    """How many answers are stored, of which models, and how large they are."""
    found = writing(location, lambda app: app.store.memo_stats())
    if as_json:
        print_json(
            {
                "entries": found.entries,
                "bytes": found.bytes,
                "oldest": timestamp(found.oldest),
                "newest": timestamp(found.newest),
                "models": dict(found.models),
            }
        )
        return
    screen = results()
    screen.line(f"{plural(found.entries, 'stored answer')}, {byte_size(found.bytes)}")
    if found.entries:
        screen.line(f"from {clock_time(found.oldest)} to {clock_time(found.newest)}")
    for model, entries in sorted(found.models.items()):
        screen.line(f"  {entries:>8,}  {visible(model)}")


@cache.command()
@click.option("--older-than", type=DURATION, required=True, metavar="DURATION", help="Such as 30d.")
@yes_option
@location_options
def prune(*, older_than: float, yes: bool, location: Location) -> None:
    """Remove answers that are older than that, and give their space back to the disk."""
    before = time.time() - older_than
    confirm(f"remove all stored answers from before {clock_time(before)}", yes=yes)
    _remove(location, lambda store: store.prune_memo(older_than=before))


@cache.command()
@yes_option
@location_options
def clear(*, yes: bool, location: Location) -> None:
    """Remove all answers. What runs need of them would be paid for again."""
    confirm("remove all stored answers", yes=yes)
    _remove(location, lambda store: store.clear_memo())


def _remove(location: Location, remove: Callable[[Store], Awaitable[int]]) -> None:
    async def work(app: FlowLLM) -> str:
        count = await remove(app.store)
        return f"removed {plural(count, 'stored answer')}{await compacted(app.store) if count else ''}"

    say(writing(location, work))
