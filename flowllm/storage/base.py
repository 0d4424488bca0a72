"""The verbs in which the rest of flowllm speaks of what is kept. No SQL outside of storage/."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from flowllm.core.errors import OwnershipLost
from flowllm.core.portions import Portion, PortionGrant
from flowllm.core.shares import Decide, Grant
from flowllm.core.types import Budget, Json, NodeId, NodeStatus, RunId, RunStatus
from flowllm.storage.browsing import Browsing
from flowllm.storage.comparing import Comparing
from flowllm.storage.following import Following
from flowllm.storage.history import History
from flowllm.storage.monitoring import Gauge, Learned, MemoStats, SuspensionRecord
from flowllm.storage.past import PastReads
from flowllm.storage.ranges import Ranges
from flowllm.storage.records import (
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
from flowllm.storage.results import ResultReads
from flowllm.storage.timeline import TimelineReads

__all__ = (
    "AttemptRecord",
    "Elsewhere",
    "ItemKey",
    "MatchedItem",
    "MemoRecord",
    "NodeRecord",
    "NodeWrite",
    "Owner",
    "RunLease",
    "RunRecord",
    "Store",
)


class Store(History, Browsing, Comparing, Following, PastReads, Ranges, ResultReads, TimelineReads, Protocol):
    """Every verb returns when what it says is durable, or raises a StoreError; ValueError for a value that JSON or the
    database cannot hold. A verb's rows are written wholly or not at all, those of an earlier call first; twice changes nothing. Verbs
    that take a lease, and rows that carry one, raise OwnershipLost when the run has a newer epoch, and write nothing.
    """

    # a database that is away

    def listen(self, told: Callable[[str], object]) -> Callable[[], object]:
        """`told` hears, in the running loop, when a database is away and waited for, and when it is back; what this gives ends that."""
        ...

    def hurry(self) -> None:
        """The process is being stopped: do not wait long for a database that is away, keep results beside it."""
        ...

    # runs

    async def create_run(self, run: RunRecord) -> RunRecord:
        """Insert a run, owned by `run.owner` at `run.epoch`; gives it back with its `seq`. Raises UsageError if
        there is a run of that id.

        The owner has it until `finish_run`, or until the lease of its process is over: however that ends."""
        ...

    async def claim_run(self, run_id: RunId, owner: Owner) -> RunRecord:
        """Become the run's owner: raise its epoch by one, set its status running; its attempts that were still `sent` become
        `unknown`, and a process that had it and is dead can write nothing more. Raises RunNotFound, and RunOwned (naming process, host and since
        when) while the process is alive that has it. Takes some seconds where it gives no sign of life."""
        ...

    async def join_run(self, run_id: RunId) -> RunLease:
        """Register this process as one that works on a run that another has: its lease, which is void as soon as this process
        is held for dead or the run is claimed again. Raises RunNotFound."""
        ...

    async def confirm(self, lease: RunLease) -> None:
        """Raises OwnershipLost if the lease is void: for what is written elsewhere than in the database."""
        ...

    def lost(self, lease: RunLease) -> OwnershipLost | None:
        """The error if this process has found that others took it for dead, so that the lease is void: who waits for its share of
        a limit writes nothing, and would not hear of it."""
        ...

    def leave_run(self, run_id: RunId) -> None:
        """It works on the run no more."""
        ...

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
        """End this attempt at the run: it has no owner."""
        ...

    async def update_run(
        self,
        lease: RunLease,
        *,
        snapshot: Mapping[str, str],
        path: str,
        options: Mapping[str, Json],
        inputs: Mapping[str, Json],
    ) -> None:
        """A resume took another file, other options or other inputs."""
        ...

    async def delete_runs(self, run_ids: Sequence[RunId]) -> int:
        """Remove runs with their nodes and attempts, never memo entries; how many there were. Raises RunOwned, and
        removes nothing, if a process has one of them."""
        ...

    # nodes and attempts

    async def nodes(self, run_id: RunId, parent: str = "") -> list[NodeRecord]:
        """The nodes within a node, or at the top of a run, in order of completion; never items (see `items`).
        One whose output was damaged on disk is given as failed, without key and output."""
        ...

    async def node(self, run_id: RunId, node_id: NodeId) -> NodeRecord | None:
        """That node, wherever it stands."""
        ...

    async def nodes_within(self, run_id: RunId, parents: Sequence[NodeId]) -> Mapping[NodeId, Sequence[NodeRecord]]:
        """As `nodes` for many parents at once; a parent without nodes is left out."""
        ...

    async def items(
        self, run_id: RunId, parent: NodeId, *, after: int = -1, limit: int = 500, status: NodeStatus | None = None
    ) -> list[NodeRecord]:
        """Items of a foreach in the order of their places, from the first place behind `after`.

        Once the foreach has ended, these are the items that its last attempt at the run wrote or took over: rows that left
        the data are not given. Before, rows of all attempts are, but of two at one place only the newer one. A
        foreach that is reused as a whole must keep its `epoch`, or its items count as left behind."""
        ...

    async def count_items(self, run_id: RunId, parent: NodeId) -> Mapping[NodeStatus, int]:
        """How many of those items there are of each status that occurs."""
        ...

    async def count_steps(self, run_id: RunId) -> Mapping[NodeStatus, int]:
        """How many nodes at the top of the run there are of each status that occurs."""
        ...

    async def failed_items(
        self, run_id: RunId, *, after: tuple[str, int] = ("", -1), limit: int = 500
    ) -> list[NodeRecord]:
        """Failed items of every foreach of a run, by (parent, place), from the first behind `after`; those that
        `items` would give."""
        ...

    async def adopt(self, lease: RunLease, parent: NodeId, items: Sequence[ItemKey]) -> list[MatchedItem]:
        """Find a resumed foreach's items among those of earlier attempts at the run, by content and occurrence, and take them
        over: each row at most once an attempt, the one at the same place first, then the first of equal content.
        Calls come in the order of the data, each for items in the order of their places.

        A row that is taken over gets the lease's epoch and the new place, and is given so. An item that is not
        found gets a number that no row has and no other item was given: its place if that is free, else one
        above all others."""
        ...

    def outputs(self, run_id: RunId, parent: NodeId, *, numbers: Sequence[int] | None = None) -> Sequence[Json]:
        """The outputs of a foreach's items, in the order of `items`, as a lazy sequence, null for those that did
        not succeed; of the items with these `numbers` alone, in that order, if given. It reads pages when they are looked at, from any
        thread, and raises StoreError then; also for an output that was damaged on disk. It is for a foreach that
        has ended: what is written after the first look is not seen, or told as damage."""
        ...

    async def attempts(
        self, run_id: RunId, node_id: NodeId | None = None, *, key: str | None = None
    ) -> list[AttemptRecord]:
        """Attempts, of one node or under one key, in the order in which they were recorded."""
        ...

    def others_wrote(self, within: float) -> bool:
        """Whether another process may have written in so many last seconds; the last quarter of one may be missing."""
        ...

    async def sent_elsewhere(self, keys: Sequence[str]) -> Mapping[str, str]:
        """Of those keys the ones under which another process that is alive has a request on its way, each with the id of
        that attempt."""
        ...

    async def mark_output(self, lease: RunLease, offset: int) -> None:
        """The first `offset` bytes of the `--output` file are on disk."""
        ...

    async def begin_attempt(
        self, lease: RunLease, attempt: AttemptRecord, *, joins: bool = False, looked: float = -math.inf
    ) -> Elsewhere | None:
        """Record a request before it is sent. Where one `joins` others it is not recorded, and it is told, if another process that
        is alive has an equal one on its way, or may have stored the answer in the last `looked` seconds: for of several
        that begin at the same time one alone does."""
        ...

    async def commit(
        self,
        *,
        attempt: AttemptRecord | None = None,
        attempt_lease: RunLease | None = None,
        memo: MemoRecord | None = None,
        nodes: Sequence[NodeWrite] = (),
    ) -> None:
        """The end of a call in one unit: how its attempt ended, the answer for the memo, and the nodes that it
        finished."""
        ...

    def note_running(self, lease: RunLease, node: NodeRecord) -> None:
        """A node has begun: its row, in status running, is written with whatever is committed next. Returns at once and
        raises nothing. A row that an earlier attempt ended stays as it is until the node ends; a crash may lose the note."""
        ...

    def note_waits(self, lease: RunLease, waits: Mapping[NodeId, Mapping[str, float]]) -> None:
        """Keep what nodes in status running have waited so far, seconds by reason, with whatever is committed next, or with
        the next of these. Returns at once and raises nothing; it is no change that has a number."""
        ...

    # waiting for the world

    async def suspend(self, lease: RunLease, node: NodeRecord, wait: SuspensionRecord) -> None:
        """Write a node in status waiting together with what it waits for, in place of an earlier wait of that node.
        Raises ValueError if another node waits for that token.

        The wait stays until the node has ended: a process that dies after it was woken finds the value again."""
        ...

    async def wake(self, token: str, value: Json) -> SuspensionRecord | None:
        """Give a suspended node its value; any process may, it needs no lease. The wait as it now stands: the first
        value stays, a second one changes nothing. None if nobody waits for that token."""
        ...

    async def waits(
        self,
        *,
        run_id: RunId | None = None,
        due_before: float | None = None,
        ready_at: float | None = None,
        limit: int = 500,
    ) -> list[SuspensionRecord]:
        """Those that wait, of one run or of all, the earliest due first; only those due before a time, if given. With
        `ready_at`: those of nodes that can go on, since they were woken or are due at that time."""
        ...

    # the limiter's gauges

    def note_gauges(self, gauges: Sequence[Gauge]) -> None:
        """Keep how accounts stand, with whatever is committed next, or with the next of these; of what is older than ten
        minutes one in half a minute stays, for a week. Returns at once and raises nothing; a crash may lose it."""
        ...

    async def gauges(self, *, since: float, until: float = math.inf) -> list[Gauge]:
        """What was noted after the one wall clock time and not after the other, of all processes, oldest first."""
        ...

    # budgets

    async def take_portion(self, run_id: RunId, budget: Budget, held: Portion, want: Portion | None) -> PortionGrant:
        """Of a run's budget this process holds so much, with what its requests on their way set aside, and wants at least so
        much more (None: nothing): it gets that, and some besides, if all that is spent and all that living processes hold leaves
        it. Raises StoreError."""
        ...

    # shares of limits

    async def balance(self, decisions: Mapping[str, Decide]) -> Mapping[str, Grant]:
        """Read what is on record of these scopes and of the shares that processes have of them, and write what each decides,
        one after the other in the order of their names, in a transaction of its own; what this process gets of each. Raises
        StoreError, also where this store has no run."""
        ...

    # memo

    async def memo(self, key: str) -> MemoRecord | None:
        """The answer under that key; one whose content does not match its hash is removed and not given."""
        ...

    async def memos(self, keys: Sequence[str]) -> Mapping[str, MemoRecord]:
        """The answers under those keys that there are, and are whole, in one read."""
        ...

    async def memo_stats(self) -> MemoStats:
        """Totals."""
        ...

    async def prune_memo(self, *, older_than: float) -> int:
        """Remove answers created before that wall clock time; how many."""
        ...

    async def clear_memo(self) -> int:
        """Remove all answers; how many."""
        ...

    async def compact(self) -> int | None:
        """Give the space of what was removed back to the disk; how many bytes. None: not now, as the database is in
        use, or there is no room to rewrite it."""
        ...

    # what was learned

    async def learned(self, *, since: float) -> list[Learned]:
        """What was learned of accounts at or after that wall clock time, by account and name."""
        ...

    async def learn(self, found: Sequence[Learned]) -> None:
        """Keep what was learned, in place of what had the same account and name before. Raises ValueError for a value
        or a time that is not a number from 0."""
        ...

    async def close(self) -> None:
        """Write what is queued, then give back the connection."""
        ...
