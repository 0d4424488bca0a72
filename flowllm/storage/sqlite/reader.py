"""Reading: a second engine that cannot write, so that readers never wait for the writer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import URL, AsyncAdaptedQueuePool, and_, bindparam, event, func, literal_column, or_, select, tuple_
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine

from flowllm.core.errors import StoreError
from flowllm.core.money import Spend
from flowllm.core.tasks import start_task
from flowllm.core.types import AttemptStatus, NodeId, NodeStatus, RunId
from flowllm.storage.base import AttemptRecord, MemoStats, NodeRecord, RunRecord
from flowllm.storage.live import Gauge, WaitRecord
from flowllm.storage.sqlite.connection import address, decode, options, reading_mode
from flowllm.storage.sqlite.current_items import standing
from flowllm.storage.sqlite.faults import explain
from flowllm.storage.sqlite.records import (
    attempt_of,
    damaged,
    is_whole,
    listed_run,
    node_of,
    run_of,
    spend_of,
    totals_of,
    wait_of,
)
from flowllm.storage.sqlite.refusals import ambiguous, run_not_found
from flowllm.storage.sqlite.rows import AttemptRow, MemoRow, NodeRow, RunRow
from flowllm.storage.sqlite.tables import DEAD, attempts, gauges, memo, nodes, rates, runs, totals, waits
from flowllm.storage.sqlite.text import from_text, to_text
from flowllm.storage.sqlite.totals import CHARGED, summed

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Select, Table
    from sqlalchemy.ext.asyncio import AsyncConnection


KEYS: Final = 500
"""Keys in one look into the memo at most."""
CONNECTIONS: Final = 4
LAST: Final = "\U0010ffff"
"""Sorts after every text."""
NEWEST: Final = 500
"""Attempts among which one on its way is looked for."""
AMBIGUOUS: Final = 3
"""How many of several runs an error names."""


_TOTALS: Final = tuple(column for column in totals.c if column.name != "run_id")
_CHARGED: Final = tuple(attempts.c[name] for name in CHARGED)
_CHANGE: Final = len(NodeRow._fields)
"""Where the number of the change stands in a whole row of `nodes`."""
_WANTED: Final = func.json_each(bindparam("keys")).table_valued("value")
_ANSWERS: Final = select(*(memo.c[name] for name in MemoRow._fields)).where(memo.c.key.in_(select(_WANTED.c.value)))
"""Of any number of keys, as one text of JSON: a list of parameters would be spelled out anew for each look."""


def _sent() -> Select[Any]:
    names = ("key", "run_id", "status", "started_at")
    newest = select(*(attempts.c[name] for name in names)).order_by(attempts.c.seq.desc()).limit(NEWEST).subquery().c
    return (
        select(newest.key)
        .where(
            newest.key == bindparam("key"),
            newest.status == AttemptStatus.SENT.value,
            newest.run_id.in_(bindparam("runs", expanding=True)),
            newest.started_at >= bindparam("since"),
        )
        .limit(1)
    )


_SENT: Final = _sent()


class Reader:
    """Queries of one database. Every read sees what was committed before it began."""

    def __init__(self, path: Path, *, busy_timeout: float, lost: Callable[[], StoreError | None]) -> None:
        """`lost` tells, perhaps after a while, what became of the database if it is no longer the one that was opened."""
        self._path = path
        self._lost = lost
        query = {"uri": "true", **options(reading_mode(path))}
        self._engine = create_async_engine(
            URL.create("sqlite+aiosqlite", database=address(path), query=query),
            connect_args={"timeout": busy_timeout},
            isolation_level="AUTOCOMMIT",
            poolclass=AsyncAdaptedQueuePool,
            pool_size=CONNECTIONS,
            max_overflow=0,
            pool_timeout=None,  # many may wait for a connection, and each gets one
            skip_autocommit_rollback=True,
        )
        event.listen(self._engine.sync_engine, "connect", _prepare)
        self._memo: dict[str, asyncio.Future[MemoRow | None]] = {}
        self._looking: asyncio.Task[None] | None = None
        self._reading: set[asyncio.Task[Sequence[Any]]] = set()

    async def close(self) -> None:
        """Give back the connections."""
        if self._looking is not None:
            await self._looking
        if self._reading:
            await asyncio.wait(self._reading)
        await self._engine.dispose()

    # runs

    async def run(self, run_id: str) -> RunRecord:
        """The run of that id, or of an id that begins so. Raises RunNotFound."""
        begin = to_text(run_id)
        query = (
            select(runs, *_TOTALS)
            .join(totals, totals.c.run_id == runs.c.run_id)
            .where(runs.c.run_id >= begin, runs.c.run_id < begin + LAST)
            .order_by(runs.c.run_id)
            .limit(AMBIGUOUS)
        )
        found = await self._all(query) if begin else []
        if not found:
            raise run_not_found(run_id)
        if len(found) > 1 and found[0].run_id != begin:
            raise ambiguous(run_id, [from_text(row.run_id) for row in found])
        row = found[0]
        return replace(run_of(row, seq=row.seq, snapshot=row.snapshot), totals=totals_of(row._asdict()))

    async def runs(
        self,
        *,
        limit: int,
        workflow: str | None = None,
        unfinished: bool = False,
        running: bool = False,
        ended_before: float | None = None,
    ) -> list[RunRecord]:
        """Newest first, without snapshots; see `Store`."""
        query = (
            select(*_columns(runs, [name for name in RunRow._fields if name != "snapshot"], "seq"), *_TOTALS)
            .join(totals, totals.c.run_id == runs.c.run_id)
            .order_by(runs.c.seq.desc())
            .limit(limit)
        )
        if workflow is not None:
            query = query.where(runs.c.workflow == to_text(workflow))
        if unfinished:
            query = query.where(runs.c.status != "succeeded")
        if running:
            query = query.where(literal_column("runs.status = 'running'"))
        if ended_before is not None:
            ended = func.coalesce(runs.c.finished_at, runs.c.started_at)
            query = query.where(runs.c.status != "running", ended < ended_before)
        found = await self._all(query)
        return [replace(listed_run(row, seq=row.seq), totals=totals_of(row._asdict())) for row in found]

    async def running(self, run_ids: Sequence[RunId]) -> list[RunId]:
        """Those of the runs that stand as running."""
        texts = {to_text(run_id): run_id for run_id in run_ids}
        keys = list(texts)
        found: list[RunId] = []
        for start in range(0, len(keys), KEYS):
            query = select(runs.c.run_id).where(
                runs.c.run_id.in_(keys[start : start + KEYS]), runs.c.status == "running"
            )
            found += [texts[row.run_id] for row in await self._all(query)]
        return found

    # nodes and attempts

    async def nodes(self, run_id: RunId, parent: str) -> list[NodeRecord]:
        """Within a node, in order of completion."""
        query = select(nodes).where(
            nodes.c.run_id == to_text(run_id), nodes.c.parent == to_text(parent), nodes.c.place.is_(None)
        )
        return [_node(row) for row in await self._all(query.order_by(nodes.c.seq, nodes.c.node_id))]

    async def node(self, run_id: RunId, node_id: NodeId) -> NodeRecord | None:
        """That node."""
        query = select(nodes).where(nodes.c.run_id == to_text(run_id), nodes.c.node_id == to_text(node_id))
        found = await self._all(query)
        return _node(found[0]) if found else None

    async def nodes_within(self, run_id: RunId, parents: Sequence[NodeId]) -> dict[NodeId, list[NodeRecord]]:
        """Within each of many nodes, in order of completion."""
        texts = {to_text(parent): parent for parent in parents}
        keys = list(texts)
        found: dict[NodeId, list[NodeRecord]] = {}
        for start in range(0, len(keys), KEYS):
            query = select(nodes).where(
                nodes.c.run_id == to_text(run_id),
                nodes.c.parent.in_(keys[start : start + KEYS]),
                nodes.c.place.is_(None),
            )
            for row in await self._all(query.order_by(nodes.c.seq, nodes.c.node_id)):
                found.setdefault(texts[row.parent], []).append(_node(row))
        return found

    # items

    async def items(
        self, run_id: RunId, parent: NodeId, *, after: int, limit: int, status: NodeStatus | None
    ) -> list[NodeRecord]:
        """In the order of their places, from behind one of them."""
        query = select(nodes).where(*_items(run_id, parent), nodes.c.place > after)
        if status is not None:
            query = query.where(nodes.c.status == literal_column(f"'{status.value}'"))
        return [_node(row) for row in await self._all(query.order_by(nodes.c.place).limit(limit))]

    async def count_items(self, run_id: RunId, parent: NodeId) -> dict[NodeStatus, int]:
        """By status."""
        return await self._counted(*_items(run_id, parent))

    async def count_steps(self, run_id: RunId) -> dict[NodeStatus, int]:
        """By status."""
        return await self._counted(nodes.c.run_id == to_text(run_id), nodes.c.parent == "", nodes.c.place.is_(None))

    async def _counted(self, *where: ColumnElement[bool]) -> dict[NodeStatus, int]:
        query = select(nodes.c.status, func.count().label("items")).where(*where)
        found = await self._all(query.group_by(nodes.c.status))
        return {NodeStatus(row.status): row.items for row in found}

    async def failed_items(self, run_id: RunId, *, after: tuple[str, int], limit: int) -> list[NodeRecord]:
        """By the node of their foreach and their place, from behind one of them."""
        position = tuple_(nodes.c.parent, nodes.c.place)
        query = (
            select(nodes)
            .where(
                nodes.c.run_id == to_text(run_id),
                DEAD,
                position > tuple_(to_text(after[0]), after[1]),
                standing(to_text(run_id), nodes.c.parent),
            )
            .order_by(nodes.c.parent, nodes.c.place)
            .limit(limit)
        )
        rows = [NodeRow._make(tuple(row)[:_CHANGE]) for row in await self._all(query)]
        for row in rows:
            if not is_whole(row):  # what is printed of it would be fed back
                raise damaged(f"item {row.place} of {row.parent}")
        return [node_of(row) for row in rows]

    async def last_node(self, workflow: str, node_id: NodeId, *, before_seq: int | None) -> NodeRecord | None:
        """The node in the newest run in which it succeeded."""
        query = (
            select(*_columns(nodes, NodeRow._fields, "change_no"))
            .join(runs, runs.c.run_id == nodes.c.run_id)
            .where(
                runs.c.workflow == to_text(workflow),
                nodes.c.node_id == to_text(node_id),
                nodes.c.status == NodeStatus.SUCCEEDED.value,
            )
            .order_by(runs.c.seq.desc())
            .limit(1)
        )
        if before_seq is not None:
            query = query.where(runs.c.seq < before_seq)
        found = await self._all(query)
        return _node(found[0]) if found else None

    async def changes(self, run_id: RunId, *, since: int, limit: int) -> list[NodeRecord]:
        """In the order of their last change."""
        query = (
            select(*_columns(nodes, NodeRow._fields, "change_no"))
            .where(nodes.c.run_id == to_text(run_id), nodes.c.change_no > since)
            .order_by(nodes.c.change_no)
            .limit(limit)
        )
        return [_node(row) for row in await self._all(query)]

    async def waits(
        self, *, run_id: RunId | None, due_before: float | None, ready_at: float | None, limit: int
    ) -> list[WaitRecord]:
        """The earliest due first, those without a time last."""
        asleep = waits.c.value.is_(None)
        query = select(waits).where(asleep if ready_at is None else or_(~asleep, waits.c.due_at <= ready_at))
        if run_id is not None:
            query = query.where(waits.c.run_id == to_text(run_id))
        if due_before is not None:
            query = query.where(waits.c.due_at < due_before)
        due = waits.c.due_at
        found = await self._all(query.order_by(due.is_(None), due, waits.c.token).limit(limit))
        return [wait_of(row) for row in found]

    async def gauges(self, *, since: float) -> list[Gauge]:
        """Oldest first."""
        found = await self._all(select(gauges).where(gauges.c.at > since).order_by(gauges.c.at, gauges.c.account))
        texts = (
            {**row._asdict(), "process": from_text(row.process), "account": from_text(row.account)} for row in found
        )
        return [Gauge(**values) for values in texts]

    async def attempts(self, run_id: RunId, node_id: NodeId | None) -> list[AttemptRecord]:
        """In the order in which they were recorded."""
        columns = _columns(attempts, AttemptRow._fields)
        query = select(*columns).where(attempts.c.run_id == to_text(run_id)).order_by(attempts.c.seq)
        if node_id is not None:
            query = query.where(attempts.c.node_id == to_text(node_id))
        return [attempt_of(AttemptRow._make(row)) for row in await self._all(query)]

    async def sent(self, key: str, run_ids: Sequence[RunId], *, since: float) -> bool:
        """Whether one of the runs has a request of that key on its way, as far as the newest attempts tell."""
        runs = [to_text(run_id) for run_id in run_ids]
        return bool(await self._all(_SENT, {"key": to_text(key), "runs": runs, "since": since}))

    async def spend(self, run_id: RunId, within: NodeId | None) -> Spend:
        """What all attempts of a run took, or of one node and all within it, added up in the database."""
        if within is None:
            found = await self._all(select(totals).where(totals.c.run_id == to_text(run_id)))
            return spend_of(found[0]._asdict()) if found else Spend()
        node, name = attempts.c.node_id, to_text(within)
        inner = [and_(node >= f"{name}{mark}", node < f"{name}{chr(ord(mark) + 1)}") for mark in ".["]
        query: Select[Any] = select(*_CHARGED)
        query = query.where(attempts.c.run_id == to_text(run_id), attempts.c.model != "", or_(node == name, *inner))
        return spend_of(summed(await self._all(query)))

    # rates

    async def rates(self, *, since: float) -> dict[str, float]:
        """Requests a second by account, of what was learned at or after a time."""
        query = select(rates.c.account, rates.c.requests_per_second).where(rates.c.learned_at >= since)
        found = await self._all(query.order_by(rates.c.account))
        return {from_text(row.account): row.requests_per_second for row in found}

    # memo

    async def memo(self, key: str) -> MemoRow | None:
        """The row of that key. Keys that are asked for while a look is under way share the next one."""
        name = to_text(key)
        future = self._memo.get(name)
        if future is None:
            future = self._memo[name] = asyncio.get_running_loop().create_future()
        if self._looking is None:
            self._looking = start_task(self._look())
        return await asyncio.shield(future)  # others may wait for the same

    async def memo_stats(self) -> MemoStats:
        """Totals."""
        query = select(
            memo.c.model,
            func.count().label("entries"),
            func.sum(memo.c.size).label("bytes"),
            func.min(memo.c.created_at).label("oldest"),
            func.max(memo.c.created_at).label("newest"),
        ).group_by(memo.c.model)
        rows = await self._all(query.order_by(func.count().desc(), memo.c.model))
        return MemoStats(
            entries=sum(row.entries for row in rows),
            bytes=sum(row.bytes for row in rows),
            oldest=min((row.oldest for row in rows), default=None),
            newest=max((row.newest for row in rows), default=None),
            models={from_text(row.model): row.entries for row in rows},
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

    async def _answer(self, waiting: dict[str, asyncio.Future[MemoRow | None]]) -> None:
        try:
            rows = await self._all(_ANSWERS, {"keys": json.dumps(list(waiting))})
            found: dict[str, Any] = {row.key: row for row in rows}
        except Exception as error:  # noqa: BLE001 - whatever it is, the waiters must hear of it
            for future in waiting.values():
                future.set_exception(error)
                future.exception()  # seen, also if its last waiter has gone
            return
        for key, future in waiting.items():
            future.set_result(found.get(key))

    # the engine

    async def _all(self, query: Select[Any], values: dict[str, Any] | None = None) -> Sequence[Any]:
        """The rows; a caller that is cancelled leaves the query to its end, as its connection is others' next."""
        reading = start_task(self._read(query, values))
        self._reading.add(reading)
        reading.add_done_callback(self._has_read)
        return await asyncio.shield(reading)

    async def _read(self, query: Select[Any], values: dict[str, Any] | None) -> Sequence[Any]:
        async with self._connection() as connection:
            rows: Sequence[Any] = (await connection.execute(query, values)).all()
        return rows

    def _has_read(self, reading: asyncio.Task[Sequence[Any]]) -> None:
        self._reading.discard(reading)
        if not reading.cancelled():
            reading.exception()  # seen, also if its caller has gone

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection]:
        try:
            async with self._engine.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            lost = await asyncio.to_thread(self._lost)
            raise lost or explain(getattr(error, "orig", None) or error, self._path) from error


def _items(run_id: RunId, parent: NodeId) -> tuple[ColumnElement[bool], ...]:
    run, node = to_text(run_id), to_text(parent)
    return nodes.c.run_id == run, nodes.c.parent == node, standing(run, node)


def _node(row: Any) -> NodeRecord:
    values = tuple(row)
    return node_of(NodeRow._make(values[:_CHANGE]), values[_CHANGE])  # whose fields are found many times faster


def _columns(table: Table, names: Sequence[str], *more: str) -> list[Any]:
    return [table.c[name] for name in (*names, *more)]


def _prepare(connection: Any, _record: Any) -> None:
    """Settings of a new connection, given SQLAlchemy's wrapper around aiosqlite's."""
    connection.driver_connection.text_factory = decode
    cursor = connection.cursor()
    cursor.execute("PRAGMA query_only=ON")
    cursor.close()
