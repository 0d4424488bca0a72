"""Reading: a few threads with connections that cannot write, so that readers never wait for the writer."""

from __future__ import annotations

import asyncio
import json
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from flowllm.core.errors import StoreError
from flowllm.core.models import ModelTotals
from flowllm.core.money import Spend
from flowllm.core.tasks import start_task
from flowllm.core.types import NodeId, NodeStatus, RunId, step_path
from flowllm.storage.base import AttemptRecord, NodeRecord, RunRecord
from flowllm.storage.machine import Machine
from flowllm.storage.monitoring import Gauge, Learned, MemoStats, SuspensionRecord
from flowllm.storage.sql import run_queries
from flowllm.storage.sql.engine import Connection, Engine
from flowllm.storage.sql.faults import ambiguous, run_not_found
from flowllm.storage.sql.patience import BRIEFLY, Patience
from flowllm.storage.sql.records import attempt_of, damaged, is_whole, node_of, spend_of, wait_of
from flowllm.storage.sql.rows import (
    GAUGE_FIELDS,
    WAIT_FIELDS,
    AttemptRow,
    MemoRow,
    NodeRow,
    from_json,
    from_text,
    to_text,
)
from flowllm.storage.sql.run_queries import LAST, TOTALS, Rows, all_of, columns
from flowllm.storage.sql.texts import MEMO_TEXTS, NODE_TEXTS, read
from flowllm.storage.sql.totals import CHARGED, summed

KEYS: Final = 500
"""Keys in one look into the memo at most."""
CONNECTIONS: Final = 4
TIMED: Final = 1000
"""Attempts among which those are looked for that say how long a request takes."""
CURRENT: Final = """nodes.place IS NOT NULL AND ((SELECT epoch FROM runs WHERE run_id = {run}) = 1 OR NOT (
    nodes.epoch < coalesce((
        SELECT foreach.epoch FROM nodes AS foreach WHERE foreach.run_id = {run} AND foreach.node_id = {parent}
        AND foreach.status IN ('succeeded', 'failed', 'skipped', 'blocked')
    ), 0) OR EXISTS (
        SELECT 1 FROM nodes AS other WHERE other.run_id = nodes.run_id AND other.parent = nodes.parent
        AND other.place = nodes.place AND other.epoch > nodes.epoch
    )))"""
"""Whether a row is a current item of its foreach.

A resume takes the items of earlier attempts at the run over one by one. Until the foreach has ended (a cancelled one has
not), the rows of every attempt are to be seen, but of two at one place only the newer one; once it has ended, what
the last attempt neither wrote nor took over has left the data. A run in its first attempt (most are) has nothing of the
kind, and is spared the looking."""
ITEMS_OF: Final = f"nodes.run_id = :run AND nodes.parent = :parent AND {CURRENT.format(run=':run', parent=':parent')}"


_CHANGE: Final = len(NodeRow._fields)
"""Where the number of the change stands in a row of `nodes`."""
_NODES: Final = f"SELECT {columns('nodes', *NodeRow._fields, 'change_no')} FROM nodes"
_COUNT: Final = (
    "SELECT 'succeeded', count(*) FROM nodes WHERE {where} AND status = 'succeeded' "
    "UNION ALL SELECT status, count(*) FROM nodes WHERE {where} AND status <> 'succeeded' GROUP BY status"
)
"""Most have succeeded, and rows that are grouped are sorted before."""
_ANSWERS: Final = (
    f"SELECT {columns('memo', *MemoRow._fields)} FROM memo WHERE key IN (SELECT value FROM json_each(:keys))"
)
_LATENCIES: Final = (
    "SELECT node_id, finished_at - started_at FROM "
    "(SELECT run_id, node_id, provider, model, status, started_at, finished_at FROM attempts "
    f"ORDER BY seq DESC LIMIT {TIMED}) AS newest WHERE provider = :provider AND model = :model AND status = 'succeeded' "
    "AND finished_at >= started_at AND (:model <> '' OR (SELECT workflow FROM runs WHERE runs.run_id = newest.run_id) = "
    "(SELECT workflow FROM runs WHERE run_id = :run))"
)
_WITHIN: Final = (
    "node_id = :node",
    "node_id >= :node || '.' AND node_id < :node || '/'",
    "node_id >= :node || '[' AND node_id < :node || '\\'",
)
"""A node, the steps within it, its items and the steps within those: each a range of the index."""
_CHARGED: Final = " UNION ALL ".join(
    f"SELECT {', '.join(CHARGED)} FROM attempts WHERE run_id = :run AND {which} AND model <> ''" for which in _WITHIN
)


