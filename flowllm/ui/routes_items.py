"""Routes of a node, of the items of a foreach, and of what is downloaded."""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import AsyncIterator
from typing import IO, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from flowllm.app.export import export_rows
from flowllm.app.prepare import step_of
from flowllm.core.errors import FlowLLMError, UsageError
from flowllm.core.types import NodeStatus
from flowllm.explain.why import explain
from flowllm.language.workflow import Step
from flowllm.storage.base import NodeRecord, RunRecord
from flowllm.storage.browsing import ItemOrder, ItemQuery
from flowllm.ui.queries import node_of, number_of, run_of
from flowllm.views.items import dots, item_rows
from flowllm.views.matrix import matrix
from flowllm.views.node import node_detail, part_of
from flowllm.views.rows import RunRows
from flowllm.views.shown import whole

_LONGEST: Final = 300
"""Characters that are searched for at most."""
_FORMATS: Final = {"csv": "text/csv; charset=utf-8", "jsonl": "application/x-ndjson", "json": "application/json"}
_BLOCK: Final = 1 << 18


def _missing(run: RunRecord, node_id: str) -> Response:
    going = run.going
    hint = "It may not have begun yet." if going else "The run ended before it began, or it is of another run."
    return JSONResponse({"error": f"this run has no record of {node_id}", "hint": hint}, 404)


async def node(request: Request) -> Response:
    """All of one node."""
    run, name = await run_of(request), node_of(request, "id")
    step = await _step_of(request, run, name)
    found: NodeRecord | None = await request.app.state.store.node(run.run_id, name)
    if found is None and step is not None and "[" not in name:
        status = NodeStatus.PENDING if run.going else NodeStatus.CANCELLED
        found = NodeRecord(run_id=run.run_id, node_id=name, kind=step.kind, status=status)
    if found is None:
        return _missing(run, name)
    try:
        edges = () if step is None else tuple(step.edges)
        why = await explain(request.app.state.store, run, name, edges, known=step is not None)
    except FlowLLMError:
        why = None
    detail = await node_detail(request.app.state.store, run, found, why)
    return JSONResponse(await asyncio.to_thread(detail.as_dict))


async def _step_of(request: Request, run: RunRecord, name: str) -> Step | None:
    """The step of the run's workflow that a node is of, where that can be read."""
    try:
        return step_of(await request.app.state.workflows.of(run), name)
    except FlowLLMError:
        return None


async def part(request: Request) -> Response:
    """One text of a node as it is, all of it."""
    run, name = await run_of(request), node_of(request, "id")
    found = await request.app.state.store.node(run.run_id, name)
    if found is None:
        return _missing(run, name)
    text = await asyncio.to_thread(whole, part_of(found, request.query_params.get("part", "")))
    return Response(text.encode(errors="replace"), media_type="text/plain; charset=utf-8")


async def all_dots(request: Request) -> Response:
    """All items of a foreach, a letter each."""
    return JSONResponse(await dots(request.app.state.store, await run_of(request), node_of(request, "parent")))


async def item(request: Request) -> Response:
    """The name of the item at an index: it keeps the number in it also when its data has moved."""
    run, parent = await run_of(request), node_of(request, "parent")
    index = number_of(request, "index", 0)
    found = await request.app.state.store.items(run.run_id, parent, after=index - 1, limit=1)
    if not found or found[0].place != index:
        return _missing(run, f"{parent}[{index}]")
    return JSONResponse({"id": found[0].node_id})


async def items(request: Request) -> Response:
    """A page of items."""
    query = request.query_params
    order = query.get("sort") or ItemOrder.INDEX
    if order not in set(ItemOrder):
        raise UsageError(f"items are not sorted by {order[:40]!r}")
    wanted = ItemQuery(
        statuses=_statuses(request),
        order=ItemOrder(order),
        search=_search(request),
        after=number_of(request, "after", 0),
        limit=number_of(request, "limit", 100),
    )
    run = await run_of(request)
    return JSONResponse(await item_rows(request.app.state.store, run, node_of(request, "parent"), wanted))


async def variants(request: Request) -> Response:
    """The items of a matrix by their axes; with `axes` the names of these alone, none where it is no matrix."""
    run, parent = await run_of(request), node_of(request, "parent")
    step = await _step_of(request, run, parent)
    names = () if step is None or step.foreach is None else tuple(step.foreach.matrix or ())
    if "axes" in request.query_params or not names:
        return JSONResponse({"axes": [{"name": name, "values": []} for name in names], "cells": [], "more": 0})
    return JSONResponse(await matrix(request.app.state.store, run, parent, names))


async def export(request: Request) -> Response:
    """The items of a foreach, those with a status, and those that a search finds, as a file: the rows of `flowllm export`."""
    run, parent, form = await run_of(request), node_of(request, "step"), request.query_params.get("format", "csv")
    if form not in _FORMATS:
        raise UsageError(f"a file has one of the formats {', '.join(_FORMATS)}, not {form[:40]!r}")
    results, search = request.app.state.store.results(run.run_id), _search(request)
    whole_run = RunRows(run_id=run.run_id, going=run.going, steps=[parent], results=results)

    def write() -> None:
        rows = whole_run.of(parent, _statuses(request))
        export_rows(rows.having(search) if search else rows, file, form)

    file = tempfile.TemporaryFile()  # noqa: SIM115 - closed when it was sent
    try:
        await asyncio.to_thread(write)
    except BaseException:
        file.close()
        raise
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", f"{run.run_id}-{parent}")
    headers = {"content-disposition": f'attachment; filename="{name}.{form}"'}
    return StreamingResponse(_blocks(file), media_type=_FORMATS[form], headers=headers)


async def _blocks(file: IO[bytes]) -> AsyncIterator[bytes]:
    with file:
        file.seek(0)
        while block := await asyncio.to_thread(file.read, _BLOCK):
            yield block


def _search(request: Request) -> str:
    return request.query_params.get("search", "")[:_LONGEST]


def _statuses(request: Request) -> frozenset[NodeStatus]:
    """Raises UsageError for one that there is not."""
    try:
        return frozenset(NodeStatus(name) for name in request.query_params.get("status", "").split(",") if name)
    except ValueError as error:
        raise UsageError(f"no item has such a status: {error}") from error


ROUTES: list[Route] = [
    Route("/api/runs/{run_id}/node", node),
    Route("/api/runs/{run_id}/node/part", part),
    Route("/api/runs/{run_id}/dots", all_dots),
    Route("/api/runs/{run_id}/item", item),
    Route("/api/runs/{run_id}/items", items),
    Route("/api/runs/{run_id}/matrix", variants),
    Route("/api/runs/{run_id}/export", export),
]
