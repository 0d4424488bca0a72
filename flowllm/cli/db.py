"""flowllm db: the database's schema."""

from __future__ import annotations

import os

import click

from flowllm.app.settings import load_settings
from flowllm.cli.failures import say
from flowllm.cli.options import Place, json_option, place_options
from flowllm.cli.output import print_json, results
from flowllm.reporting.text import visible
from flowllm.storage.location import is_memory
from flowllm.storage.sqlite import migrate
from flowllm.storage.sqlite.schema import SchemaState, SchemaStatus

MEANINGS = {
    SchemaState.MISSING: "not there yet; it is made when first used",
    SchemaState.CURRENT: "up to date",
    SchemaState.OLDER: "older than this flowllm; it is upgraded, with a backup beside it, when next used",
    SchemaState.NEWER: "newer than this flowllm, which does not touch it: install a newer flowllm",
}


@click.group()
def db() -> None:
    """Look at the database, or upgrade it."""


@db.command()
@json_option
@place_options
def status(*, as_json: bool, place: Place) -> int:
    """Say where the database is and which schema it has. Exits 1 for one that this flowllm cannot use."""
    url = _url(place)
    if is_memory(url):
        results().line("memory: up to date")
        return 0
    found = migrate.status(url)
    if as_json:
        print_json(
            {"path": str(found.path), "state": found.state.value, "revision": found.current, "newest": found.head}
        )
    else:
        results().line(f"{visible(str(found.path))}: {described(found)}")
    return 1 if found.state is SchemaState.NEWER else 0


@db.command()
@place_options
def upgrade(*, place: Place) -> None:
    """Make the database, or bring it up to date after copying it beside itself."""
    url = _url(place)
    if is_memory(url):
        say("memory: up to date")
        return
    done = migrate.upgrade(url)
    say(f"{visible(str(done.after.path))}: {described(done.after)}")
    if done.backup is not None:
        say(f"the database as it was: {visible(str(done.backup))}")


def described(found: SchemaStatus) -> str:
    """The state of a database in words."""
    revision = "" if found.current is None else f" (revision {found.current} of {found.head})"
    return f"{MEANINGS[found.state]}{revision}"


def _url(place: Place) -> str:
    return load_settings(environ=os.environ, config=place.config, database=place.db).database
