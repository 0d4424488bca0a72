"""The store on disk: SQLite, one writer, many readers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flowllm.core.errors import OwnershipLost, StoreError
from flowllm.core.money import Spend
from flowllm.core.types import Json, NodeId, NodeStatus, RunId, RunStatus
from flowllm.storage.base import (
    AttemptRecord,
    ItemKey,
    MatchedItem,
    MemoRecord,
    MemoStats,
    NodeRecord,
    NodeWrite,
    Owner,
    RunLease,
    RunRecord,
)
from flowllm.storage.live import Gauge, WaitRecord
from flowllm.storage.sqlite import actions, item_matching, statements
from flowllm.storage.sqlite.connection import BUSY_TIMEOUT, compact
from flowllm.storage.sqlite.faults import run_not_found
from flowllm.storage.sqlite.outputs import ChosenOutputs, StoredOutputs
from flowllm.storage.sqlite.ownership import Locks
from flowllm.storage.sqlite.reader import Reader
from flowllm.storage.sqlite.records import memo_of, node_of
from flowllm.storage.sqlite.rows import (
    attempt_row,
    gauge_row,
    memo_row,
    node_row,
    rate_row,
    run_row,
    running_row,
    wait_row,
)
from flowllm.storage.sqlite.unit import Unit
from flowllm.storage.sqlite.writer import Failpoints, Writer

GOING = 1_000_000
"""A limit that no number of runs that stand as running reaches."""


_OTHERS_KNOWN = 0.25
"""Seconds for which it is believed who else is at work."""
_MOST_OTHERS = 100
GAUGES_KEPT = 600.0
"""Seconds for which gauges are kept."""


class SqlStore:
    """A `Store` over a database that exists and is up to date: see open.py."""

    def __init__(
        self,
        path: Path,
        *,
        owner: Owner,
        busy_timeout: float = BUSY_TIMEOUT,
        failpoints: Failpoints | None = None,
        folder: TemporaryDirectory[str] | None = None,
    ) -> None:
        """`folder`, the temporary one that the database is in, is removed as the store is closed."""
        self.path = path
        self._home = path.absolute()
        """A step may change the working directory."""
        self._owner = owner
        self._writer = Writer(path, busy_timeout=busy_timeout, failpoints=failpoints)
        self._reader = Reader(path, busy_timeout=busy_timeout, lost=self._writer.loss)
        self._locks = Locks(self._home)
        self._busy_timeout = busy_timeout
        self._folder = folder
        self._slots = item_matching.Slots()
        self._others_now: list[RunId] = []
        self._others_until = 0.0

    # runs

    async def create_run(self, run: RunRecord) -> RunRecord:
        """See `Store`. Raises UsageError if there is a run of that id."""
        unit = actions.create_run(run, run_row(run))
        if run.owner is not None:
            await self._locks.acquire(run.run_id, run.owner)
        return replace(run, seq=await self._own(run.run_id, unit))

    async def claim_run(self, run_id: RunId, owner: Owner) -> RunRecord:
        """See `Store`."""
        if (await self._reader.run(run_id)).run_id != run_id:
            raise run_not_found(run_id)
        await self._locks.acquire(run_id, owner)
        claimed: RunRecord = await self._own(run_id, actions.claim_run(run_id, owner))
        return claimed

    async def finish_run(
        self,
        fence: RunLease,
        *,
        status: RunStatus,
        finished_at: float,
        outputs: Mapping[str, Json] | None = None,
        error: Mapping[str, Json] | None = None,
        stats: Mapping[str, Json] | None = None,
    ) -> None:
        """See `Store`. When storing fails the lock stays, so that it can be tried again."""
        unit = actions.finish_run(
            fence, status=status, finished_at=finished_at, outputs=outputs, error=error, stats=stats
        )
        try:
            await self._writer.write(unit)
        except OwnershipLost:
            self._locks.forget_lost(fence.run_id)
            raise
        self._locks.release(fence.run_id)
        self._slots.forget(fence)

    async def run(self, run_id: RunId) -> RunRecord:
        """See `Store`."""
        return self._as_it_stands(await self._reader.run(run_id))

    async def runs(
        self,
        *,
        limit: int = 50,
        workflow: str | None = None,
        unfinished: bool = False,
        ended_before: float | None = None,
    ) -> list[RunRecord]:
        """See `Store`."""
        found = await self._reader.runs(
            limit=limit, workflow=workflow, unfinished=unfinished, ended_before=ended_before
        )
        return [self._as_it_stands(run) for run in found]

    async def update_run(
        self,
        fence: RunLease,
        *,
        snapshot: Mapping[str, str],
        path: str,
        options: Mapping[str, Json],
        inputs: Mapping[str, Json],
    ) -> None:
        """See `Store`."""
        await self._writer.write(
            actions.update_run(fence, snapshot=snapshot, path=path, options=options, inputs=inputs)
        )

    async def delete_runs(self, run_ids: Sequence[RunId]) -> int:
        """See `Store`. Raises RunOwned, and removes nothing, if a process has one of them."""
        locked: set[RunId] = set()
        try:
            for run_id in await self._reader.running(run_ids):
                await self._locks.acquire(run_id, self._owner)
                locked.add(run_id)
            unit = actions.delete_runs(list(dict.fromkeys(run_ids)), locked=locked)
            count: int = await self._writer.write(unit)
        finally:
            for run_id in locked:
                self._locks.release(run_id)
        return count

    # nodes and attempts

    async def nodes(self, run_id: RunId, parent: str = "") -> list[NodeRecord]:
        """See `Store`."""
        return await self._reader.nodes(run_id, parent)

    async def node(self, run_id: RunId, node_id: NodeId) -> NodeRecord | None:
        """See `Store`."""
        return await self._reader.node(run_id, node_id)

    async def nodes_within(self, run_id: RunId, parents: Sequence[NodeId]) -> Mapping[NodeId, Sequence[NodeRecord]]:
        """See `Store`."""
        return await self._reader.nodes_within(run_id, parents)

    async def items(
        self, run_id: RunId, parent: NodeId, *, after: int = -1, limit: int = 500, status: NodeStatus | None = None
    ) -> list[NodeRecord]:
        """See `Store`."""
        return await self._reader.items(run_id, parent, after=after, limit=limit, status=status)

    async def count_items(self, run_id: RunId, parent: NodeId) -> Mapping[NodeStatus, int]:
        """See `Store`."""
        return await self._reader.count_items(run_id, parent)

    async def count_steps(self, run_id: RunId) -> Mapping[NodeStatus, int]:
        """See `Store`."""
        return await self._reader.count_steps(run_id)

    async def failed_items(
        self, run_id: RunId, *, after: tuple[str, int] = ("", -1), limit: int = 500
    ) -> list[NodeRecord]:
        """See `Store`."""
        return await self._reader.failed_items(run_id, after=after, limit=limit)

    async def adopt(self, fence: RunLease, parent: NodeId, items: Sequence[ItemKey]) -> list[MatchedItem]:
        """See `Store`."""
        found: list[item_matching.Found] = await self._writer.write(
            item_matching.adopt(fence, parent, items, self._slots)
        )
        return [MatchedItem(slot=slot, node=None if row is None else node_of(row)) for slot, row in found]

    def outputs(self, run_id: RunId, parent: NodeId, *, slots: Sequence[int] | None = None) -> Sequence[Json]:
        """See `Store`."""
        how = {"busy_timeout": self._busy_timeout, "lost": self._writer.loss}
        if slots is None:
            return StoredOutputs(self._home, run_id, parent, **how)
        return ChosenOutputs(self._home, run_id, parent, slots, **how)

    async def last_node(self, workflow: str, node_id: NodeId, *, before_seq: int | None) -> NodeRecord | None:
        """See `Store`."""
        return await self._reader.last_node(workflow, node_id, before_seq=before_seq)

    async def attempts(self, run_id: RunId, node_id: NodeId | None = None) -> list[AttemptRecord]:
        """See `Store`."""
        return await self._reader.attempts(run_id, node_id)

    async def sent_elsewhere(self, key: str, *, since: float) -> bool:
        """See `Store`."""
        others = await self._others()
        return bool(others) and await self._reader.sent(key, others, since=since)

    async def _others(self) -> Sequence[RunId]:
        """The runs that other processes carry out now, looked up once in a while."""
        now = time.monotonic()
        if now >= self._others_until:
            self._others_until = now + _OTHERS_KNOWN
            found = await self._reader.runs(limit=_MOST_OTHERS, running=True)
            mine = (self._owner.pid, self._owner.host)
            self._others_now = [
                run.run_id
                for run in found
                if run.owner is not None and (run.owner.pid, run.owner.host) != mine and self._locks.held(run.run_id)
            ]
        return self._others_now

    async def spend(self, run_id: RunId, within: NodeId | None = None) -> Spend:
        """See `Store`."""
        return await self._reader.spend(run_id, within)

    async def mark_output(self, fence: RunLease, offset: int) -> None:
        """See `Store`."""
        await self._writer.write(actions.mark_output(fence, offset))

    async def begin_attempt(self, fence: RunLease, attempt: AttemptRecord) -> None:
        """See `Store`."""
        row = (statements.BEGIN_ATTEMPT, attempt_row(attempt))
        await self._writer.write(Unit(fences=fences_of(attempt, fence, ()), rows=(row,), opens=attempt.attempt_id))

    async def settle(
        self,
        *,
        attempt: AttemptRecord | None = None,
        attempt_fence: RunLease | None = None,
        memo: MemoRecord | None = None,
        nodes: Sequence[NodeWrite] = (),
    ) -> None:
        """See `Store`."""
        rows: list[tuple[str, tuple[Any, ...]]] = []
        fences = fences_of(attempt, attempt_fence, nodes)
        if attempt is not None:
            rows.append((statements.END_ATTEMPT, attempt_row(attempt)))
        if memo is not None:
            rows.append((statements.WRITE_MEMO, memo_row(memo)))
        rows += [(statements.WRITE_NODE, node_row(write.node)) for write in nodes]
        if rows:
            closes = "" if attempt is None else attempt.attempt_id
            await self._writer.write(Unit(fences=fences, rows=tuple(rows), closes=closes))

    def note_running(self, fence: RunLease, node: NodeRecord) -> None:
        """See `Store`."""
        row = (statements.NOTE_RUNNING, running_row(node))
        self._writer.ride(Unit(fences=(fence,), rows=(row,), rides=True))

    async def changes(self, run_id: RunId, *, since: int = 0, limit: int = 500) -> list[NodeRecord]:
        """See `Store`."""
        return await self._reader.changes(run_id, since=since, limit=limit)

    # waiting for the world

    async def suspend(self, fence: RunLease, node: NodeRecord, wait: WaitRecord) -> None:
        """See `Store`."""
        if (node.run_id, node.node_id, node.status) != (wait.run_id, wait.node_id, NodeStatus.WAITING):
            raise ValueError("A wait is that of its node, in status waiting.")
        rows = ((statements.WRITE_NODE, node_row(node)), (statements.WRITE_WAIT, wait_row(wait)))
        await self._writer.write(Unit(fences=fences_of(None, None, [NodeWrite(fence=fence, node=node)]), rows=rows))

    async def wake(self, token: str, value: Json) -> WaitRecord | None:
        """See `Store`."""
        woken: WaitRecord | None = await self._writer.write(actions.wake(token, value))
        return woken

    async def waits(
        self,
        *,
        run_id: RunId | None = None,
        due_before: float | None = None,
        ready_at: float | None = None,
        limit: int = 500,
    ) -> list[WaitRecord]:
        """See `Store`."""
        return await self._reader.waits(run_id=run_id, due_before=due_before, ready_at=ready_at, limit=limit)

    # the limiter's gauges

    def note_gauges(self, gauges: Sequence[Gauge]) -> None:
        """See `Store`."""
        if gauges:
            rows = [(statements.WRITE_GAUGE, gauge_row(gauge)) for gauge in gauges]
            forget = (statements.FORGET_GAUGES, (gauges[-1].at - GAUGES_KEPT,))
            self._writer.ride(Unit(rows=(*rows, forget), rides=True))

    async def gauges(self, *, since: float) -> list[Gauge]:
        """See `Store`."""
        return await self._reader.gauges(since=since)

    # memo

    async def memo(self, key: str) -> MemoRecord | None:
        """See `Store`."""
        row = await self._reader.memo(key)
        if row is None:
            return None
        record = memo_of(row)
        if record is None:
            try:
                await self._writer.write(actions.drop_memo(key, row.content_hash))
            except StoreError:  # it will be found again; not to give it is what counts
                return None
        return record

    async def memo_stats(self) -> MemoStats:
        """See `Store`."""
        return await self._reader.memo_stats()

    async def prune_memo(self, *, older_than: float) -> int:
        """See `Store`."""
        count: int = await self._writer.write(actions.prune_memo(older_than))
        return count

    async def clear_memo(self) -> int:
        """See `Store`."""
        count: int = await self._writer.write(actions.clear_memo())
        return count

    async def compact(self) -> int | None:
        """See `Store`. A process that runs something must not have to wait for the file to be written anew."""
        going = await self._reader.runs(limit=GOING, running=True)
        if any(self._locks.held(run.run_id) for run in going):
            return None
        return await asyncio.to_thread(compact, self._home)

    # rates

    async def rates(self, *, since: float) -> Mapping[str, float]:
        """See `Store`."""
        return await self._reader.rates(since=since)

    async def learn_rate(self, account: str, rate: float, *, at: float) -> None:
        """See `Store`."""
        row = (statements.WRITE_RATE, rate_row(account, rate, at))
        await self._writer.write(Unit(rows=(row,)))

    async def close(self) -> None:
        """See `Store`. Runs that are still owned show as interrupted from then on."""
        try:
            await self._writer.close()
        finally:
            await self._reader.close()
            self._locks.release_all()
            if self._folder is not None:
                self._folder.cleanup()

    async def _own(self, run_id: RunId, unit: Unit) -> Any:
        """Write what makes this process the owner; if that fails the lock is given back."""
        try:
            return await self._writer.write(unit)
        except BaseException:
            self._locks.release(run_id)
            raise

    def _as_it_stands(self, run: RunRecord) -> RunRecord:
        if run.status is RunStatus.RUNNING and not self._locks.held(run.run_id):
            return replace(run, status=RunStatus.INTERRUPTED)
        return run


def fences_of(
    attempt: AttemptRecord | None, attempt_fence: RunLease | None, nodes: Sequence[NodeWrite]
) -> tuple[RunLease, ...]:
    """The fences of a settlement. Raises ValueError if a row has none, or that of another run."""
    found: list[RunLease] = []
    if attempt is not None:
        if attempt_fence is None:
            raise ValueError("An attempt cannot be settled without its fence.")
        _guards(attempt_fence, attempt.run_id)
        found.append(attempt_fence)
    for write in nodes:
        _guards(write.fence, write.node.run_id)
        if not found or write.fence is not found[-1]:  # they nearly always are one
            found.append(write.fence)
    return tuple(found) if len(found) == 1 else tuple(dict.fromkeys(found))


def _guards(fence: RunLease, run_id: RunId) -> None:
    if fence.run_id != run_id:
        raise ValueError("A fence of one run cannot guard a row of another.")
