"""flowllm cache: the stored answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine

import click

from flowllm.cli.confirm import confirm, size, space_given_back, yes_option
from flowllm.cli.failures import say
from flowllm.cli.options import DURATION, Place, json_option, place_options
from flowllm.cli.output import print_json, results
from flowllm.cli.runs import shown_time
from flowllm.cli.session import open_app, wait_for
from flowllm.core.clock import timestamp
from flowllm.reporting.text import plural, visible
from flowllm.storage.base import MemoStats, Store


@click.group()
def cache() -> None:
    """Look at the stored answers, or remove them. Results of runs are not touched."""


@cache.command()
@json_option
@place_options
def stats(*, as_json: bool, place: Place) -> None:
    """How many answers are stored, of which models, and how large they are."""

    async def work() -> MemoStats:
        async with open_app(place) as app:
            return await app.store.memo_stats()

    found = wait_for(work())
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
    screen.line(f"{plural(found.entries, 'stored answer')}, {size(found.bytes)}")
    if found.entries:
        screen.line(f"from {shown_time(found.oldest)} to {shown_time(found.newest)}")
    for model, entries in sorted(found.models.items()):
        screen.line(f"  {entries:>8,}  {visible(model)}")


@cache.command()
@click.option("--older-than", type=DURATION, required=True, metavar="DURATION", help="Such as 30d.")
@yes_option
@place_options
def prune(*, older_than: float, yes: bool, place: Place) -> None:
    """Remove answers that are older than that, and give their space back to the disk."""
    before = time.time() - older_than
    confirm(f"remove all stored answers from before {shown_time(before)}", yes=yes)
    say(wait_for(_removed(place, lambda store: store.prune_memo(older_than=before))))


@cache.command()
@yes_option
@place_options
def clear(*, yes: bool, place: Place) -> None:
    """Remove all answers. What runs need of them would be paid for again."""
    confirm("remove all stored answers", yes=yes)
    say(wait_for(_removed(place, lambda store: store.clear_memo())))


async def _removed(place: Place, remove: Callable[[Store], Coroutine[object, object, int]]) -> str:
    async with open_app(place) as app:
        count = await remove(app.store)
        return f"removed {plural(count, 'stored answer')}{await space_given_back(app.store) if count else ''}"