class Reader:
    """The verbs of `Store` that read one database, and what the others need to read. Every read sees what was committed
    before it began."""

    def __init__(self, engine: Engine, *, patience: Patience, lost: Callable[[], StoreError | None]) -> None:
        """`lost` tells, perhaps after a while, what became of the database if it is no longer the one that was opened."""
        self._engine = engine
        self._patience = patience
        self._machine = Machine()
        self._lost = lost
        self._threads = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="flowllm-reader")
        self._of_thread = threading.local()
        self._connections: list[Connection] = []
        self._memo: dict[str, list[asyncio.Future[MemoRow | None]]] = {}
        self._looking: asyncio.Task[None] | None = None

    async def close_reader(self) -> None:
        """Give back the connections, once all that is being read was read."""
        if self._looking is not None:
            await self._looking
        await asyncio.to_thread(self._threads.shutdown)
        for connection in self._connections:
            connection.close()
        self._connections.clear()

    # runs

    async def find_run(self, run_id: str) -> RunRecord:
        """The run of that id, or of an id that begins so. Raises RunNotFound."""
        begin = to_text(run_id)
        found = await self._all(run_queries.FIND, {"begin": begin, "end": begin + LAST}) if begin else []
        if not found:
            raise run_not_found(run_id)
        if len(found) > 1 and found[0][0] != begin:
            raise ambiguous(run_id, [from_text(other[0]) for other in found])
        return run_queries.found_run(found[0], self._machine)

    async def find_runs(self, **wanted: Any) -> list[RunRecord]:
        """Newest first, without snapshots; `wanted` is what `run_queries.listing` takes."""
        query, values = run_queries.listing(**wanted)
        return [run_queries.listed(row, self._machine) for row in await self._all(query, values)]

    async def workflows(self) -> list[str]:
        return [from_text(name) for (name,) in await self._all(run_queries.NAMES["workflow"])]

    async def tags(self) -> list[str]:
        return [from_text(name) for (name,) in await self._all(run_queries.NAMES["tag"])]

    async def models(self, run_id: RunId) -> list[ModelTotals]:
        run = {"run": to_text(run_id)}
        return run_queries.models_of(
            await self._all(run_queries.MODELS, run), await self._all(run_queries.ANSWERED, run)
        )

    # nodes and attempts

    async def nodes(self, run_id: RunId, parent: str = "") -> list[NodeRecord]:
        query = f"{_NODES} WHERE run_id = :run AND parent = :parent AND place IS NULL ORDER BY seq, node_id"
        return [_node(row) for row in await self._nodes(query, {"run": to_text(run_id), "parent": to_text(parent)})]

    async def node(self, run_id: RunId, node_id: NodeId) -> NodeRecord | None:
        query = f"{_NODES} WHERE run_id = :run AND node_id = :node"
        found = await self._nodes(query, {"run": to_text(run_id), "node": to_text(node_id)})
        return _node(found[0]) if found else None

    async def nodes_within(self, run_id: RunId, parents: Sequence[NodeId]) -> dict[NodeId, list[NodeRecord]]:
        texts = {to_text(parent): parent for parent in parents}
        query = (
            f"{_NODES} WHERE run_id = :run AND parent IN (SELECT value FROM json_each(:parents)) AND place IS NULL "
            "ORDER BY seq, node_id"
        )
        found: dict[NodeId, list[NodeRecord]] = {}
        for row in await self._nodes(query, {"run": to_text(run_id), "parents": json.dumps(list(texts))}):
            found.setdefault(texts[row[_PARENT]], []).append(_node(row))
        return found

    async def items(
        self, run_id: RunId, parent: NodeId, *, after: int = -1, limit: int = 500, status: NodeStatus | None = None
    ) -> list[NodeRecord]:
        only = (
            "" if status is None else f"AND nodes.status = '{status.value}'"
        )  # spelled out for the index of failed ones
        query = f"{_NODES} WHERE {ITEMS_OF} AND nodes.place > :after {only} ORDER BY nodes.place LIMIT :limit"
        values = {"run": to_text(run_id), "parent": to_text(parent), "after": after, "limit": limit}
        return [_node(row) for row in await self._nodes(query, values)]

    async def count_items(self, run_id: RunId, parent: NodeId) -> dict[NodeStatus, int]:
        return await self._counted(ITEMS_OF, run_id, parent)

    async def count_steps(self, run_id: RunId) -> dict[NodeStatus, int]:
        return await self._counted("nodes.run_id = :run AND nodes.parent = :parent AND nodes.place IS NULL", run_id, "")

    async def _counted(self, where: str, run_id: RunId, parent: str) -> dict[NodeStatus, int]:
        rows = await self._all(_COUNT.format(where=where), {"run": to_text(run_id), "parent": to_text(parent)})
        return {NodeStatus(status): count for status, count in rows if count}

    async def failed_items(
        self, run_id: RunId, *, after: tuple[str, int] = ("", -1), limit: int = 500
    ) -> list[NodeRecord]:
        query = (
            f"{_NODES} WHERE nodes.run_id = :run AND status = 'failed' AND place IS NOT NULL "
            f"AND (nodes.parent, nodes.place) > (:parent, :place) AND {CURRENT.format(run=':run', parent='nodes.parent')} "
            "ORDER BY nodes.parent, nodes.place LIMIT :limit"
        )
        values = {"run": to_text(run_id), "parent": to_text(after[0]), "place": after[1], "limit": limit}
        rows = [NodeRow._make(row[:_CHANGE]) for row in await self._nodes(query, values)]
        for row in rows:
            if not is_whole(row):  # what is printed of it would be fed back
                raise damaged(f"item {row.place} of {row.parent}")
        return [node_of(row) for row in rows]

    async def last_node(self, workflow: str, node_id: NodeId, *, before_seq: int | None) -> NodeRecord | None:
        earlier = "" if before_seq is None else "AND runs.seq < :before"
        query = (
            f"{_NODES} JOIN runs ON runs.run_id = nodes.run_id WHERE runs.workflow = :workflow "
            f"AND nodes.node_id = :node AND nodes.status = 'succeeded' {earlier} ORDER BY runs.seq DESC LIMIT 1"
        )
        values = {"workflow": to_text(workflow), "node": to_text(node_id), "before": before_seq}
        found = await self._nodes(query, values)
        return _node(found[0]) if found else None

    async def waits(
        self,
        *,
        run_id: RunId | None = None,
        due_before: float | None = None,
        ready_at: float | None = None,
        limit: int = 500,
    ) -> list[SuspensionRecord]:
        where = {
            "value IS NULL": ready_at is None,
            "(value IS NOT NULL OR due_at <= :ready)": ready_at is not None,
            "run_id = :run": run_id is not None,
            "due_at < :before": due_before is not None,
        }
        values = {"ready": ready_at, "run": to_text(run_id or ""), "before": due_before, "limit": limit}
        query = f"SELECT {', '.join(WAIT_FIELDS)} FROM waits WHERE {all_of(where)}"
        rows = await self._all(f"{query} ORDER BY due_at IS NULL, due_at, token LIMIT :limit", values)
        return [wait_of(row) for row in rows]

    async def gauges(self, *, since: float, until: float = math.inf) -> list[Gauge]:
        query = f"SELECT {', '.join(GAUGE_FIELDS)} FROM gauges WHERE at > :since AND at <= :until ORDER BY at, account"
        rows = await self._all(query, {"since": since, "until": until})
        found = [dict(zip(GAUGE_FIELDS, row, strict=True)) for row in rows]
        return [Gauge(**{**one, **{name: read(one[name]) for name, read in _TEXTS}}) for one in found]

    async def attempts(
        self, run_id: RunId, node_id: NodeId | None = None, *, key: str | None = None
    ) -> list[AttemptRecord]:
        where = all_of({"run_id = :run": True, "node_id = :node": node_id is not None, "key = :key": key is not None})
        query = f"SELECT {', '.join(AttemptRow._fields)} FROM attempts WHERE {where} ORDER BY seq"
        values = {"run": to_text(run_id), "node": to_text(node_id or ""), "key": to_text(key or "")}
        rows = await self._all(query, values)
        return [attempt_of(AttemptRow._make(row)) for row in rows]

    async def latencies(self, like: AttemptRecord) -> list[float]:
        names = {"provider": to_text(like.provider), "model": to_text(like.model), "run": to_text(like.run_id)}
        step = None if like.model else step_path(like.node_id)
        rows = await self._all(_LATENCIES, names)
        return [seconds for node, seconds in reversed(rows) if step in {None, step_path(from_text(node))}]

    async def spend(self, run_id: RunId, within: NodeId | None = None) -> Spend:
        run = to_text(run_id)
        if within is None:
            query = f"SELECT {', '.join(TOTALS)} FROM totals WHERE run_id = :run"
            found = await self._all(query, {"run": run})
            return spend_of(dict(zip(TOTALS, found[0], strict=True))) if found else Spend()
        name = to_text(within)
        return spend_of(await self._in_thread(lambda: summed(self._fetch(_CHARGED, {"run": run, "node": name}))))

    # what was learned

    async def learned(self, *, since: float) -> list[Learned]:
        query = "SELECT account, name, value, learned_at FROM learned WHERE learned_at >= :since ORDER BY account, name"
        return [
            Learned(account=from_text(account), name=from_text(name), value=value, at=at)
            for account, name, value, at in await self._all(query, {"since": since})
        ]

    # memo

    async def memo_row(self, key: str) -> MemoRow | None:
        """The row of that key. Keys that are asked for while a look is under way share the next one."""
        future: asyncio.Future[MemoRow | None] = asyncio.get_running_loop().create_future()
        self._memo.setdefault(to_text(key), []).append(future)
        if self._looking is None:
            self._looking = start_task(self._look())
        return await future

    async def memo_rows(self, keys: Sequence[str]) -> list[MemoRow]:
        """The rows of those keys that there are."""
        return await self._memo_rows([*map(to_text, keys)])

    async def _memo_rows(self, names: list[str]) -> list[MemoRow]:
        return [MemoRow._make(row) for row in await self._all(_ANSWERS, {"keys": json.dumps(names)}, MEMO_TEXTS)]

    async def memo_stats(self) -> MemoStats:
        rows = await self._all(
            "SELECT model, count(*), sum(size), min(created_at), max(created_at) FROM memo GROUP BY model "
            "ORDER BY count(*) DESC, model"
        )
        return MemoStats(
            entries=sum(entries for _, entries, *_ in rows),
            bytes=sum(size for _, _, size, *_ in rows),
            oldest=min((oldest for *_, oldest, _ in rows), default=None),
            newest=max((newest for *_, newest in rows), default=None),
            models={from_text(model): entries for model, entries, *_ in rows},
        )

    async def _look(self) -> None:
        """Answer all that wait for the memo, as many keys at a time as one query takes."""
        try:
            await asyncio.sleep(0)  # let the other tasks of this tick ask too
            while self._memo:
                keys = list(self._memo)[:KEYS]
                waiting = {key: self._memo.pop(key) for key in keys}
                await self._answer(waiting)
        finally:
            self._looking = None

    async def _answer(self, waiting: dict[str, list[asyncio.Future[MemoRow | None]]]) -> None:
        found, failure = dict[str, MemoRow](), None
        try:
            found = {row.key: row for row in await self._memo_rows(list(waiting))}
        except Exception as error:  # noqa: BLE001 - whatever it is, the waiters must hear of it
            failure = error
        for key, futures in waiting.items():
            for future in futures:
                if future.done():  # it was cancelled
                    continue
                if failure is None:
                    future.set_result(found.get(key))
                else:
                    future.set_exception(failure)

    # the threads

    async def _nodes(self, query: str, values: Mapping[str, Any]) -> Rows:
        return await self._all(query, values, NODE_TEXTS)

    async def _all(
        self, query: str, values: Mapping[str, Any] | None = None, columns: tuple[int, ...] | None = None
    ) -> Rows:
        """All rows; with `columns`, those have their long texts in full there."""
        rows: Rows = await self._in_thread(lambda: self._fetch(query, values or {}, columns))
        return rows

    async def _in_thread(self, read: Callable[[], Any]) -> Any:
        """What it gives; a caller that is cancelled leaves it to its end. Raises what `Engine.explain` gives."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._patiently, read)
        except self._engine.errors as error:
            raise await asyncio.to_thread(self._lost) or self._engine.explain(error) from error

    def _patiently(self, read: Callable[[], Any]) -> Any:
        return self._patience.reads(read, self._longest())

    def _longest(self) -> float:
        """Seconds that a database is waited for which is away."""
        return BRIEFLY

    def _fetch(self, query: str, values: Mapping[str, Any], columns: tuple[int, ...] | None = None) -> Rows:
        connection = getattr(self._of_thread, "connection", None)
        if connection is None:
            connection = self._of_thread.connection = self._engine.reader()
            self._connections.append(connection)
        try:
            return connection.fetch(query, values) if columns is None else read(connection, query, values, columns)
        except self._engine.errors as error:
            if self._engine.passes(error):
                self._of_thread.connection = None
                self._connections.remove(connection)
                connection.close()
            raise


def _waits(text: str) -> dict[str, dict[str, int]]:
    """By reason and priority; what was written before priorities were told apart has none."""
    return {reason: of if isinstance(of, dict) else {"normal": of} for reason, of in from_json(text).items()}


_TEXTS: Final = (("process", from_text), ("account", from_text), ("waits", _waits))
_PARENT: Final = NodeRow._fields.index("parent")


def _node(row: tuple[Any, ...]) -> NodeRecord:
    return node_of(NodeRow._make(row[:_CHANGE]), row[_CHANGE])
