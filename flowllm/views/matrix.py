"""Items of a matrix by their axes: a grid of variants beside each other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from flowllm.core.types import Json, NodeId
from flowllm.storage.base import NodeRecord, RunRecord, Store
from flowllm.views.items import item_row
from flowllm.views.shown import preview

MOST_CELLS: Final = 2000
_FEWEST: Final = 2


async def matrix(store: Store, run: RunRecord, parent: NodeId) -> dict[str, Json]:
    """Axes, each with its values as they are shown, and a cell for each item with its place on every axis. No axes: these
    are not the items of a matrix, or there are more than MOST_CELLS."""
    items = await store.items(run.run_id, parent, limit=MOST_CELLS + 1)
    axes = {} if len(items) > MOST_CELLS else axes_of(items)
    cells = [
        {**item_row(run, item), "at": [axes[name][_key(item.item[name])] for name in axes]}
        for item in items
        if axes and isinstance(item.item, dict)
    ]
    labels = {name: _labels(items, name, values) for name, values in axes.items()}
    return {"axes": [{"name": name, "values": values} for name, values in labels.items()], "cells": cells}


def axes_of(items: Sequence[NodeRecord]) -> dict[str, dict[str, int]]:
    """The fields of items that vary independently, each with its values and their numbers; empty where they do not.

    Items of a matrix have all combinations of their fields' values, each once, so their number is the product of the axes'
    lengths; while they still come, it is more than half of that. Rows of a table are far from that.
    """
    known = [item.item for item in items if isinstance(item.item, dict)]
    names = list(known[0]) if known else []
    if len(names) < _FEWEST or any(list(row) != names for row in known):
        return {}
    axes: dict[str, dict[str, int]] = {name: {} for name in names}
    combinations = set()
    for row in known:
        at = tuple(axes[name].setdefault(_key(row[name]), len(axes[name])) for name in names)
        combinations.add(at)
    product = 1
    for values in axes.values():
        product *= len(values)
    varying = sum(len(values) > 1 for values in axes.values())
    if len(combinations) != len(known) or product >= 2 * len(known) or varying < _FEWEST:
        return {}
    return axes


def _key(value: Json) -> str:
    return json.dumps(value, sort_keys=True)


def _labels(items: Sequence[NodeRecord], name: str, values: dict[str, int]) -> list[str]:
    labels = [""] * len(values)
    for item in items:
        if isinstance(item.item, dict):
            value = item.item[name]
            labels[values[_key(value)]] = preview(value, 120) or "null"
    return labels
