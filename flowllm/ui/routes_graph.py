"""Routes of the graph, the timeline and the gauges."""

from __future__ import annotations

import math

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flowllm.core.errors import FlowLLMError, UsageError
from flowllm.core.types import Json, RunId, StepId
from flowllm.explain.graph import Graph
from flowllm.storage.base import RunRecord
from flowllm.storage.timeline import RUN_ATTEMPTS
from flowllm.views.gauges import series_of, spacing, throttled, was_throttled
from flowllm.views.graph import last_moment, read_graph
from flowllm.views.models import models_of
from flowllm.views.timeline import MOST_BARS, read_timeline


async def graph(request: Request) -> Response:
    """The graph of a run, or of a `workflow` step within it."""
    run, whole = await _run(request)
    now, within = request.app.state.clock.now(), request.query_params.get("within", "")
    view = await read_graph(request.app.state.store, run, whole, within, now=now)
    return JSONResponse(view.as_dict())


async def timeline(request: Request) -> Response:
    """What the nodes of a run did when; with `since` only what has changed behind the change of that number."""
    run, whole = await _run(request)
    line = await read_timeline(
        request.app.state.store,
        run,
        whole,
        request.query_params.get("parent", ""),
        after=_number(request, "after", -1),
        limit=min(_number(request, "limit", MOST_BARS), MOST_BARS),
        now=request.app.state.clock.now(),
    )
    since = _number(request, "since", 0) if run.going else 0  # with a run that ends end nodes whose rows do not change
    return JSONResponse(line.as_dict(since))


async def gauges(request: Request) -> Response:
    """How accounts stood while a run went on, a point each `every` seconds; and whether anything waits for a limit now, or, of a
    run that is over, did in it. They are those of the processes that worked on it, where that is known: limits hold within one."""
    store, now = request.app.state.store, request.app.state.clock.now()
    run: RunRecord = await store.run(RunId(request.path_params["run_id"]))
    until = now if run.going else last_moment(run, await store.nodes(run.run_id), now)
    every = spacing(until - run.started_at)
    found = await store.gauges(since=run.started_at - 1, until=until + 1)
    processes = {one.get("process") for one in run.stats.get(RUN_ATTEMPTS) or [{}]}
    if None not in processes:
        found = [gauge for gauge in found if gauge.process in processes]
    answer = throttled(found, now=now) if run.going else was_throttled(await models_of(store, run))
    accounts: list[Json] = [account.as_dict() for account in series_of(found, every)]
    return JSONResponse({"accounts": accounts, "every": every, "answer": answer.as_dict()})


def _number(request: Request, name: str, default: int) -> int:
    """A number in the query. Raises UsageError."""
    text = request.query_params.get(name, "")
    try:
        return math.floor(float(text)) if text else default
    except (ValueError, OverflowError):
        raise UsageError(f"`{name}` is a number, not {text[:40]!r}") from None


async def _run(request: Request) -> tuple[RunRecord, Graph]:
    """The run with its workflow's graph: without edges, and of what is on record alone, where this version cannot load that."""
    state = request.app.state
    run: RunRecord = await state.store.run(RunId(request.path_params["run_id"]))
    try:
        return run, Graph.of(await state.workflows.of(run))
    except FlowLLMError:
        nodes = await state.store.nodes(run.run_id)
        return run, Graph(name=run.workflow, kinds={StepId(node.node_id): node.kind for node in nodes}, edges=())


ROUTES = [
    Route("/api/runs/{run_id}/graph", graph),
    Route("/api/runs/{run_id}/timeline", timeline),
    Route("/api/runs/{run_id}/gauges", gauges),
]
