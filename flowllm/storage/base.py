"""What is kept, and the verbs in which the rest of flowllm speaks of it. No SQL outside of storage/."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from flowllm.core.errors import DatabaseCorrupt
from flowllm.core.records import dataclass, field
from flowllm.core.types import AttemptStatus, Counts, Json, NodeId, NodeStatus, RunId, RunStatus, StepKind, Usage
from flowllm.storage.browsing import Browsing
from flowllm.storage.comparing import Comparing
from flowllm.storage.following import Following
from flowllm.storage.history import History
from flowllm.storage.monitoring import Gauge, Learned, MemoStats, RunTotals, SuspensionRecord
from flowllm.storage.past import PastReads
from flowllm.storage.results import ResultReads
from flowllm.storage.timeline import TimelineReads


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The process that has a run."""

    pid: int
    host: str
    since: float
    """Wall clock, seconds since 1970 UTC."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLease:
    """Proof of ownership. Every write of a run carries it; a stale epoch writes nothing."""

    run_id: RunId
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One run. Times are wall clock seconds since 1970 UTC."""

    run_id: RunId
    workflow: str
    path: str
    """The workflow file, absolute."""
    status: RunStatus
    started_at: float
    seq: int = 0
    """Order of creation, given by the store; clocks may jump, this does not."""
    finished_at: float | None = None
    provider: str = ""
    """What the default provider was resolved to."""
    inputs: Mapping[str, Json] = field(default_factory=dict)
    options: Mapping[str, Json] = field(default_factory=dict)
    """The options of the command line that a resume repeats."""
    snapshot: Mapping[str, str] = field(default_factory=dict)
    """Path to text of the workflow and every file it reads."""
    outputs: Mapping[str, Json] | None = None
    error: Mapping[str, Json] | None = None
    stats: Mapping[str, Json] = field(default_factory=dict)
    tenant: str = ""
    tags: tuple[str, ...] = ()
    """Given with `run --tag`, sorted."""
    epoch: int = 1
    owner: Owner | None = None
    output_offset: int | None = None
    """Bytes of the `--output` file that are known to be on disk; None: it was not begun."""
    totals: RunTotals = field(default_factory=RunTotals, compare=False)
    """Kept by the store, whatever is written here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRecord:
    """One node of a run, as it ended or stands. Written over by a later attempt at the same node."""

    run_id: RunId
    node_id: NodeId
    kind: StepKind
    status: NodeStatus
    key: str = ""
    """Fingerprint of what the node would send or compute; empty if it never came to that."""
    parts: Mapping[str, Json] = field(default_factory=dict)
    """What the key was computed from, for `show` and `why`; secrets masked."""
    output: Json = None
    error: Mapping[str, Json] | None = None
    model: str = ""
    provider: str = ""
    cached: bool = False
    reused: bool = False
    """Taken over from an earlier attempt at the run."""
    attempts: int = 0
    truncated: bool = False
    usage: Usage = field(default_factory=Usage)
    cost_usd: float | None = None
    saved_usd: float | None = field(default=0.0, compare=False)
    """What its answers cost when they were asked for, where they came from the response cache; not kept."""
    queue_s: float = 0.0
    call_s: float = 0.0
    started_at: float | None = None
    finished_at: float | None = None
    seq: int = 0
    """Order of completion in the run, from 1; 0 for one that has not ended. No two nodes of a run share one."""
    parent: str = ""
    """The node that it is an item of, or a step within; empty at the top."""
    place: int | None = None
    """The index of an item in its data, from 0; None for what is not an item."""
    item: Json = None
    """The item's value."""
    content: str = ""
    """Hash of `item`, by which it is found again when the data has moved."""
    counts: Counts | None = None
    """Of a foreach: what became of its items."""
    epoch: int = 1
    """The attempt at the run that wrote the row, or took it over."""
    change_no: int = field(default=0, compare=False)
    """The number of the last change of this row among all of its run, given by the store."""
    waits: Mapping[str, float] = field(default_factory=dict)
    """Seconds that it waited before its row was made, by `WaitReason`, summed over its requests."""

    @property
    def damaged(self) -> bool:
        """What is stored is not what was written; it has to be made anew."""
        return (self.error or {}).get("type") == DatabaseCorrupt.__name__


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemKey:
    """An item that a resumed foreach has pulled from its data."""

    place: int
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchedItem:
    """What the store knows of such an item."""

    slot: int
    """The number in the item's name: an item keeps its name in a run, also when its place changes."""
    node: NodeRecord | None = None
    """The item as an earlier attempt at the run left it, at its new place and in this attempt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """One request on the wire, or one attempt at the work of a step that does it itself."""

    attempt_id: str
    """Unique; made by the caller, so that a repeated write changes nothing."""
    run_id: RunId
    node_id: NodeId
    key: str
    number: int
    """1 for the first request of the node in this attempt at the run."""
    provider: str
    """For a step that does its work itself: its kind."""
    model: str
    """Empty for a step that does its work itself: its attempts are no requests, and cost nothing."""
    started_at: float
    status: AttemptStatus = AttemptStatus.SENT
    finished_at: float | None = None
    error: Mapping[str, Json] | None = None
    usage: Usage = field(default_factory=Usage)
    cost_usd: float | None = None
    reserved_tokens: float = 0.0
    """What was set aside for it before it was sent: the most that it may take."""
    reserved_usd: float | None = 0.0
    """The same in dollars, None if the price is unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoRecord:
    """One valid answer under its request's key."""

    key: str
    provider: str
    model: str
    answer: Json
    """{"value", "model", "provider", "usage", "cost_usd", "truncated"}"""
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeWrite:
    """A node's row and the right to write it."""

    lease: RunLease
    node: NodeRecord


