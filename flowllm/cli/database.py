"""How commands open the database, and find a run in it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Awaitable, Callable
from typing import TypeVar

from flowllm.app.flowllm import FlowLLM
from flowllm.cli.options import Location
from flowllm.core.errors import RunNotFound, UsageError
from flowllm.core.tasks import run_loop
from flowllm.core.types import RunId
from flowllm.storage.base import RunRecord, Store
from flowllm.storage.open import exists, name_of

T = TypeVar("T")
LAST = re.compile(r"last(?:~(\d{1,6}))?")


def open_app(location: Location) -> FlowLLM:
    """The application, to be entered."""
    return FlowLLM(database=location.db, config=location.config)


def writing(location: Location, work: Callable[[FlowLLM], Awaitable[T]]) -> T:
    """Run `work` with the application to its end; creates a database that does not exist."""
    return run_loop(_within(open_app(location), work))


def reading(location: Location, work: Callable[[FlowLLM], Awaitable[T]]) -> T:
    """The same for commands that only read: they create no database.

    Raises UsageError for a database that was named and does not exist.
    """
    app = open_app(location)
    if not exists(app.database):
        if location.db:
            raise UsageError(f"there is no database {name_of(app.database)}", hint="`flowllm run` makes one")
        app = FlowLLM(database="memory:", config=location.config)
    return run_loop(_within(app, work))


async def _within(app: FlowLLM, work: Callable[[FlowLLM], Awaitable[T]]) -> T:
    async with app:
        return await work(app)


async def find_run(store: Store, named: str) -> RunRecord:
    """A run by its id, an unambiguous beginning of it, `last`, or `last~N` for the N-th before that. Raises RunNotFound."""
    back = LAST.fullmatch(named)
    if back is None:
        return await store.run(RunId(named))
    found = await store.runs(limit=1, skip=int(back[1] or 0))
    if found:
        return await store.run(found[0].run_id)
    if await store.runs(limit=1):
        raise RunNotFound(f"there are not so many runs that one is {named}", hint="see `flowllm runs`")
    raise RunNotFound("there is no run yet", hint="start one with `flowllm run FILE`")


def command(verb: str, run_id: str, location: Location) -> str:
    """The exact command line that applies a command to a run."""
    return shlex.join(["flowllm", verb, run_id, *location.words])
