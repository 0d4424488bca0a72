"""Routes that compare two runs."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flowllm.core.errors import RunNotFound
from flowllm.core.types import Json, RunId
from flowllm.reporting.text import visible
from flowllm.storage.base import RunRecord, Store
from flowllm.ui.queries import number_of
from flowllm.views.compare import SHOWN, compare
from flowllm.views.differences import FieldChange, NodeChange, StepComparison, differs, is_number, why
from flowllm.views.runs import summary_of
from flowllm.views.shown import preview

_MOST: Final = 500
"""Changes in one answer."""
_LINES: Final = 300
"""Lines of one text."""


async def compared(request: Request) -> Response:
    """`run`, else the newest one, held against `base`, else the newest earlier one of its workflow, where
    there is one; `step` of both alone, if given."""
    store, query = request.app.state.store, request.query_params
    run = await store.run(await _newest(store, query.get("run")))
    base = await store.run(RunId(query["base"])) if query.get("base") else await _before(store, run)
    limit = number_of(request, "limit", SHOWN, most=_MOST)
    now = request.app.state.clock.now()
    if base is None:
        return JSONResponse({"base": None, "run": (await summary_of(store, run, now=now)).as_dict()})
    found = await compare(store, base, run, query.get("step") or None, limit=limit, now=now)
    return JSONResponse(
        {
            **{name: getattr(found, name).as_dict() for name in ("base", "run")},
            "changed": found.changed,
            "given": [_field(one) for one in found.given],
            "edited": [path.rpartition("/")[2] for path in found.edited],
            "steps": [_step(step) for step in found.steps],
            "changes": await asyncio.to_thread(lambda: [_change(change) for change in found.changes]),
            "total_changes": found.total,
        }
    )


async def _newest(store: Store, named: str | None) -> RunId:
    if named:
        return RunId(named)
    newest = await store.runs(limit=1)
    if not newest:
        raise RunNotFound("there is no run yet", hint="start one with `flowllm run FILE`")
    return newest[0].run_id


async def _before(store: Store, run: RunRecord) -> RunRecord | None:
    earlier = await store.runs(limit=1, workflow=run.workflow, before_seq=run.seq)
    return await store.run(earlier[0].run_id) if earlier else None


def _step(step: StepComparison) -> dict[str, Json]:
    return {**step.as_dict(), "differs": differs(step), "asked": visible(why(step))}


def _change(change: NodeChange) -> dict[str, Json]:
    fields = [_field(one) for one in change.fields]
    return {**change.as_dict(), "item": preview(change.item, 120), "fields": fields}


def _field(change: FieldChange) -> dict[str, Json]:
    """Short values beside each other, others as the lines that differ."""
    lines = [] if change.short else change.lines()
    return {
        "path": change.path,
        "before": change.before if is_number(change.before) else preview(change.before, 60),
        "after": change.after if is_number(change.after) else preview(change.after, 60),
        "delta": change.delta,
        "lines": [[line.sign, [[visible(text), differ] for text, differ in line.parts]] for line in lines[:_LINES]],
        "more_lines": max(0, len(lines) - _LINES),
    }


ROUTES: list[Route] = [Route("/api/compare", compared)]
