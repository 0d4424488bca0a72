"""The items of a foreach: all of them as a letter each, and pages of them as rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from flowllm.core.types import Json, NodeId, NodeStatus
from flowllm.reporting.text import error_text
from flowllm.storage.base import NodeRecord, RunRecord, Store
from flowllm.storage.browsing import ItemQuery
from flowllm.storage.monitoring import SUSPENDED
from flowllm.views.codes import CODES, NOT_BEGUN
from flowllm.views.shown import preview
from flowllm.views.standing import standing, stored

MOST_ROWS: Final = 500
"""Rows of one page."""
_OPEN: Final = frozenset({NodeStatus.PENDING, NodeStatus.RUNNING, NodeStatus.WAITING})


async def dots(store: Store, run: RunRecord, parent: NodeId) -> dict[str, Json]:
    """Every item of a foreach as the letter of its status, in the order of their indexes. `changes` is the number of the newest
    change that is surely in it: what came later follows from there. `moved`: an item's number in its name may not be its index."""
    foreach = await store.node(run.run_id, parent)
    statuses = await store.item_statuses(run.run_id, parent)
    known = foreach.counts.total if foreach is not None and foreach.counts is not None else 0
    total = max(known, statuses[-1][0] + 1 if statuses else 0)
    letters = [NOT_BEGUN] * total
    codes = {status: CODES[standing(status, going=run.going)] for status in NodeStatus}
    for place, status in statuses:
        letters[place] = codes[status]
    return {"total": total, "codes": "".join(letters), "changes": run.totals.changes, "moved": run.epoch > 1}


async def item_rows(store: Store, run: RunRecord, parent: NodeId, query: ItemQuery) -> dict[str, Json]:
    """A page of items as short rows; `cursor` is the `after` of the next page, null after the last one."""
    query = replace(query, statuses=stored(query.statuses, going=run.going), limit=min(query.limit, MOST_ROWS))
    page = await store.browse(run.run_id, parent, query)
    counts = await store.count_items(run.run_id, parent)
    total = sum(count for status, count in counts.items() if not query.statuses or status in query.statuses)
    return {
        "rows": [item_row(run, item) for item in page.items],
        "total": None if query.search else total,
        "seen": total if page.cursor is None else page.cursor,
        "more": page.cursor is not None,
        "cursor": page.cursor,
    }


def item_row(run: RunRecord, item: NodeRecord) -> dict[str, Json]:
    """An item in a line: the beginnings of its texts, and its figures."""
    output = preview(item.output)
    if output is None and item.error is None:
        output = item.parts.get("reason") or ("waits for a value" if SUSPENDED in item.parts else None)
    return {
        "id": item.node_id,
        "index": item.place,
        "status": standing(item.status, going=run.going).value,
        "item": preview(item.item),
        "output": output,
        "error": None if item.error is None else error_text(item.error, 300),
        "model": item.model or None,
        "attempts": item.attempts,
        "cached": item.cached,
        "reused": item.reused,
        "started_at": item.started_at,
        "took_s": took(item),
        "cost_usd": item.cost_usd,
        "tokens": item.usage.total,
    }


def took(node: NodeRecord) -> float | None:
    """Seconds from its beginning to its end; None for one that has not ended."""
    if node.started_at is None or node.finished_at is None or node.status in _OPEN:
        return None
    return node.finished_at - node.started_at
