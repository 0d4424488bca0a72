"""The verbs that look through items: narrow reads for the order, texts only for what is shown or searched."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from flowllm.core.types import NodeId, NodeStatus, RunId
from flowllm.storage.base import NodeRecord
from flowllm.storage.browsing import Beside, ItemOrder, ItemPage, ItemQuery, as_searched
from flowllm.storage.sql.reader import ITEMS_OF, Reader
from flowllm.storage.sql.records import node_of
from flowllm.storage.sql.rows import NodeRow, from_json, from_text, to_text
from flowllm.storage.sql.texts import NODE_TEXTS

SEARCHED: Final = 20_000
"""Items that one search looks through at most."""
_AT_ONCE: Final = 500
_ORDERS: Final[Mapping[ItemOrder, str]] = {
    ItemOrder.INDEX: "",
    ItemOrder.FAILED: "CASE nodes.status WHEN 'failed' THEN 0 WHEN 'running' THEN 1 WHEN 'waiting' THEN 1 ELSE 2 END, ",
    ItemOrder.SLOWEST: "nodes.finished_at - nodes.started_at DESC NULLS LAST, ",
    ItemOrder.DEAREST: "nodes.cost_usd DESC NULLS LAST, ",
}
_STATUSES: Final = f"SELECT nodes.place, nodes.status FROM nodes WHERE {ITEMS_OF} ORDER BY nodes.place"
_TEXTS: Final = "SELECT node_id, error, item, output FROM nodes WHERE run_id = :run AND node_id IN (SELECT value FROM json_each(:names))"
_RECORDS: Final = ", ".join((*NodeRow._fields, "change_no"))
_NAMED: Final = f"SELECT {_RECORDS} FROM nodes WHERE run_id = :run AND node_id IN (SELECT value FROM json_each(:names))"
_BESIDE: Final = " UNION ALL ".join(
    f"SELECT * FROM (SELECT {number}, nodes.node_id FROM nodes WHERE {ITEMS_OF} AND nodes.place {sign} :place {only} "
    f"ORDER BY nodes.place {order} LIMIT 1) AS beside{number}"
    for number, (sign, order, only) in enumerate(
        (sign, order, only)
        for only in ("", "AND nodes.status = 'failed'")
        for sign, order in (("<", "DESC"), (">", "ASC"))
    )
)


class BrowsingReader(Reader):
    """The verbs of `Browsing`."""

    async def item_statuses(self, run_id: RunId, parent: NodeId) -> list[tuple[int, NodeStatus]]:
        rows = await self._all(_STATUSES, {"run": to_text(run_id), "parent": to_text(parent)})
        known = {status.value: status for status in NodeStatus}
        return [(place, known[status]) for place, status in rows]

    async def browse(self, run_id: RunId, parent: NodeId, query: ItemQuery) -> ItemPage:
        page: ItemPage = await self._in_thread(lambda: self._page(to_text(run_id), to_text(parent), query))
        return page

    async def beside(self, run_id: RunId, parent: NodeId, place: int) -> Beside:
        values = {"run": to_text(run_id), "parent": to_text(parent), "place": place}
        found = {number: NodeId(from_text(name)) for number, name in await self._all(_BESIDE, values)}
        return Beside(*(found.get(number) for number in range(4)))

    def _page(self, run: str, parent: str, query: ItemQuery) -> ItemPage:
        most = SEARCHED if query.search else query.limit
        names = self._names(run, parent, query, most + 1)
        more, names = len(names) > most, names[:most]
        seen = len(names)
        if query.search:
            found, seen = self._search(run, names, query)
            more, names = more or seen < len(names), found
        return ItemPage(items=self._records(run, names), cursor=query.after + seen if more else None)

    def _names(self, run: str, parent: str, query: ItemQuery, most: int) -> list[str]:
        only = ""
        if query.statuses:
            only = f"AND nodes.status IN ({', '.join(repr(status.value) for status in sorted(query.statuses))})"
        sql = f"SELECT nodes.node_id FROM nodes WHERE {ITEMS_OF} {only} ORDER BY {_ORDERS[query.order]}nodes.place LIMIT :limit OFFSET :offset"
        values = {"run": run, "parent": parent, "limit": most, "offset": query.after}
        return [name for (name,) in self._fetch(sql, values)]

    def _search(self, run: str, names: list[str], query: ItemQuery) -> tuple[list[str], int]:
        """Those that have what is searched for, as many as are wanted, and how many were looked at."""
        needle = as_searched(query.search)[1:-1].casefold()
        found: list[str] = []
        for begin in range(0, len(names), _AT_ONCE):
            part = names[begin : begin + _AT_ONCE]
            rows = self._fetch(_TEXTS, {"run": run, "names": json.dumps(part)}, (2, 3))
            texts = {name: rest for name, *rest in rows}
            for at, name in enumerate(part):
                if _have(texts.get(name, ()), needle):
                    found.append(name)
                    if len(found) == query.limit:
                        return found, begin + at + 1
        return found, len(names)

    def _records(self, run: str, names: list[str]) -> list[NodeRecord]:
        rows = self._fetch(_NAMED, {"run": run, "names": json.dumps(names)}, NODE_TEXTS) if names else []
        found = {row[_NODE_ID]: node_of(NodeRow._make(row[:-1]), row[-1]) for row in rows}
        return [found[name] for name in names if name in found]


_NODE_ID: Final = NodeRow._fields.index("node_id")


def _have(texts: Iterable[Any], needle: str) -> bool:
    """Whether one of these JSON texts has it; `needle` is as JSON has it, in lower case."""
    return any(text and needle in _plain(text).casefold() for text in texts)


def _plain(text: str) -> str:
    """With all characters as themselves that need not be escaped."""
    try:
        return as_searched(from_json(text)) if "\\" in text else text
    except ValueError:  # damaged, which is told where it is shown
        return text
