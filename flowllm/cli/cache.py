"""flowllm cache: the stored answers, and their removal."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import click

from flowllm.app.flowllm import FlowLLM
from flowllm.cli.database import writing
from flowllm.cli.options import DURATION, Location, json_option, location_options
from flowllm.cli.output import print_json, results, say
from flowllm.cli.runs import compacted, confirm, yes_option
from flowllm.core.clock import timestamp
from flowllm.reporting.text import byte_size, clock_time, plural, visible
from flowllm.storage.base import Store


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
        screen.line(f"from {clock_time(found.oldest)} to {clock_time(found.newest, zone=True)}")
    for model, entries in sorted(found.models.items()):
        screen.line(f"  {entries:>8,}  {visible(model)}")


@cache.command("prune")
@click.option("--older-than", type=DURATION, required=True, metavar="DURATION", help="Such as 30d.")
@yes_option
@location_options
def prune_answers(*, older_than: float, yes: bool, location: Location) -> None:
    """Remove answers that are older than that, and give their space back to the disk."""
    before = time.time() - older_than
    confirm(f"remove all stored answers from before {clock_time(before, zone=True)}", yes=yes)
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
