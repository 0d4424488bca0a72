"""Between click, which is synchronous, and the application."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Coroutine
from typing import TypeVar

from flowllm.app.flowllm import FlowLLM
from flowllm.cli.options import Place
from flowllm.core.errors import RunNotFound, UsageError
from flowllm.core.types import RunId
from flowllm.storage.base import RunRecord, Store
from flowllm.storage.location import database_path, is_memory

T = TypeVar("T")
LAST = "last"


def open_app(place: Place) -> FlowLLM:
    """The application, to be entered."""
    return FlowLLM(database=place.db, config=place.config)


def open_to_read(place: Place) -> FlowLLM:
    """The application for commands that only look: they make no database.

    Raises UsageError for a database that was named and is not there.
    """
    app = open_app(place)
    if is_memory(app.database) or database_path(app.database).exists():
        return app
    if place.db:
        raise UsageError(f"there is no database {app.database}", hint="`flowllm run` makes one")
    return FlowLLM(database="memory:", config=place.config)


def wait_for(work: Coroutine[object, object, T]) -> T:
    """Run to the end."""
    return asyncio.run(work)


async def find_run(store: Store, named: str) -> RunRecord:
    """A run by its id, an unambiguous beginning of it, or `last`. Raises RunNotFound."""
    if named != LAST:
        return await store.run(RunId(named))
    newest = await store.runs(limit=1)
    if not newest:
        raise RunNotFound("there is no run yet", hint="start one with `flowllm run FILE`")
    return await store.run(newest[0].run_id)


def resume_command(run_id: str, place: Place) -> str:
    """The exact command that goes on with a run."""
    return _command("resume", run_id, place)


def show_command(run_id: str, place: Place) -> str:
    """The exact command that shows a run."""
    return _command("show", run_id, place)


def failed_command(run_id: str, place: Place) -> str:
    """The exact command that prints the failed items of a run."""
    return _command("failed", run_id, place)


def _command(verb: str, run_id: str, place: Place) -> str:
    words = ["flowllm", verb, run_id]
    words += ["--db", place.db] if place.db else []
    words += ["--config", place.config] if place.config else []
    return shlex.join(words)
