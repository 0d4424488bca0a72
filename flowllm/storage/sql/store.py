"""The store in an SQL database: one writer, many readers."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import Any

from flowllm.core.errors import OwnershipLost, StorageFailed, StoreError
from flowllm.core.portions import Portion, PortionGrant
from flowllm.core.shares import Decide, Grant
from flowllm.core.types import Budget, Json, NodeId, NodeStatus, RunId, RunStatus
from flowllm.storage.base import (
    AttemptRecord,
    Elsewhere,
    ItemKey,
    MatchedItem,
    MemoRecord,
    NodeRecord,
    NodeWrite,
    Owner,
    RunLease,
    RunRecord,
)
from flowllm.storage.liveness import SECOND_LOOK
from flowllm.storage.monitoring import Gauge, Learned, SuspensionRecord
from flowllm.storage.sql import actions, item_matching, portions, shares, statements
from flowllm.storage.sql.browsing import BrowsingReader
from flowllm.storage.sql.engine import Engine
from flowllm.storage.sql.faults import ownership_lost, run_not_found
from flowllm.storage.sql.flights import sent_by_others
from flowllm.storage.sql.following import FollowingReader
from flowllm.storage.sql.outputs import ChosenOutputs, StoredOutputs, StoredResults
from flowllm.storage.sql.pairs import ComparingReader
from flowllm.storage.sql.past import PastReader
from flowllm.storage.sql.patience import BRIEFLY, LONGEST
from flowllm.storage.sql.presence import Presence
from flowllm.storage.sql.ranges import RangeStore
from flowllm.storage.sql.records import memo_of, node_of
from flowllm.storage.sql.rows import (
    attempt_row,
    gauge_row,
    learned_row,
    memo_row,
    node_row,
    run_row,
    running_row,
    to_text,
    wait_row,
    waits_text,
)
from flowllm.storage.sql.statements import Unit
from flowllm.storage.sql.timeline import TimelineReader
from flowllm.storage.sql.writer import Failpoints, Writer

GOING = 1_000_000
"""A limit that no number of runs that stand as running reaches."""


OTHERS_KNOWN = 0.25
"""Seconds for which it is believed who else is at work."""
GAUGES_WHOLE = 600.0
"""Seconds for which all gauges are kept,"""
GAUGES_KEPT = 7 * 86_400.0
"""and for which one in half a minute is."""


class SqlStore(BrowsingReader, ComparingReader, FollowingReader, PastReader, RangeStore, TimelineReader):
    """A `Store` over a database that exists and is up to date: see open.py."""

    def __init__(
        self,
        engine: Engine,
        *,
        owner: Owner,
        failpoints: Failpoints | None = None,
        folder: TemporaryDirectory[str] | None = None,
    ) -> None:
        """`folder`, the temporary one that the database is in, is removed as the store is closed."""
        self._owner = owner
        self._writer = Writer(engine, failpoints=failpoints)
        super().__init__(engine, patience=self._writer.patience, lost=self._writer.loss)
        self.path = engine.home
        self._folder = folder
        self._listeners: dict[Callable[[str], object], None] = {}
        self._numbers = item_matching.Numbers()
        self._thinned = 0.0
        """Up to when gauges were thinned out, wall clock seconds."""

    # a database that is away

    def hurry(self) -> None:
        self._patience.hurry()

    def listen(self, told: Callable[[str], object]) -> Callable[[], None]:
        loop, listeners = asyncio.get_running_loop(), self._listeners

        def tell(text: str) -> None:
            for one in list(listeners):
                one(text)

        def telling(text: str) -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody hears it any more
                loop.call_soon_threadsafe(tell, text)

        listeners[told] = None
        self._patience.told = telling
        return lambda: listeners.pop(told, None)

    def _longest(self) -> float:
        return LONGEST if self.presence.number is not None else BRIEFLY

    # runs

    async def create_run(self, run: RunRecord) -> RunRecord:
        """Raises UsageError if there is a run of that id."""
        unit = actions.create_run(run, run_row(run), self.presence)
        return replace(run, seq=await self._own(run.run_id, unit))

    async def claim_run(self, run_id: RunId, owner: Owner) -> RunRecord:
        if (await self.find_run(run_id)).run_id != run_id:
            raise run_not_found(run_id)
        claimed: RunRecord | float = await self._claimed(run_id, owner, None)
        while not isinstance(claimed, RunRecord):
            await asyncio.sleep(SECOND_LOOK)  # for a sign of life of another process, so no clock of ours can pass it
            claimed = await self._claimed(run_id, owner, claimed)
        return claimed

    async def _claimed(self, run_id: RunId, owner: Owner, silent_since: float | None) -> RunRecord | float:
        found: RunRecord | float = await self._own(
            run_id, actions.claim_run(run_id, owner, self.presence, silent_since)
        )
        return found

    async def join_run(self, run_id: RunId) -> RunLease:
        epoch: int | None = await self._own(run_id, actions.join_run(run_id, self.presence))
        if epoch is None:
            raise run_not_found(run_id)
        return RunLease(run_id=run_id, epoch=epoch)

    async def confirm(self, lease: RunLease) -> None:
        await self._writer.write(Unit(leases=(lease,)))

    def lost(self, lease: RunLease) -> OwnershipLost | None:
        holder = self.presence.holder(lease.run_id)
        return None if holder in {None, self.presence.number} else ownership_lost(lease, -lease.epoch)

    def leave_run(self, run_id: RunId) -> None:
        self.presence.drop(run_id)

    async def finish_run(
        self,
        lease: RunLease,
        *,
        status: RunStatus,
        finished_at: float,
        outputs: Mapping[str, Json] | None = None,
        error: Mapping[str, Json] | None = None,
        stats: Mapping[str, Json] | None = None,
    ) -> None:
        """When storing fails the run stays this process's, so that it can be tried again."""
        unit = actions.finish_run(
            lease, status=status, finished_at=finished_at, outputs=outputs, error=error, stats=stats
        )
        try:
            await self._writer.write(unit)
        except OwnershipLost:
            self.presence.drop(lease.run_id)
            raise
        self.presence.drop(lease.run_id)
        self._numbers.forget(lease)

    async def run(self, run_id: RunId) -> RunRecord:
        return await self.find_run(run_id)

    async def runs(self, *, limit: int = 50, status: RunStatus | None = None, **wanted: Any) -> list[RunRecord]:
        """Whether a run is going on the database alone does not say: it is looked for page by page."""
        found: list[RunRecord] = []
        while len(found) < limit:
            page = await self.find_runs(limit=limit, status=status, **wanted)
            found += [run for run in page if status in {None, run.status}]
            if len(page) < limit:
                break
            wanted |= {"before_seq": page[-1].seq, "skip": 0}
        return found[:limit]

    async def update_run(
        self,
        lease: RunLease,
        *,
        snapshot: Mapping[str, str],
        path: str,
        options: Mapping[str, Json],
        inputs: Mapping[str, Json],
    ) -> None:
        await self._writer.write(
            actions.update_run(lease, snapshot=snapshot, path=path, options=options, inputs=inputs)
        )

    async def delete_runs(self, run_ids: Sequence[RunId]) -> int:
        """Raises RunOwned, and removes nothing, if a process has one of them."""
        these, machine = list(dict.fromkeys(run_ids)), self.presence.machine
        found: int | Mapping[RunId, float] = await self._writer.write(actions.delete_runs(these, machine, {}))
        while not isinstance(found, int):
            await asyncio.sleep(SECOND_LOOK)  # as for a claim
            found = await self._writer.write(actions.delete_runs(these, machine, found))
        return found

    # nodes and attempts

    async def adopt(self, lease: RunLease, parent: NodeId, items: Sequence[ItemKey]) -> list[MatchedItem]:
        found: list[item_matching.Found] = await self._writer.write(
            item_matching.adopt(lease, parent, items, self._numbers)
        )
        return [MatchedItem(number=number, node=None if row is None else node_of(row)) for number, row in found]

    def outputs(self, run_id: RunId, parent: NodeId, *, numbers: Sequence[int] | None = None) -> Sequence[Json]:
        if numbers is None:
            return StoredOutputs(self._engine, run_id, parent, lost=self._writer.loss)
        return ChosenOutputs(self._engine, run_id, parent, numbers, lost=self._writer.loss)

    def results(self, run_id: RunId) -> StoredResults:
        return StoredResults(self._engine, run_id, lost=self._writer.loss)

    def others_wrote(self, within: float) -> bool:
        return self._writer.others_wrote(within)

    async def sent_elsewhere(self, keys: Sequence[str]) -> Mapping[str, str]:
        names = {to_text(key): key for key in keys}
        sent = await self._in_thread(lambda: sent_by_others(list(names), self.presence, self._fetch))
        return {names[name]: attempt for name, attempt in sent.items()}

    async def mark_output(self, lease: RunLease, offset: int) -> None:
        await self._writer.write(actions.mark_output(lease, offset))

    async def begin_attempt(
        self, lease: RunLease, attempt: AttemptRecord, *, joins: bool = False, looked: float = -math.inf
    ) -> Elsewhere | None:
        record = attempt_row(attempt, self.presence.holder(lease.run_id))
        unit = Unit(
            leases=leases_of(attempt, lease, ()),
            rows=((statements.BEGIN_ATTEMPT, record),),
            opens=attempt.attempt_id,
            equal=record.key if joins else "",
            looked=time.monotonic() - looked,
        )
        found: Elsewhere | None = await self._writer.write(unit)
        return found

    async def commit(
        self,
        *,
        attempt: AttemptRecord | None = None,
        attempt_lease: RunLease | None = None,
        memo: MemoRecord | None = None,
        nodes: Sequence[NodeWrite] = (),
    ) -> None:
        rows: list[tuple[str, tuple[Any, ...]]] = []
        leases = leases_of(attempt, attempt_lease, nodes)
        if attempt is not None:
            rows.append((statements.END_ATTEMPT, attempt_row(attempt, self.presence.holder(attempt.run_id))))
        if memo is not None:
            rows.append((statements.WRITE_MEMO, memo_row(memo)))
        rows += [(statements.WRITE_NODE, node_row(write.node)) for write in nodes]
        if rows:
            closes = "" if attempt is None else attempt.attempt_id
            await self._writer.write(Unit(leases=leases, rows=tuple(rows), closes=closes))

    def note_running(self, lease: RunLease, node: NodeRecord) -> None:
        row = (statements.NOTE_RUNNING, running_row(node))
        self._writer.ride(Unit(leases=(lease,), rows=(row,), rides=True))

    def note_waits(self, lease: RunLease, waits: Mapping[NodeId, Mapping[str, float]]) -> None:
        if waits:
            run, note = to_text(lease.run_id), statements.NOTE_WAITS
            rows = ((note, (waits_text(of), run, to_text(node), lease.epoch)) for node, of in waits.items())
            self._writer.ride(Unit(leases=(lease,), rows=(*rows,), rides=True), hurries=True)

    # waiting for the world

    async def suspend(self, lease: RunLease, node: NodeRecord, wait: SuspensionRecord) -> None:
        if (node.run_id, node.node_id, node.status) != (wait.run_id, wait.node_id, NodeStatus.WAITING):
            raise ValueError("A wait is that of its node, in status waiting.")
        rows = ((statements.WRITE_NODE, node_row(node)), (statements.WRITE_WAIT, wait_row(wait)))
        await self._writer.write(Unit(leases=leases_of(None, None, [NodeWrite(lease=lease, node=node)]), rows=rows))

    async def wake(self, token: str, value: Json) -> SuspensionRecord | None:
        woken: SuspensionRecord | None = await self._writer.write(actions.wake(token, value))
        return woken

    # the limiter's gauges

    def note_gauges(self, gauges: Sequence[Gauge]) -> None:
        if gauges:
            rows = [(statements.WRITE_GAUGE, gauge_row(gauge)) for gauge in gauges]
            now, since = gauges[-1].at, self._thinned
            self._thinned = now - GAUGES_WHOLE
            forget = (statements.FORGET_GAUGES, (now - GAUGES_KEPT,))
            thin = (statements.THIN_GAUGES, (since, self._thinned))
            self._writer.ride(Unit(rows=(*rows, forget, thin), rides=True), hurries=True)

    # budgets

    async def take_portion(self, run_id: RunId, budget: Budget, held: Portion, want: Portion | None) -> PortionGrant:
        unit = portions.take_portion(run_id, budget, held, want, self.presence)
        found: PortionGrant = await self._writer.write(unit)
        return found

    # shares of limits

    async def balance(self, decisions: Mapping[str, Decide]) -> Mapping[str, Grant]:
        found: Mapping[str, Grant] = await self._writer.write(shares.balance(decisions, self.presence))
        return found

    # memo

    async def memo(self, key: str) -> MemoRecord | None:
        row = await self.memo_row(key)
        if row is None:
            return None
        record = memo_of(row)
        if record is None:
            try:
                await self._writer.write(actions.drop_memo(key, row.content_hash))
            except StoreError:  # it will be found again; not to give it is what counts
                return None
        return record

    async def memos(self, keys: Sequence[str]) -> Mapping[str, MemoRecord]:
        found = [memo_of(row) for row in await self.memo_rows(keys)]
        return {record.key: record for record in found if record is not None}

    async def prune_memo(self, *, older_than: float) -> int:
        count: int = await self._writer.write(actions.prune_memo(older_than))
        return count

    async def clear_memo(self) -> int:
        count: int = await self._writer.write(actions.clear_memo())
        return count

    async def compact(self) -> int | None:
        """A process that runs something must not have to wait for the file to be written anew."""
        going = await self.find_runs(limit=GOING, running=True)
        if any(run.going for run in going):
            return None
        return await asyncio.to_thread(self._engine.compact)

    # what was learned

    async def learn(self, found: Sequence[Learned]) -> None:
        if rows := tuple((statements.WRITE_LEARNED, learned_row(one)) for one in found):
            await self._writer.write(Unit(rows=rows))

    async def close(self) -> None:
        """Runs that are still owned show as interrupted from then on."""
        try:
            await self._writer.close()
        finally:
            await self.close_reader()
            if self._folder is not None:
                self._folder.cleanup()

    async def _own(self, run_id: RunId, unit: Unit) -> Any:
        """Write what makes this process the owner. Who is cancelled meanwhile gives the run back."""
        self.presence.serve()
        try:
            return await self._writer.write(unit)
        except asyncio.CancelledError:
            if (number := self.presence.holder(run_id)) is not None:
                self.presence.drop(run_id)
                with contextlib.suppress(StoreError):  # it is free once nothing was heard of this process for a while
                    await self._writer.write(actions.give_back(run_id, number))
            raise
        except StorageFailed:
            self.presence.drop(run_id)
            raise

    @property
    def presence(self) -> Presence:
        """How this store is known to other processes at the database."""
        return self._writer.presence


def leases_of(
    attempt: AttemptRecord | None, attempt_lease: RunLease | None, nodes: Sequence[NodeWrite]
) -> tuple[RunLease, ...]:
    """The leases of a settlement. Raises ValueError if a row has none, or that of another run."""
    found: list[RunLease] = []
    if attempt is not None:
        if attempt_lease is None:
            raise ValueError("An attempt cannot be settled without its lease.")
        _guards(attempt_lease, attempt.run_id)
        found.append(attempt_lease)
    for write in nodes:
        _guards(write.lease, write.node.run_id)
        if not found or write.lease is not found[-1]:  # they nearly always are one
            found.append(write.lease)
    return tuple(found) if len(found) == 1 else tuple(dict.fromkeys(found))


def _guards(lease: RunLease, run_id: RunId) -> None:
    if lease.run_id != run_id:
        raise ValueError("A lease of one run cannot guard a row of another.")
