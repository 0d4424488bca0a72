"""Routes of the list of runs, and of one run: what it is, its nodes, what changes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from flowllm.core.errors import FlowLLMError, UsageError
from flowllm.core.types import RUN_RESUMABLE, Json, NodeStatus, RunId, RunStatus
from flowllm.reporting.text import visible
from flowllm.storage.base import RunRecord, Store
from flowllm.ui.database import Database
from flowllm.ui.follow import Follower
from flowllm.ui.sse import HEARTBEAT, comment, event, since, stopping, streamed
from flowllm.views.briefs import brief_dict
from flowllm.views.models import models_of
from flowllm.views.runs import RunSummary
from flowllm.views.shown import shown, whole

LISTED = 50
LONGEST_SEARCH = 200
"""Characters: SQLite takes no pattern of any length."""
NODES = 20_000
"""Nodes in one answer."""
ALIVE = 2.0
"""Seconds after which a run that goes on is looked at again: the end of its process changes nothing in the database."""


async def runs(request: Request) -> Response:
    """The newest runs that the query asks for."""
    query = request.query_params
    limit = _whole(query.get("limit", ""), LISTED)
    found = await _listed(request.app.state.store, query, limit + 1)
    now = request.app.state.clock.now()
    shown = [RunSummary.of(run, now=now).as_dict() for run in found[:limit]]
    database: Database = request.app.state.database
    named = dict.fromkeys(run.workflow for run in found)
    return JSONResponse(
        {
            "runs": shown,
            "recent": {name: await request.app.state.store.recent(name) for name in named},
            "more": len(found) > limit,
            "workflows": await request.app.state.store.workflows(),
            "tags": await request.app.state.store.tags(),
            "database": {"path": str(database.path), "missing": database.missing},
        }
    )


async def _listed(store: Store, query: Any, limit: int) -> list[RunRecord]:
    status = query.get("status", "")
    if status and status not in set(RunStatus):
        raise UsageError(f"there is no status {status[:40]!r}", hint=f"there are: {', '.join(RunStatus)}")
    return await store.runs(
        limit=limit,
        workflow=query.get("workflow") or None,
        status=RunStatus(status) if status else None,
        tag=query.get("tag") or None,
        search=query.get("search", "")[:LONGEST_SEARCH],
        before_seq=_whole(query.get("before", ""), 0) or None,
    )


def _whole(text: str, default: int) -> int:
    """A count from 1 in a query. Raises UsageError."""
    if not text:
        return default
    if not (text.isascii() and text.isdecimal() and 1 <= len(text) <= 15 and int(text)):  # noqa: PLR2004 - below 2⁵³
        raise UsageError(f"expected a whole number from 1, not {text[:40]!r}")
    return int(text)


async def run_changes(request: Request) -> Response:
    """The list, as it changes."""
    return streamed(_list_events(request))


async def _list_events(request: Request) -> AsyncIterator[bytes]:
    database, known, seen = request.app.state.database, dict[str, tuple[Any, ...]](), -1
    first = True
    async with database.listening():
        while not stopping(request).is_set():
            going = False
            try:
                found = await (await database.store()).runs(limit=LISTED)
                now = request.app.state.clock.now()
                stands = {run.run_id: (run.status, run.totals.changes, run.epoch) for run in found}
                changed = [run for run in found if known.get(run.run_id) != stands[run.run_id]]
                if first or changed or stands.keys() != known.keys():
                    gone = sorted(known.keys() - stands.keys())
                    shown = [] if first else [RunSummary.of(run, now=now).as_dict() for run in changed]
                    yield event("runs", {"runs": shown, "gone": gone})
                else:
                    yield comment()
                known, first = stands, False
                going = any(run.going for run in found)
            except FlowLLMError as error:
                yield _problem(error)
                known = {}
            seen = await database.changed(seen, within=ALIVE if going else HEARTBEAT)


async def run(request: Request) -> Response:
    """One run."""
    found = await _run(request)
    summary = RunSummary.of(found, now=request.app.state.clock.now())
    return JSONResponse(
        {
            **summary.as_dict(),
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
    query, found = request.query_params, await _run(request)
    values = list(((found.outputs or {}) if query.get("of") == "outputs" else found.inputs).values())
    number = _whole(query.get("number", ""), 1)
    if number > len(values):
        raise UsageError(f"run {found.run_id} has no such value")
    return PlainTextResponse(whole(values[number - 1]))


async def _run(request: Request) -> RunRecord:
    found: RunRecord = await request.app.state.store.run(RunId(request.path_params["run_id"]))
    return found


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
    return JSONResponse({"models": list(await models_of(request.app.state.store, await _run(request)))})


async def nodes(request: Request) -> Response:
    """Its nodes, those of items not among them; with `parent` those within that node."""
    found = await _run(request)
    parent = request.query_params.get("parent")
    listed = await request.app.state.store.briefs(found.run_id, parent=parent, limit=NODES)
    return JSONResponse({"nodes": [brief_dict(node) for node in listed], "changes": found.totals.changes})


async def changes(request: Request) -> Response:
    """A run, as it changes."""
    return streamed(_run_events(request, (await _run(request)).run_id, since(request)))


async def _run_events(request: Request, run_id: RunId, after: int) -> AsyncIterator[bytes]:
    database, clock, seen = request.app.state.database, request.app.state.clock, -1
    follower = Follower(run_id, since=after, now=clock.now())
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
