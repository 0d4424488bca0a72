"""The items of a foreach in two runs, joined by content and occurrence."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from flowllm.core.types import NodeId, NodeStatus, RunId
from flowllm.storage.comparing import ItemOutcome, ItemPair
from flowllm.storage.sqlite.reader import CURRENT, ITEMS_OF, Reader
from flowllm.storage.sqlite.rows import content_hash, from_json, to_text

_ITEMS: Final = """
SELECT {base} AS base, {place} AS place, content_hash AS hash, content,
    row_number() OVER (PARTITION BY content ORDER BY nodes.place) AS occurrence
FROM nodes WHERE nodes.run_id = {run} AND nodes.parent = :parent AND {current}"""


def _items(run: str, *, base: str, place: str) -> str:
    return _ITEMS.format(run=run, base=base, place=place, current=CURRENT.format(run=run, parent=":parent"))


_UNEQUAL: Final = f"""
SELECT max(base) AS base, max(place) AS place FROM (
    {_items(":base", base="nodes.place", place="NULL")} UNION ALL {_items(":run", base="NULL", place="nodes.place")}
) GROUP BY content, occurrence HAVING count(*) = 1 OR min(hash) <> max(hash)
ORDER BY max(place) IS NULL, max(place), max(base)"""
"""A group is an item of both, or of one: a sort does what an outer join would, which older versions of SQLite lack."""
_OUTCOMES: Final = f"""
SELECT nodes.place, nodes.status, nodes.key, nodes.output, nodes.content_hash
FROM json_each(:places) AS wanted CROSS JOIN nodes ON nodes.place = wanted.value WHERE {ITEMS_OF} ORDER BY nodes.place"""
"""A cross join, so that it looks each place up, and does not go through all items."""
_OUTPUT: Final = (3,)
"""Where its long text stands."""


class ComparingReader(Reader):
    """The verbs of `Comparing`."""

    async def unequal_items(self, base: RunId, run: RunId, parent: NodeId) -> list[ItemPair]:
        return await self._all(_UNEQUAL, {"base": to_text(base), "run": to_text(run), "parent": to_text(parent)})

    async def item_outcomes(self, run_id: RunId, parent: NodeId, places: Sequence[int]) -> list[ItemOutcome]:
        values = {"run": to_text(run_id), "parent": to_text(parent), "places": json.dumps(places)}
        return [_outcome(*row) for row in await self._all(_OUTCOMES, values, _OUTPUT)]


def _outcome(place: int, status: str, key: str, output: str, whole: str) -> ItemOutcome:
    if status == NodeStatus.RUNNING:  # its row has no hash yet
        return ItemOutcome(place, NodeStatus.RUNNING, None)
    if content_hash(status, key, output, like=whole) != whole:
        return ItemOutcome(place, NodeStatus.FAILED, None)
    return ItemOutcome(place, NodeStatus(status), from_json(output))
