"""Items of a matrix by their axes: a grid of variants beside each other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Final

from flowllm.core.types import Json, NodeId
from flowllm.storage.base import NodeRecord, RunRecord, Store
from flowllm.views.items import item_row
from flowllm.views.shown import preview

MOST_CELLS: Final = 5000
_PAGE: Final = 200
"""Items that are in memory at once, with all of their texts."""
_SHOWN: Final = ("id", "status", "output", "error", "cached", "took_s", "cost_usd")


async def matrix(store: Store, run: RunRecord, parent: NodeId, names: Sequence[str]) -> dict[str, Json]:
    """Axes of those names, each with its values as they are shown, and a cell for each item with its place on every axis; of
    the first MOST_CELLS items, and `more` if there are others."""
    known: dict[str, dict[str, tuple[int, str]]] = {name: {} for name in names}
    cells: list[Json] = []
    after = -1
    while len(cells) < MOST_CELLS and (
        items := await store.items(run.run_id, parent, after=after, limit=min(_PAGE, MOST_CELLS - len(cells)))
    ):
        after = items[-1].place or 0
        cells += await asyncio.to_thread(_cells, run, items, known)
    total = sum((await store.count_items(run.run_id, parent)).values())
    axes = [{"name": name, "values": [label for _, label in values.values()]} for name, values in known.items()]
    return {"axes": axes, "cells": cells, "more": max(0, total - len(cells))}


def _cells(run: RunRecord, items: Sequence[NodeRecord], known: Mapping[str, dict[str, tuple[int, str]]]) -> list[Json]:
    cells = []
    for item in items:
        row, values = item_row(run, item), item.item if isinstance(item.item, dict) else {}
        at = [_place(labels, values.get(name)) for name, labels in known.items()]
        cells.append({**{name: row[name] for name in _SHOWN}, "at": at})
    return cells


def _place(known: dict[str, tuple[int, str]], value: Json) -> int:
    """The number of a value among those of its axis."""
    label = len(known), preview(value, 120) or "null"
    return known.setdefault(json.dumps(value, sort_keys=True), label)[0]
