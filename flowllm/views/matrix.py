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
_SHOWN: Final = ("id", "index", "status", "output", "error", "cached", "took_s", "cost_usd")


async def matrix(store: Store, run: RunRecord, parent: NodeId, names: Sequence[str]) -> dict[str, Json]:
    """Axes of those names, each with its values as they are shown, and a cell for each item with its place on every axis; of
    the first MOST_CELLS items, and `more` if there are others."""
    known: dict[str, dict[str, tuple[int, str]]] = {name: {} for name in names}
    cells: list[dict[str, Json]] = []
    after = -1
    while len(cells) < MOST_CELLS and (
        items := await store.items(run.run_id, parent, after=after, limit=min(_PAGE, MOST_CELLS - len(cells)))
    ):
        after = items[-1].place or 0
        cells += await asyncio.to_thread(_cells, run, items, known)
    lengths = [len(values) for values in known.values()]
    for cell in cells:
        cell["at"] = cell["at"] or expected(cell["index"], lengths)
    total = sum((await store.count_items(run.run_id, parent)).values())
    axes = [{"name": name, "values": [label for _, label in values.values()]} for name, values in known.items()]
    return {"axes": axes, "cells": [cell for cell in cells if cell["at"]], "more": max(0, total - len(cells))}


def _cells(run: RunRecord, items: Sequence[NodeRecord], known: Mapping[str, dict[str, tuple[int, str]]]) -> list[Json]:
    cells = []
    for item in items:
        row, values = item_row(run, item), item.item
        at = [_place(labels, values.get(name)) for name, labels in known.items()] if isinstance(values, dict) else None
        cells.append({**{name: row[name] for name in _SHOWN}, "at": at})
    return cells


def expected(index: int, lengths: Sequence[int]) -> list[int] | None:
    """Where an item belongs that goes on, whose values are on record when it has ended: the last axis changes fastest. None if
    that is not known yet."""
    if lengths[0] < 2:  # noqa: PLR2004 - all values of the other axes were there once the first one changes
        return None
    at: list[int] = []
    for length in reversed(lengths[1:]):
        index, place = divmod(index, length)
        at.insert(0, place)
    return [index, *at] if index < lengths[0] else None


def _place(known: dict[str, tuple[int, str]], value: Json) -> int:
    """The number of a value among those of its axis."""
    label = len(known), preview(value, 120) or "null"
    return known.setdefault(json.dumps(value, sort_keys=True), label)[0]
