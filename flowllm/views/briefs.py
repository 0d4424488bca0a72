"""Nodes in a line each, as the page has them in hand for all of a run."""

from __future__ import annotations

from flowllm.core.types import Json
from flowllm.storage.following import ItemChange, NodeBrief
from flowllm.views.codes import CODES

LONGEST = 300
"""Characters of an error."""


def brief_dict(node: NodeBrief) -> dict[str, Json]:
    """A node as JSON; times are wall clock seconds."""
    message = str((node.error or {}).get("message", "")) or str((node.error or {}).get("type", ""))
    return {
        "id": node.node_id,
        "kind": node.kind,
        "status": node.status.value,
        "parent": node.parent,
        "index": node.place,
        "started_at": node.started_at,
        "finished_at": node.finished_at,
        "queue_s": node.queue_s,
        "call_s": node.call_s,
        "cached": node.cached,
        "reused": node.reused,
        "attempts": node.attempts,
        "model": node.model or None,
        "cost_usd": node.cost_usd,
        "usage": node.usage.as_dict(),
        "waits": dict(node.waits),
        "error": None if node.error is None else message[:LONGEST] + "…" * (len(message) > LONGEST),
        "counts": None if node.counts is None else node.counts.as_dict(),
        "total": None if node.counts is None else node.counts.total,
        "change_no": node.change_no,
    }


def item_entry(change: ItemChange) -> list[Json]:
    """An item's change: its foreach, its index, the letter of its status, the number of the change."""
    return [change.parent, change.place, CODES[change.status], change.change_no]
