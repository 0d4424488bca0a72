"""Routes of the list of runs, and of one run: what it is, its nodes, what changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from flowllm.core.errors import FlowLLMError, UsageError
from flowllm.core.types import RUN_RESUMABLE, Json, NodeStatus, RunId, RunStatus
from flowllm.reporting.text import visible
from flowllm.storage.base import RunRecord
from flowllm.ui.follow import Follower
from flowllm.ui.queries import number_of, run_of
from flowllm.ui.sse import HEARTBEAT, comment, event, since, stopping, streamed
from flowllm.views.briefs import brief_dict
from flowllm.views.models import models_of
from flowllm.views.runs import summary_of
from flowllm.views.shown import shown, whole

LISTED = 50
MOST_LISTED = 500
LONGEST_SEARCH = 200
"""Characters: SQLite takes no pattern of any length."""
RECENT = 12
"""Runs of its workflow up to each run that is listed."""
NODES = 20_000
"""Nodes in one answer."""
ALIVE = 2.0
"""Seconds after which a run that goes on is looked at again: the end of its process changes nothing in the database."""


async def runs(request: Request) -> Response:
    """The newest runs that the query asks for."""
    wanted = _wanted(request)
    return JSONResponse(await _list(request, await request.app.state.store.runs(**wanted), wanted["limit"]))


def _wanted(request: Request) -> dict[str, Any]:
    """What `Store.runs` is asked for: one more than are listed, so that it is seen whether there are more. Raises UsageError."""
    query = request.query_params
    status = query.get("status", "")
    if status and status not in set(RunStatus):
        raise UsageError(f"there is no status {status[:40]!r}", hint=f"there are: {', '.join(RunStatus)}")
    return {
        "limit": number_of(request, "limit", LISTED, least=1, most=MOST_LISTED) + 1,
        "workflow": query.get("workflow") or None,
        "status": RunStatus(status) if status else None,
        "tag": query.get("tag") or None,
        "search": query.get("search", "")[:LONGEST_SEARCH],
        "before_seq": number_of(request, "before", 0) or None,
    }


async def _list(request: Request, found: Sequence[RunRecord], limit: int) -> dict[str, Json]:
    """All that the list shows."""
    store, database = request.app.state.store, request.app.state.database
    listed = found[: limit - 1]
    named = Counter(run.workflow for run in listed)
    newest = max((run.seq for run in listed), default=0)
    return {
        "runs": await _summaries(request, listed),
        "recent": {name: await store.recent(name, upto=newest, limit=RECENT + count) for name, count in named.items()},
        "more": len(found) == limit,
        "workflows": await store.workflows(),
        "tags": await store.tags(),
        "database": {"path": database.name, "missing": database.missing},
    }


async def _summaries(request: Request, found: Sequence[RunRecord]) -> list[Json]:
    store, now = request.app.state.store, request.app.state.clock.now()
    return [(await summary_of(store, run, now=now)).as_dict() for run in found]


async def run_changes(request: Request) -> Response:
    """The same list, as it changes."""
    return streamed(_list_events(request, _wanted(request)))


async def _list_events(request: Request, wanted: dict[str, Any]) -> AsyncIterator[bytes]:
    """All of it at first, and when others are in it or stand otherwise; else the runs that went on."""
    database, seen = request.app.state.database, -1
    stood: dict[str, RunStatus] | None = None
    changes: dict[str, int] = {}
    async with database.listening():
        while not stopping(request).is_set():
            going = False
            try:
                request.app.state.store = await database.store()
                found = await request.app.state.store.runs(**wanted)
                stands = {run.run_id: run.status for run in found}
                moved = [run for run in found if changes.get(run.run_id) != run.totals.changes]
                if stands != stood:
                    yield event("list", await _list(request, found, wanted["limit"]))
                else:
                    yield event("runs", {"runs": await _summaries(request, moved)}) if moved else comment()
                stood, changes = stands, {run.run_id: run.totals.changes for run in found}
                going = any(run.going for run in found)
            except FlowLLMError as error:
                yield _problem(error)
                stood = None
            seen = await database.changed(seen, within=ALIVE if going else HEARTBEAT)


async def run(request: Request) -> Response:
    """One run."""
    found = await run_of(request)
    summary = await summary_of(request.app.state.store, found, now=request.app.state.clock.now())
    return JSONResponse(
        {
            **summary.as_dict(),
            "attempt": found.epoch,
            "db_option": request.app.state.database.option,
            "inputs": _values(found.inputs),
            "outputs": None if found.outputs is None else _values(found.outputs),
            "failure": None if found.error is None else dict(found.error),
            "budget": await _budget(request, found),
            "eta_s": None,
            "actions": _actions(found) if request.app.state.actions is not None else [],
        }
    )


def _values(values: Mapping[str, Json]) -> Json:
    return [{"name": visible(name), **shown(value).as_dict()} for name, value in values.items()]


async def value(request: Request) -> Response:
    """One of its inputs or outputs as text, all of it; by its place, since names may be anything."""
    query, found = request.query_params, await run_of(request)
    values = list(((found.outputs or {}) if query.get("of") == "outputs" else found.inputs).values())
    number = number_of(request, "number", 1, least=1)
    if number > len(values):
        raise UsageError(f"run {found.run_id} has no such value")
    return PlainTextResponse(whole(values[number - 1]))


async def _budget(request: Request, found: RunRecord) -> Json:
    try:
        budget = (await request.app.state.workflows.of(found)).budget
    except FlowLLMError:  # of another version, or with files that are gone
        return None
    return None if budget is None else {"usd": budget.usd, "tokens": budget.tokens}


def _actions(found: RunRecord) -> list[Json]:
    if found.going:
        return ["stop"]
    failed = found.totals.nodes.get(NodeStatus.FAILED, 0) > 0
    return [*(["resume"] if found.status in RUN_RESUMABLE else []), *(["retry"] if failed else [])]


async def models(request: Request) -> Response:
    """What it took of each model, by now."""
    return JSONResponse({"models": list(await models_of(request.app.state.store, await run_of(request)))})


async def nodes(request: Request) -> Response:
    """Its nodes, those of items not among them; with `parent` those within that node."""
    found = await run_of(request)
    parent = request.query_params.get("parent")
    listed = await request.app.state.store.briefs(found.run_id, parent=parent, limit=NODES)
    return JSONResponse({"nodes": [brief_dict(node) for node in listed], "changes": found.totals.changes})


async def changes(request: Request) -> Response:
    """A run, as it changes."""
    return streamed(_run_events(request, (await run_of(request)).run_id, since(request)))


async def _run_events(request: Request, run_id: RunId, after: int) -> AsyncIterator[bytes]:
    database, clock, seen = request.app.state.database, request.app.state.clock, -1
    follower = Follower(run_id, since=after)
    async with database.listening():
        while not stopping(request).is_set():
            try:
                yield await follower.look(await database.store(), now=clock.now())
            except FlowLLMError as error:
                follower.lose()
                yield _problem(error)
            if not follower.behind:
                seen = await database.changed(seen, within=ALIVE if follower.going else HEARTBEAT)


def _problem(error: FlowLLMError) -> bytes:
    return event("problem", {"error": error.message, "hint": error.hint})


ROUTES = [
    Route("/api/runs", runs),
    Route("/api/runs/changes", run_changes),
    Route("/api/runs/{run_id}", run),
    Route("/api/runs/{run_id}/models", models),
    Route("/api/runs/{run_id}/value", value),
    Route("/api/runs/{run_id}/nodes", nodes),
    Route("/api/runs/{run_id}/changes", changes),
]
