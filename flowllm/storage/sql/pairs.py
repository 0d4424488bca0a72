"""The items of a foreach in two runs, joined by content and occurrence."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from flowllm.core.types import NodeId, NodeStatus, RunId
from flowllm.storage.comparing import Contents, ItemOutcome, ItemPair
from flowllm.storage.sql.reader import CURRENT, ITEMS_OF, Reader
from flowllm.storage.sql.rows import content_hash, from_json, to_text

_ITEMS: Final = """
SELECT *, row_number() OVER (PARTITION BY content ORDER BY at) AS occurrence FROM (
SELECT {base} AS base, {place} AS place, nodes.place AS at, content_hash AS hash,
    CASE WHEN json_extract({run}_mended, {at}) IS NULL OR EXISTS (SELECT 1 FROM nodes AS others
    WHERE others.run_id = {other} AND others.parent = :parent AND others.content = nodes.content)
    THEN content ELSE json_extract({run}_mended, {at}) END AS content
FROM nodes WHERE nodes.run_id = {run} AND nodes.parent = :parent AND {current}) AS found"""


_NONE: Final = "CAST(NULL AS BIGINT)"


def _items(run: str, other: str, *, base: str, place: str) -> str:
    current = CURRENT.format(run=run, parent=":parent")
    return _ITEMS.format(
        run=run, other=other, base=base, place=place, current=current, at="""'$."' || nodes.place || '"'"""
    )


_UNEQUAL: Final = f"""
SELECT max(base) AS base, max(place) AS place FROM (
    {_items(":base", ":run", base="nodes.place", place=_NONE)} UNION ALL
    {_items(":run", ":base", base=_NONE, place="nodes.place")}
) AS items GROUP BY content, occurrence HAVING count(*) = 1 OR min(hash) <> max(hash)
ORDER BY max(place) IS NULL, max(place), max(base)"""
"""A group is an item of both, or of one: a sort does what an outer join would, which older versions of SQLite lack."""
_OUTCOMES: Final = f"""
SELECT nodes.place, nodes.status, nodes.key, nodes.output, nodes.content_hash
FROM nodes WHERE {ITEMS_OF} AND nodes.place IN (SELECT CAST(value AS BIGINT) FROM json_each(:places)) ORDER BY nodes.place"""
_OUTPUT: Final = (3,)
"""Where its long text stands."""


class ComparingReader(Reader):
    """The verbs of `Comparing`."""

    async def unequal_items(
        self, base: RunId, run: RunId, parent: NodeId, mended: tuple[Contents, Contents] = ({}, {})
    ) -> list[ItemPair]:
        values = {"base": to_text(base), "run": to_text(run), "parent": to_text(parent)}
        contents = {f"{name}_mended": json.dumps(dict(one)) for name, one in zip(("base", "run"), mended, strict=True)}
        return await self._all(_UNEQUAL, values | contents)

    async def item_outcomes(self, run_id: RunId, parent: NodeId, places: Sequence[int]) -> list[ItemOutcome]:
        values = {"run": to_text(run_id), "parent": to_text(parent), "places": json.dumps(places)}
        return [_outcome(*row) for row in await self._all(_OUTCOMES, values, _OUTPUT)]


def _outcome(place: int, status: str, key: str, output: str, whole: str) -> ItemOutcome:
    if status == NodeStatus.RUNNING:  # its row has no hash yet
        return ItemOutcome(place, NodeStatus.RUNNING, None)
    if content_hash(status, key, output, like=whole) != whole:
        return ItemOutcome(place, NodeStatus.FAILED, None)
    return ItemOutcome(place, NodeStatus(status), from_json(output))