class Store(History, Browsing, Comparing, Following, PastReads, ResultReads, TimelineReads, Protocol):
    """Every verb returns when what it says is durable, or raises a StoreError; ValueError for a value that JSON or the
    database cannot hold. A verb's rows are written wholly or not at all, those of an earlier call first; twice changes nothing. Verbs
    that take a lease, and rows that carry one, raise OwnershipLost when the run has a newer epoch, and write nothing.
    """

    # runs

    async def create_run(self, run: RunRecord) -> RunRecord:
        """Insert a run, owned by `run.owner` at `run.epoch`; gives it back with its `seq`. Raises UsageError if
        there is a run of that id.

        The owner also holds the run's lock until `finish_run` or the end of its process, however it ends."""
        ...

    async def claim_run(self, run_id: RunId, owner: Owner) -> RunRecord:
        """Take the run's lock, raise its epoch by one, set its owner and status running; its attempts that
        were still `sent` become `unknown`. Raises RunNotFound, and RunOwned (naming process, host and since
        when) while another owner holds the lock."""
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
        """End this attempt at the run: owner cleared, lock given back."""
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
        found gets a slot that no row has and no other item was given: its place if that is free, else a number
        above all others."""
        ...

    def outputs(self, run_id: RunId, parent: NodeId, *, slots: Sequence[int] | None = None) -> Sequence[Json]:
        """The outputs of a foreach's items, in the order of `items`, as a lazy sequence, null for those that did
        not succeed; of `slots` alone, in that order, if given. It reads pages when they are looked at, from any
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

    async def sent_elsewhere(self, key: str, *, since: float) -> bool:
        """Whether another process that is alive has a request under that key on its way, recorded at or after `since` and
        among the newest attempts. A process that has just begun may not be seen yet."""
        ...

    async def mark_output(self, lease: RunLease, offset: int) -> None:
        """The first `offset` bytes of the `--output` file are on disk."""
        ...

    async def begin_attempt(self, lease: RunLease, attempt: AttemptRecord) -> None:
        """Record a request before it is sent."""
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

    async def changes(self, run_id: RunId, *, since: int = 0, limit: int = 500) -> list[NodeRecord]:
        """The nodes, items too, whose `change_no` is above `since`, in its order. One that has changed twice is given
        once, as it is now."""
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
        """Keep how accounts stand, with whatever is committed next, or with the next of these; what is older than ten minutes
        goes. Returns at once and raises nothing; a crash may lose it."""
        ...

    async def gauges(self, *, since: float) -> list[Gauge]:
        """What was noted after that wall clock time, of all processes, oldest first."""
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
