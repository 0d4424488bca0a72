"""What is asked of the pipeline of calls, and the shape that each of its layers has.

single flight → response cache → batches → executor (limiter, attempt record, wire). Single flight comes first so that nobody can look into
the response cache just before an equal call's answer is stored there, and then pay for it again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Protocol, TypeAlias

from flowllm.calls.budget import RunBudget
from flowllm.calls.validation import Validator
from flowllm.core.cancel import CancelToken
from flowllm.core.events import Event, NodeWaiting
from flowllm.core.records import dataclass, field
from flowllm.core.redact import Redactor
from flowllm.core.request import Answer, LocalRequest, Request
from flowllm.core.types import NO_USAGE, Json, NodeId, Priority, RetryPolicy, Usage, WaitReason
from flowllm.storage.base import NodeWrite, RunLease

MOST_REPAIRS = 2
"""How often an invalid answer is asked for again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The node on whose behalf something is sent."""

    lease: RunLease
    node_id: NodeId
    token: CancelToken
    emit: Callable[[Event], None]
    budget: RunBudget | None = None
    """The run's budget, if it has one."""
    tenant: str = ""
    redactor: Redactor = field(default_factory=Redactor)
    """Knows the secrets of the run."""
    waits: dict[str, float] = field(default_factory=dict)
    """Seconds that the node has waited so far, by reason."""

    def waited(self, reason: WaitReason, seconds: float) -> None:
        """Add seconds that one of the node's calls has waited."""
        if seconds > 0:
            self.waits[reason] = self.waits.get(reason, 0.0) + seconds

    def tell_waiting(
        self, reason: WaitReason, *, at: float, until: float | None = None, leader: Caller | None = None
    ) -> None:
        """Emit that the node waits, from `at` until about `until` (wall clock), for the request of `leader` if any."""
        self.emit(
            NodeWaiting(
                run_id=self.lease.run_id,
                node_id=self.node_id,
                at=at,
                reason=reason,
                until=until,
                leader_run="" if leader is None else leader.lease.run_id,
                leader_node="" if leader is None else leader.node_id,
            )
        )


AnyRequest: TypeAlias = Request | LocalRequest


class Performer(Protocol):
    """Whoever does what a call asks for: a provider, or a step of a kind that does its work itself."""

    @property
    def name(self) -> str:
        """As people know it."""
        ...

    @property
    def account(self) -> Hashable:
        """Whose limits the call counts against, known once it is ready."""
        ...

    async def ready(self) -> None:
        """Load whatever the first request needs. Raises StepError."""
        ...

    def cost(self, model: str, usage: Usage, *, tier: str = "") -> float | None:
        """US dollars for that many tokens in that service tier; None where the price is unknown, 0.0 where nothing is
        paid."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Batching:
    """That a call, for one text to embed, may share its request with others of the same group."""

    group: Hashable
    """Calls that one request can carry: the same account, model and parameters."""
    size: int
    """The most calls in one request."""
    wait: float
    """Seconds to wait at most for others."""
    most_tokens: int = 250_000
    """By estimate, in one request."""


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One answer that a node wants."""

    caller: Caller
    request: AnyRequest
    provider: Performer
    key: str
    """The fingerprint of the request; answers are stored and shared under it."""
    rows_for: Callable[[Answer], Sequence[NodeWrite]]
    """The rows that this answer completes; they are committed together with it, before `answer` returns."""
    validator: Validator | None = None
    keep_truncated: bool = True
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    timeout: float = 1800.0
    """Seconds from the first admission, waits for admission left out."""
    priority: Priority = Priority.NORMAL
    expected: Usage = NO_USAGE
    """Tokens that it will take, at most, by estimate."""
    reckon: Callable[[], Usage] | None = None
    """Gives it at the moment of sending, where that takes work: an answer from the response cache needs none."""
    read_memo: bool = True
    write_memo: bool = True
    ttl: float | None = None
    """Seconds; an older answer in the response cache is not used."""
    join: bool = True
    """An equal request in flight will do."""
    batch: Batching | None = None
    """None: it goes alone."""
    scope: str = ""
    """Only calls of one scope share an answer that is on its way; by the cache all do."""
    idle: Callable[[], float] = float
    """Seconds of all attempts so far that do not count against the timeout."""
    missed: Callable[[], None] = _nothing
    """Called once it is known that no stored answer will do: it is sent, or waits for an equal one that is."""

    @property
    def local(self) -> bool:
        """Nothing is sent to a model: its attempts are no requests, and cost nothing."""
        return isinstance(self.request, LocalRequest)


class PendingCall(Protocol):
    """A call on its way, which may belong to several callers."""

    call: Call
    looked: float
    """When the response cache was read for it, monotonic seconds."""
    on_wire: bool
    """A request is out or its outcome is being recorded: the token no longer holds it back."""

    def payer(self) -> Caller:
        """Who pays for what is sent next: the first caller whose run is not stopping.

        Raises CallStopped when there is none left.
        """
        ...

    def callers(self) -> Sequence[Caller]:
        """The nodes that wait for whatever this call waits for; without those that joined it."""
        ...

    def holds_secret(self, value: Json) -> bool:
        """Whether a secret of a run that waits stands in what was answered: it is then for these runs alone, each of
        which masks its own."""
        ...

    async def recalled(self, recall: Callable[[PendingCall], Awaitable[Answer | None]]) -> Answer | None:
        """The answer, where all that the call asks for has come to be known while it waited; what of it is known is asked
        for no more. `recall` gives what the response cache has of one call, with its rows, durable."""
        ...

    def departing(self, request: AnyRequest) -> AnyRequest:
        """What really goes out, asked for at the last moment: nobody is in it who has left."""
        ...

    def shares(self, answer: Answer) -> Sequence[tuple[PendingCall, Answer]]:
        """The calls that this answer to the request ends, each with its part; the call itself, if it is one alone."""
        ...

    def rows_for(self, answer: Answer) -> Sequence[NodeWrite]:
        """The rows of everyone who waits for this answer; nobody can join after it was called."""
        ...


class Layer(Protocol):
    """One layer around a call."""

    async def answer(self, pending: PendingCall) -> Answer:
        """The answer, durable. Raises StepError when there is none, CallStopped when all its runs are
        stopping, StoreError when it cannot be kept."""
        ...
