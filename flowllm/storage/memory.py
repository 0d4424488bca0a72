"""The store in memory: for tests and for runs that shall leave nothing behind.

Records pass through the same rows as on disk, so that what cannot be stored there cannot be stored here.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from flowllm.core.errors import DatabaseCorrupt
from flowllm.core.money import Spend
from flowllm.core.types import AttemptStatus, Json, NodeId, NodeStatus, RunId, RunStatus, Usage, item_id
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
from flowllm.storage.memory_items import NodeTable
from flowllm.storage.refusals import ambiguous, fences_of, ownership_lost, run_exists, run_not_found, run_owned
from flowllm.storage.slots import Slots
from flowllm.storage.sqlite.records import attempt_of, memo_of, node_of, run_of
from flowllm.storage.sqlite.rows import MemoRow, RateRow, attempt_row, memo_row, node_row, rate_row, run_row


class MemoryStore:
    """A `Store` without a file. Its runs end with the process, so its locks are a set of names."""

    def __init__(self) -> None:
        self._runs: dict[RunId, RunRecord] = {}
        self._held: set[RunId] = set()
        self._nodes: defaultdict[RunId, NodeTable] = defaultdict(NodeTable)
        self._slots = Slots()
        self._attempts: dict[str, AttemptRecord] = {}
        self._memo: dict[str, MemoRow] = {}
        self._rates: dict[str, RateRow] = {}
        self._seq = 0

    # runs

    async def create_run(self, run: RunRecord) -> RunRecord:
        """See `Store`. Raises UsageError if there is a run of that id."""
        row = run_row(run)
        if run.run_id in self._held:
            raise run_owned(run.run_id, self._runs[run.run_id].owner)
        if run.run_id in self._runs:
            raise run_exists(run.run_id)
        self._seq += 1
        self._runs[run.run_id] = run_of(row, seq=self._seq, snapshot=row.snapshot)
        if run.owner is not None:
            self._held.add(run.run_id)
        return replace(run, seq=self._seq)

    async def claim_run(self, run_id: RunId, owner: Owner) -> RunRecord:
        """See `Store`."""
        if run_id not in self._runs:
            raise run_not_found(run_id)
        run = self._runs[run_id]
        if run_id in self._held:
            raise run_owned(run_id, run.owner)
        self._held.add(run_id)
        for attempt in self._attempts.values():
            if attempt.run_id == run_id and attempt.status is AttemptStatus.SENT:
                self._attempts[attempt.attempt_id] = replace(attempt, status=AttemptStatus.UNKNOWN)
        claimed = replace(run, status=RunStatus.RUNNING, epoch=run.epoch + 1, owner=owner, finished_at=None)
        self._runs[run_id] = claimed
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
        """See `Store`."""
        self._check([fence])
        ended = replace(
            self._runs[fence.run_id],
            status=status,
            finished_at=finished_at,
            outputs=outputs,
            error=error,
            stats=stats or {},
            owner=None,
        )
        row = run_row(ended)
        self._runs[fence.run_id] = run_of(row, seq=ended.seq, snapshot=row.snapshot)
        self._held.discard(fence.run_id)
        self._slots.forget(fence)

    async def run(self, run_id: RunId) -> RunRecord:
        """See `Store`."""
        found = [name for name in sorted(self._runs) if run_id and name.startswith(run_id)]
        if not found:
            raise run_not_found(run_id)
        if len(found) > 1 and found[0] != run_id:
            raise ambiguous(run_id, found[:3])
        return self._as_it_stands(self._runs[found[0]])

    async def runs(
        self,
        *,
        limit: int = 50,
        workflow: str | None = None,
        unfinished: bool = False,
        ended_before: float | None = None,
    ) -> list[RunRecord]:
        """See `Store`."""
        found = [run for run in reversed(self._runs.values()) if workflow in {None, run.workflow}]
        if unfinished:
            found = [run for run in found if run.status is not RunStatus.SUCCEEDED]
        if ended_before is not None:
            ended = [run for run in found if run.status is not RunStatus.RUNNING]
            found = [run for run in ended if (run.finished_at or run.started_at) < ended_before]
        return [replace(self._as_it_stands(run), snapshot={}) for run in found[:limit]]

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
        self._check([fence])
        changed = replace(self._runs[fence.run_id], snapshot=snapshot, path=path, options=options, inputs=inputs)
        row = run_row(changed)
        self._runs[fence.run_id] = run_of(row, seq=changed.seq, snapshot=row.snapshot)

    async def delete_runs(self, run_ids: Sequence[RunId]) -> int:
        """See `Store`. Raises RunOwned, and removes nothing, if one of them is running."""
        going = {run_id for run_id in run_ids if run_id in self._runs}
        for run_id in going:
            if run_id in self._held:
                raise run_owned(run_id, self._runs[run_id].owner)
        for run_id in going:
            del self._runs[run_id]
            self._nodes.pop(run_id, None)
        self._attempts = {key: a for key, a in self._attempts.items() if a.run_id not in going}
        return len(going)

    # nodes and attempts

    async def nodes(self, run_id: RunId, parent: str = "") -> list[NodeRecord]:
        """See `Store`."""
        return self._nodes[run_id].within(parent)

    async def node(self, run_id: RunId, node_id: NodeId) -> NodeRecord | None:
        """See `Store`."""
        return self._nodes[run_id].get(node_id)

    async def nodes_within(self, run_id: RunId, parents: Sequence[NodeId]) -> Mapping[NodeId, Sequence[NodeRecord]]:
        """See `Store`."""
        table = self._nodes[run_id]
        return {parent: found for parent in parents if (found := table.within(parent))}

    async def items(
        self, run_id: RunId, parent: NodeId, *, after: int = -1, limit: int = 500, status: NodeStatus | None = None
    ) -> list[NodeRecord]:
        """See `Store`."""
        found = self._nodes[run_id].items(parent)
        start = bisect_right(found, after, key=lambda node: node.place or 0)
        return [node for node in found[start:] if status in {None, node.status}][:limit]

    async def count_items(self, run_id: RunId, parent: NodeId) -> Mapping[NodeStatus, int]:
        """See `Store`."""
        return self._nodes[run_id].counts(parent)

    async def count_steps(self, run_id: RunId) -> Mapping[NodeStatus, int]:
        """See `Store`."""
        return dict(Counter(node.status for node in self._nodes[run_id].within("")))

    async def failed_items(
        self, run_id: RunId, *, after: tuple[str, int] = ("", -1), limit: int = 500
    ) -> list[NodeRecord]:
        """See `Store`."""
        found = self._nodes[run_id].failed()
        return [node for node in found if (node.parent, node.place or 0) > after][:limit]

    async def adopt(self, fence: RunLease, parent: NodeId, items: Sequence[ItemKey]) -> list[MatchedItem]:
        """See `Store`."""
        self._check([fence])
        return self._nodes[fence.run_id].adopt(fence, parent, items, self._slots)

    def outputs(self, run_id: RunId, parent: NodeId, *, slots: Sequence[int] | None = None) -> Sequence[Json]:
        """See `Store`. As of now."""
        table = self._nodes[run_id]
        if slots is None:
            return [_output(node) for node in table.items(parent)]
        return [_chosen(table, item_id(parent, slot)) for slot in slots]

    async def last_node(self, workflow: str, node_id: NodeId, *, before_seq: int | None) -> NodeRecord | None:
        """See `Store`."""
        for run in reversed(self._runs.values()):
            if run.workflow == workflow and (before_seq is None or run.seq < before_seq):
                node = self._nodes[run.run_id].get(node_id)
                if node is not None and node.status is NodeStatus.SUCCEEDED:
                    return node
        return None

    async def attempts(self, run_id: RunId, node_id: NodeId | None = None) -> list[AttemptRecord]:
        """See `Store`."""
        return [a for a in self._attempts.values() if a.run_id == run_id and node_id in {None, a.node_id}]

    async def sent_elsewhere(self, key: str, *, since: float) -> bool:  # noqa: ARG002 - the protocol's shape
        """See `Store`: no other process has this one."""
        return False

    async def spend(self, run_id: RunId, within: NodeId | None = None) -> Spend:
        """See `Store`."""
        found = await self.attempts(run_id)
        if within is not None:
            inner = (f"{within}.", f"{within}[")
            found = [a for a in found if a.node_id == within or a.node_id.startswith(inner)]
        return sum(map(_taken, found), Spend())

    async def mark_output(self, fence: RunLease, offset: int) -> None:
        """See `Store`."""
        self._check([fence])
        self._runs[fence.run_id] = replace(self._runs[fence.run_id], output_offset=offset)

    async def begin_attempt(self, fence: RunLease, attempt: AttemptRecord) -> None:
        """See `Store`."""
        record = attempt_of(attempt_row(attempt))
        fences_of(attempt, fence, ())
        self._check([fence])
        self._attempts.setdefault(record.attempt_id, record)

    async def settle(
        self,
        *,
        attempt: AttemptRecord | None = None,
        attempt_fence: RunLease | None = None,
        memo: MemoRecord | None = None,
        nodes: Sequence[NodeWrite] = (),
    ) -> None:
        """See `Store`."""
        fences = fences_of(attempt, attempt_fence, nodes)
        ended = None if attempt is None else attempt_of(attempt_row(attempt))
        answer = None if memo is None else memo_row(memo)
        records = [node_of(node_row(write.node)) for write in nodes]
        self._check(fences)
        if ended is not None:
            self._attempts[ended.attempt_id] = ended
        if memo is not None and answer is not None:
            self._memo[memo.key] = answer
        for record in records:
            self._nodes[record.run_id].put(record)

    # memo

    async def memo(self, key: str) -> MemoRecord | None:
        """See `Store`."""
        row = self._memo.get(key)
        if row is None:
            return None
        record = memo_of(row)
        if record is None:
            del self._memo[key]
        return record

    async def memo_stats(self) -> MemoStats:
        """See `Store`."""
        times = [row.created_at for row in self._memo.values()]
        return MemoStats(
            entries=len(self._memo),
            bytes=sum(row.size for row in self._memo.values()),
            oldest=min(times, default=None),
            newest=max(times, default=None),
            models=dict(Counter(record.model for row in self._memo.values() if (record := memo_of(row)))),
        )

    async def prune_memo(self, *, older_than: float) -> int:
        """See `Store`."""
        before = len(self._memo)
        self._memo = {key: row for key, row in self._memo.items() if row.created_at >= older_than}
        return before - len(self._memo)

    async def clear_memo(self) -> int:
        """See `Store`."""
        count = len(self._memo)
        self._memo.clear()
        return count

    async def compact(self) -> int | None:
        """See `Store`."""
        return 0

    # rates

    async def rates(self, *, since: float) -> Mapping[str, float]:
        """See `Store`."""
        rows = self._rates.items()
        return {name: row.requests_per_second for name, row in sorted(rows) if row.learned_at >= since}

    async def learn_rate(self, account: str, rate: float, *, at: float) -> None:
        """See `Store`."""
        self._rates[account] = rate_row(account, rate, at)

    async def close(self) -> None:
        """See `Store`. Runs that are still owned show as interrupted from then on."""
        self._held.clear()

    def _check(self, fences: Iterable[RunLease]) -> None:
        for fence in fences:
            run = self._runs.get(fence.run_id)
            if run is None or run.epoch != fence.epoch:
                raise ownership_lost(fence, run.epoch if run else None)

    def _as_it_stands(self, run: RunRecord) -> RunRecord:
        if run.status is RunStatus.RUNNING and run.run_id not in self._held:
            return replace(run, status=RunStatus.INTERRUPTED)
        return run


def _output(node: NodeRecord) -> Json:
    return node.output if node.status is NodeStatus.SUCCEEDED else None


def _chosen(table: NodeTable, node_id: NodeId) -> Json:
    node = table.get(node_id)
    if node is None:
        raise DatabaseCorrupt(f"{node_id} is missing.")
    return _output(node)


def _taken(attempt: AttemptRecord) -> Spend:
    """What one attempt counts with in `Store.spend`."""
    usage, cost = attempt.usage, attempt.cost_usd
    if usage.total == 0:  # as written before an answer is seen, and by earlier versions
        if attempt.status not in {AttemptStatus.SUCCEEDED, AttemptStatus.FAILED}:
            usage, cost = Usage.unknown(), None
        elif attempt.status is AttemptStatus.FAILED:
            cost = cost or 0.0
    return Spend.of(usage, cost, reserved_tokens=attempt.reserved_tokens, reserved_usd=attempt.reserved_usd)
