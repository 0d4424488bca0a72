"""Routes that change something, with --allow-actions alone; and the figures for Prometheus."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flowllm.ui.actions import Actions
from flowllm.ui.metrics import CONTENT_TYPE, exposition
from flowllm.ui.queries import run_of
from flowllm.views.gauges import FRESH

_OFF = {"error": "this page only reads", "hint": "Start it with `flowllm ui --allow-actions`, or copy the command."}


async def resume(request: Request) -> Response:
    """Go on with the run, as `flowllm resume RUN`."""
    return await _resume(request, retry_failed=False)


async def retry(request: Request) -> Response:
    """The same with --retry-failed."""
    return await _resume(request, retry_failed=True)


async def _resume(request: Request, *, retry_failed: bool) -> Response:
    actions: Actions | None = request.app.state.actions
    if actions is None:
        return JSONResponse(_OFF, 403)
    log = await actions.resume(await run_of(request), retry_failed=retry_failed)
    return JSONResponse({"started": True, "output": str(log)})


async def stop(request: Request) -> Response:
    """Ask the run's process to stop."""
    actions: Actions | None = request.app.state.actions
    if actions is None:
        return JSONResponse(_OFF, 403)
    actions.stop(await run_of(request))
    return JSONResponse({"stopping": True})


async def metrics(request: Request) -> Response:
    """All runs, and how accounts stand."""
    store, now = request.app.state.store, request.app.state.clock.now()
    text = exposition(await store.sums(), await store.gauges(since=now - FRESH), now=now)
    return Response(text, media_type=CONTENT_TYPE)


ROUTES = [
    Route("/api/runs/{run_id}/resume", resume, methods=["POST"]),
    Route("/api/runs/{run_id}/retry", retry, methods=["POST"]),
    Route("/api/runs/{run_id}/stop", stop, methods=["POST"]),
    Route("/metrics", metrics),
]
