"""flowllm cache: the stored answers."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from flowllm.cli.failures import say
from flowllm.cli.options import DURATION, json_option, place_options
from flowllm.cli.output import print_json, results
from flowllm.cli.runs import shown_time
from flowllm.cli.session import open_app, wait_for
from flowllm.errors import UsageError
from flowllm.observers.text import plural, visible
from flowllm.result import timestamp

if TYPE_CHECKING:
    from flowllm.cli.options import Place
    from flowllm.store.base import MemoStats

_KIBI = 1024


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
@place_options
def prune(*, older_than: float, place: Place) -> None:
    """Remove answers that are older than that."""

    async def work() -> int:
        async with open_app(place) as app:
            return await app.store.prune_memo(older_than=time.time() - older_than)

    say(f"removed {plural(wait_for(work()), 'stored answer')}")


@cache.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@place_options
def clear(*, yes: bool, place: Place) -> None:
    """Remove all answers. What runs need of them would be paid for again."""
    if not yes and not (sys.stdin is not None and sys.stdin.isatty()):
        raise UsageError(
            "`flowllm cache clear` removes all stored answers", hint="add --yes if that is meant"
        )
    if not yes:
        click.confirm("Remove all stored answers?", abort=True, err=True)

    async def work() -> int:
        async with open_app(place) as app:
            return await app.store.clear_memo()

    say(f"removed {plural(wait_for(work()), 'stored answer')}")


def size(count: int) -> str:
    """Bytes for people: 512 bytes, 1.5 KiB, 3.0 MiB."""
    if count < _KIBI:
        return plural(count, "byte")
    amount = float(count)
    for unit in ("KiB", "MiB", "GiB"):
        amount /= _KIBI
        if amount < _KIBI:
            return f"{amount:.1f} {unit}"
    return f"{amount / _KIBI:.1f} TiB"
