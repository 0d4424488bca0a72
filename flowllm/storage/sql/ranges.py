"""Ranges of items for workers: each is one row until it is over, with its items compressed."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any, Final

from flowllm.core.types import NodeId, RunId
from flowllm.storage.liveness import Standing, standing
from flowllm.storage.ranges import ItemEnd, LeasedRange, OfferedRange, RangeItem, RangeNews, RangeOrders, RangeReport
from flowllm.storage.records import RunLease
from flowllm.storage.sql.actions import forget_sent
from flowllm.storage.sql.engine import Connection
from flowllm.storage.sql.presence import FIELDS, process_of
from flowllm.storage.sql.reader import Reader
from flowllm.storage.sql.records import reading
from flowllm.storage.sql.rows import from_json, from_text, to_json, to_text
from flowllm.storage.sql.statements import Unit
from flowllm.storage.sql.writer import Writer

_LEVEL: Final = 1
_OFFER: Final = (
    "INSERT INTO ranges (run_id, number, epoch, foreach, status, process, leases, items) "
    "VALUES (?, ?, ?, ?, 'free', NULL, 0, ?) ON CONFLICT (run_id, number) DO NOTHING"
)
_HEARD: Final = "DELETE FROM reports WHERE report_id = ?"
_WORK: Final = (
    "SELECT runs.run_id FROM runs WHERE status = 'running' AND EXISTS (SELECT 1 FROM ranges WHERE "
    "ranges.run_id = runs.run_id AND ranges.epoch = runs.epoch AND ranges.status = 'free') ORDER BY seq LIMIT :limit"
)
_FREE: Final = (
    "SELECT number, ranges.epoch, foreach, leases, items FROM ranges JOIN runs ON runs.run_id = ranges.run_id "
    "AND runs.epoch = ranges.epoch WHERE ranges.run_id = ? AND ranges.status = 'free' AND runs.status = 'running' "
)
_LEASE: Final = "UPDATE ranges SET status = 'leased', process = ?, leases = leases + 1 WHERE run_id = ? AND number = ?"
_MINE: Final = "SELECT 1 FROM ranges WHERE run_id = ? AND number = ? AND process = ?"
_REPORT: Final = "INSERT INTO reports (run_id, number, process, body) VALUES (?, ?, ?, ?)"
_GOING_ON: Final = "SELECT 1 FROM runs WHERE run_id = ? AND status = 'running'"
_SAID: Final = "SELECT 1 FROM reports WHERE run_id = ? AND process = ? AND number = 0"
_WAITED_FOR: Final = "SELECT 1 FROM reports WHERE run_id = :run LIMIT 1"
_TAKE_BACK: Final = "DELETE FROM ranges WHERE run_id = ? AND number = ? AND status = 'free'"
_OVER: Final = "DELETE FROM ranges WHERE run_id = ? AND number = ?"
_GIVE_BACK: Final = (
    "UPDATE ranges SET status = 'free', process = NULL WHERE run_id = ? AND number = ? AND status = 'leased'"
)
_ORDERS: Final = (
    "SELECT DISTINCT foreach, status FROM ranges WHERE run_id = :run AND process = :process "
    "AND status IN ('withdrawn', 'cancelled')"
)
_GOING: Final = (
    f"SELECT epoch, status, {', '.join(FIELDS)}, database_now() FROM runs JOIN processes ON process_id = process "
    "WHERE run_id = :run"
)
_WORKERS: Final = "SELECT DISTINCT process FROM ranges WHERE run_id = ? AND process IS NOT NULL"
_NEWS: Final = "SELECT report_id, number, process, body FROM reports WHERE run_id = :run"
_STANDING: Final = "SELECT number, process FROM ranges WHERE run_id = :run"
_DROP_FREE: Final = "DELETE FROM ranges WHERE run_id = ? AND foreach = ? AND status = 'free' RETURNING number"
_WITHDRAW: Final = "UPDATE ranges SET status = ? WHERE run_id = ? AND foreach = ? AND process IS NOT NULL"
_DROP_GONE: Final = (
    "DELETE FROM ranges WHERE run_id = ? AND process = ? AND status IN ('withdrawn', 'cancelled') RETURNING number"
)
_FREE_GONE: Final = "UPDATE ranges SET status = 'free', process = NULL WHERE run_id = ? AND process = ?"
CLEAR: Final = ("DELETE FROM ranges WHERE run_id = :this", "DELETE FROM reports WHERE run_id = :this")


class RangeStore(Reader):
    """The verbs of `Ranges`."""

    _writer: Writer

    async def offer_ranges(
        self, lease: RunLease, ranges: Sequence[OfferedRange], *, heard: Collection[int] = ()
    ) -> None:
        run = to_text(lease.run_id)
        rows = [(run, one.number, lease.epoch, to_text(one.foreach), _packed(one)) for one in ranges]

        def action(connection: Connection) -> None:
            connection.executemany(_HEARD, [(report,) for report in heard])
            connection.executemany(_OFFER, rows)

        await self._writer.write(Unit(leases=(lease,), action=action))

    async def work(self, *, limit: int = 50) -> list[RunId]:
        return [RunId(from_text(run)) for (run,) in await self._all(_WORK, {"limit": limit})]

    async def lease_range(self, run_id: RunId, *, busy: Collection[NodeId] = ()) -> LeasedRange | None:
        run, names, presence = to_text(run_id), [to_text(node) for node in busy], self._writer.presence
        others = f"AND foreach NOT IN ({', '.join('?' * len(names))}) " if names else ""

        def action(connection: Connection) -> Any:
            lock = connection.for_update and f"{connection.for_update} OF ranges SKIP LOCKED"
            query = f"{_FREE}{others}ORDER BY number LIMIT 1 {lock}"
            found = connection.execute(query, (run, *names)).fetchone()
            if found is not None:
                process = presence.stay(connection, RunLease(run_id=run_id, epoch=found[1]))
                connection.execute(_LEASE, (process, run, found[0]))
            return found

        presence.serve()
        found = await self._writer.write(Unit(action=action))
        if found is None:
            return None
        number, epoch, foreach, leases, items = found
        with reading(f"A range of items of run {run_id}"):
            terms, rows = from_json(zlib.decompress(items).decode())
            return LeasedRange(
                number=number,
                foreach=NodeId(from_text(foreach)),
                items=[RangeItem._make(row) for row in rows],
                terms=terms,
                lease=RunLease(run_id=run_id, epoch=epoch),
                leases=leases + 1,
            )

    async def report_range(self, lease: RunLease, report: RangeReport) -> bool:
        run, number, presence = to_text(lease.run_id), report.number, self._writer.presence
        body = to_json(
            {
                "ended": [[index, int(end)] for index, end in report.ended],
                "over": report.over,
                "given_back": report.given_back,
                "figures": dict(report.figures),
                "stopped": None if report.stopped is None else dict(report.stopped),
            }
        )

        def action(connection: Connection) -> bool:
            process = presence.holder(lease.run_id)
            if connection.execute(_MINE, (run, number, process)).fetchone() is None:
                return False
            connection.execute(_REPORT, (run, number, process, body))
            if report.given_back and connection.execute(_GIVE_BACK, (run, number)).rowcount:
                return True
            if report.over or report.given_back:  # what was withdrawn is for nobody
                connection.execute(_OVER, (run, number))
            return True

        return bool(await self._writer.write(Unit(leases=(lease,), action=action)))

    async def want_range(self, run_id: RunId) -> bool:
        run, presence = to_text(run_id), self._writer.presence

        def action(connection: Connection) -> bool:
            found = connection.execute(_GOING_ON, (run,)).fetchone()
            if found is None:
                return False
            process = presence.join(connection, run_id)
            if connection.execute(_SAID, (run, process)).fetchone() is None:
                connection.execute(_REPORT, (run, 0, process, "{}"))
            return True

        presence.serve()
        return bool(await self._writer.write(Unit(action=action)))

    async def workers_wait(self, run_id: RunId) -> bool:
        return bool(await self._all(_WAITED_FOR, {"run": to_text(run_id)}))

    async def take_back_range(self, lease: RunLease, number: int) -> bool:
        values = (to_text(lease.run_id), number)
        unit = Unit(leases=(lease,), action=lambda connection: connection.execute(_TAKE_BACK, values).rowcount > 0)
        return bool(await self._writer.write(unit))

    async def range_orders(self, lease: RunLease) -> RangeOrders:
        presence = self._writer.presence
        values = {"run": to_text(lease.run_id), "process": presence.holder(lease.run_id)}
        found = await self._all(_GOING, {"run": values["run"]})
        if not found or tuple(found[0][:2]) != (lease.epoch, "running"):
            return RangeOrders(going=False)
        *owner, now = found[0][2:]
        if standing(process_of(tuple(owner)), now=now, known=presence.machine) is not Standing.ALIVE:
            return RangeOrders(going=False)
        orders = await self._all(_ORDERS, values)
        return RangeOrders(
            going=True,
            withdrawn=frozenset(NodeId(from_text(foreach)) for foreach, _ in orders),
            cancelled=any(status == "cancelled" for _, status in orders),
        )

    async def range_news(self, run_id: RunId) -> RangeNews:
        run = {"run": to_text(run_id)}
        standing = await self._all(_STANDING, run)
        rows = await self._all(_NEWS, run)
        return RangeNews(
            reports=[_report(*row) for row in rows],
            free=frozenset(number for number, process in standing if process is None),
            workers=frozenset(process for _, process in standing if process is not None),
        )

    async def withdraw_ranges(self, lease: RunLease, foreach: NodeId, *, cancel: bool = False) -> list[int]:
        run, node = to_text(lease.run_id), to_text(foreach)

        def action(connection: Connection) -> list[int]:
            dropped = connection.execute(_DROP_FREE, (run, node)).fetchall()
            connection.execute(_WITHDRAW, ("cancelled" if cancel else "withdrawn", run, node))
            return [number for (number,) in dropped]

        found: list[int] = await self._writer.write(Unit(leases=(lease,), action=action))
        return found

    async def free_ranges(self, lease: RunLease) -> list[int]:
        run, presence = to_text(lease.run_id), self._writer.presence

        def action(connection: Connection) -> list[int]:
            had = [number for (number,) in connection.execute(_WORKERS, (run,)).fetchall()]
            dropped = []
            for process in presence.ended(connection, had):
                dropped += connection.execute(_DROP_GONE, (run, process)).fetchall()
                connection.execute(_FREE_GONE, (run, process))
                forget_sent(connection, run, process)
            return [number for (number,) in dropped]

        found: list[int] = await self._writer.write(Unit(leases=(lease,), action=action))
        return found

    async def clear_ranges(self, lease: RunLease) -> None:
        run = to_text(lease.run_id)
        await self._writer.write(Unit(leases=(lease,), action=clearing(run), always=True))


def clearing(run: str) -> Callable[[Connection], None]:
    """An action that removes all ranges of a run."""

    def action(connection: Connection) -> None:
        for statement in CLEAR:
            connection.execute(statement, {"this": run})

    return action


def _packed(one: OfferedRange) -> bytes:
    text = to_json([dict(one.terms), [list(item) for item in one.items]])
    return zlib.compress(text.encode(), _LEVEL)


def _report(report_id: int, number: int, process: int, body: str) -> RangeReport:
    with reading(f"What a worker says of range {number}"):
        given = json.loads(body)
        ended = [(index, ItemEnd(end)) for index, end in given.pop("ended", ())]
        return replace(RangeReport(number=number, ended=ended, process=process, report_id=report_id), **given)
