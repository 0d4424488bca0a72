"""Ids, statuses and small values that all packages share."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from enum import IntEnum, StrEnum
from typing import Any, ClassVar, Final, NewType, TypeAlias, TypeVar

from flowllm.core.records import dataclass, field, replace

RunId = NewType("RunId", str)
StepId = NewType("StepId", str)
NodeId = NewType("NodeId", str)
"""A step, an item of a foreach, or a step within either: `post`, `posts[17]`, `posts[17].headline`."""

Json: TypeAlias = Any
"""None, bool, int, float, str, list[Json] or dict[str, Json]."""


class NodeStatus(StrEnum):
    """Where one node of a run stands."""

    PENDING = "pending"  # waits for its inputs
    RUNNING = "running"  # its inputs are there; it queues or is being carried out
    WAITING = "waiting"  # suspended until a value comes from outside: no task, a row
    SUCCEEDED = "succeeded"  # its output is on disk
    FAILED = "failed"  # its error is on disk
    SKIPPED = "skipped"  # its `when` was false, or a step it needs was skipped
    BLOCKED = "blocked"  # a step it needs failed
    CANCELLED = "cancelled"  # the run was stopped before it ended


class WaitReason(StrEnum):
    """Why a node that could go on does not: its seconds are added up by reason in `NodeRecord.waits`."""

    DEPENDENCY = "dependency"  # a step that it needs has not ended
    OPEN_ITEMS = "open_items"  # as many items of the foreach are open as may be
    EQUAL_CALL = "equal_call"  # an equal request is on its way
    CACHE_LOOKUP = "cache_lookup"  # the response cache is being read
    BATCH = "batch"  # other texts to embed may come to share its request
    BUDGET = "budget"  # what is set aside for others leaves too little of the budget
    PREFIX = "prefix"  # a request whose prompt begins the same is about to make it cheaper
    SLOT = "slot"  # as many requests are in flight as may be
    RATE = "rate"  # requests a minute
    TOKENS = "tokens"  # tokens a minute
    SERVER_PAUSE = "server_pause"  # the server said when to come again
    BREAKER = "breaker"  # the provider failed too often in a row
    BACKOFF = "backoff"  # before the next attempt
    COMMIT = "commit"  # the disk


THROTTLED = frozenset({WaitReason.RATE, WaitReason.TOKENS, WaitReason.SERVER_PAUSE})
"""Waits for what a provider allows in a minute."""


class RunStatus(StrEnum):
    """Where a run stands."""

    RUNNING = "running"  # some process owns it
    SUCCEEDED = "succeeded"  # every node ended well
    FAILED = "failed"  # at least one node failed for good
    INTERRUPTED = "interrupted"  # stopped by a person, or its owner died; resumable
    PAUSED = "paused"  # stopped by a limit, a budget or a dead provider; resumable


STATUS_MARKS: dict[NodeStatus, tuple[str, str]] = {
    NodeStatus.RUNNING: ("▸", ">"),
    NodeStatus.WAITING: ("‖", "="),
    NodeStatus.SUCCEEDED: ("✓", "+"),
    NodeStatus.FAILED: ("✗", "x"),
    NodeStatus.BLOCKED: ("■", "#"),
    NodeStatus.SKIPPED: ("○", "o"),
    NodeStatus.CANCELLED: ("−", "-"),  # noqa: RUF001 - a minus sign, as wide as the other marks
    NodeStatus.PENDING: ("·", "."),
}
"""What stands for a status where there is no room for its word, and in ASCII; what goes on first, what has not begun last."""
NODE_TRANSITIONS: dict[NodeStatus, frozenset[NodeStatus]] = {
    **dict.fromkeys(NodeStatus, frozenset[NodeStatus]()),
    NodeStatus.PENDING: frozenset({NodeStatus.RUNNING, NodeStatus.SKIPPED, NodeStatus.BLOCKED, NodeStatus.CANCELLED}),
    NodeStatus.RUNNING: frozenset(
        {NodeStatus.SUCCEEDED, NodeStatus.FAILED, NodeStatus.SKIPPED, NodeStatus.WAITING, NodeStatus.CANCELLED}
    ),
    NodeStatus.WAITING: frozenset({NodeStatus.RUNNING, NodeStatus.FAILED, NodeStatus.CANCELLED}),
}
NODE_TERMINAL = frozenset(status for status, after in NODE_TRANSITIONS.items() if not after)
RUN_RESUMABLE = frozenset({RunStatus.FAILED, RunStatus.INTERRUPTED, RunStatus.PAUSED})
"""What `resume` goes on with by itself."""


class AttemptStatus(StrEnum):
    """How a request that was recorded before it was sent ended."""

    SENT = "sent"  # on its way
    SUCCEEDED = "succeeded"  # a whole answer came, valid or not
    FAILED = "failed"  # an error came
    UNKNOWN = "unknown"  # no answer was seen; it may have been paid for
    NOT_SENT = "not_sent"  # it did not go out after all: it is no request


ABANDONED: Final = "Abandoned"
"""The type of the error of an attempt beside which another one was answered first."""


class StepKind(str):
    """What a step does, by the name of its kind. Kinds are registered, so there may be others than those named here;
    of each name there is one instance."""

    __slots__ = ()
    _known: ClassVar[dict[str, StepKind]] = {}
    PROMPT: ClassVar[StepKind]  # one chat completion (`prompt` or `messages`)
    EMBED: ClassVar[StepKind]  # embeddings of texts
    PYTHON: ClassVar[StepKind]  # a function
    SHELL: ClassVar[StepKind]  # a command
    HTTP: ClassVar[StepKind]  # one HTTP request
    WORKFLOW: ClassVar[StepKind]  # another graph as one step
    VALUE: ClassVar[StepKind]  # a value from templates, no I/O

    def __new__(cls, name: str) -> StepKind:
        """The kind of that name."""
        found = cls._known.get(name)
        return cls._known.setdefault(name, super().__new__(cls, name)) if found is None else found

    @property
    def value(self) -> str:
        """Its name."""
        return str(self)


for _name in ("prompt", "embed", "python", "shell", "http", "workflow", "value"):
    setattr(StepKind, _name.upper(), StepKind(_name))

REQUEST_KINDS: Final = frozenset({StepKind.PROMPT, StepKind.EMBED})
"""Kinds of steps that send requests to models, through the call pipeline."""


class Priority(StrEnum):
    """The order in which waiting requests are admitted."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class OnError(StrEnum):
    """What the failure of a step means for its run."""

    FAIL = "fail"  # the run fails, dependents are blocked
    CONTINUE = "continue"  # the run may succeed, dependents see the step as skipped


class Tolerance(IntEnum):
    """Which outcomes of the step that it names a reference tolerates. The smallest of several holds."""

    REQUIRED = 0  # the step must have succeeded
    OPTIONAL = 1  # it may have been skipped
    ANY = 2  # any outcome: `steps.x`, `steps.x.status` and `steps.x.error`


class Part(StrEnum):
    """What of a step a template looks at: decides what must be at hand when it is rendered."""

    OUTPUT = "output"  # `x`: of a foreach, the whole list
    ROWS = "rows"  # `steps.x.rows`: every item with its outcome
    RECORD = "record"  # anything else of `steps.x`


class OnTruncated(StrEnum):
    """What an answer that was cut at its token limit means."""

    WARN = "warn"  # kept, marked and shown in the summary
    FAIL = "fail"  # the step fails


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one answer, as the provider counted them. None: it did not say, so the count is unknown."""

    input_tokens: int | None = 0
    output_tokens: int | None = 0
    cached_input_tokens: int | None = 0
    """The part of input_tokens that the provider served from its own prompt cache."""
    reasoning_tokens: int | None = 0
    """The part of output_tokens that was spent on hidden reasoning."""
    cache_write_tokens: int | None = 0
    """The part of input_tokens that was put into that cache, which may cost more."""

    @classmethod
    def unknown(cls) -> Usage:
        """Of an answer whose provider gave no counts."""
        return cls(**dict.fromkeys(USAGE_FIELDS))

    @property
    def dearest(self) -> Usage:
        """The same with all its input put into the provider's cache, which may cost more than to be read."""
        return self if (self.input_tokens or 0) < CACHED_FROM else replace(self, cache_write_tokens=self.input_tokens)

    @property
    def total(self) -> int | None:
        """Input and output; None as soon as one of them is unknown."""
        return None if self.input_tokens is None or self.output_tokens is None else self.at_least

    @property
    def at_least(self) -> int:
        """What is known of input and output."""
        return (self.input_tokens or 0) + (self.output_tokens or 0)

    def __add__(self, other: Usage) -> Usage:
        if other is NO_USAGE or self is NO_USAGE:
            return self if other is NO_USAGE else other
        return Usage(
            input_tokens=add(self.input_tokens, other.input_tokens),
            output_tokens=add(self.output_tokens, other.output_tokens),
            cached_input_tokens=add(self.cached_input_tokens, other.cached_input_tokens),
            reasoning_tokens=add(self.reasoning_tokens, other.reasoning_tokens),
            cache_write_tokens=add(self.cache_write_tokens, other.cache_write_tokens),
        )

    def as_dict(self) -> dict[str, int | None]:
        """The counts by name, as they stand in JSON output and in templates."""
        return {name: getattr(self, name) for name in USAGE_FIELDS}


NO_USAGE = Usage()
"""Of what took nothing."""
CACHED_FROM = 1024
"""Tokens of the shortest prompt that a provider puts into its cache."""
USAGE_FIELDS = ("input_tokens", "output_tokens", "cached_input_tokens", "reasoning_tokens", "cache_write_tokens")
N = TypeVar("N", int, float)


def add(one: N | None, other: N | None) -> N | None:
    """The sum; None as soon as one of them is unknown."""
    return None if one is None or other is None else one + other


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How the items of a foreach ended."""

    total: int = 0
    """Items that the data holds."""
    succeeded: int = 0
    failed: int = 0
    skipped: int = 0
    accepted: int = 0
    """Items in the output of a foreach with `accept`; 0 without."""
    not_sent: int = 0
    """Items that `accept` made superfluous before anything was sent for them."""

    def as_dict(self) -> dict[str, int]:
        """The counts by name, as they stand in JSON output and in templates."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and how patiently a failed attempt is made again. Times are seconds."""

    max_attempts: int = 5
    initial_delay: float = 1.0
    max_delay: float = 60.0
    multiplier: float = 2.0
    jitter: bool = True
    """Full jitter: each wait is drawn evenly from 0 to the computed delay."""
    attempt_timeout: float = 300.0
    hedge: float | None = None
    """After so long an attempt is sent once more, beside it; None: once it takes much longer than its like; infinite: never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePolicy:
    """Whether a step's answers are taken from and put into the response cache."""

    enabled: bool = True
    ttl: float | None = None
    """Seconds after which a stored answer is too old to be used; None: never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowLimit:
    """At most `requests` in any `per` seconds."""

    requests: int
    per: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What a step's work takes of a node of a cluster. None: as much as is usual there."""

    cpu: float | None = None
    """Cores."""
    gpu: float | None = None
    memory: int | None = None
    """Bytes."""

    def __str__(self) -> str:
        memory = None if self.memory is None else f"{self.memory / 2**30:.4g}GiB"
        given = {"cpu": self.cpu, "gpu": self.gpu, "memory": memory}
        return ", ".join(
            f"{name}: {n if isinstance(n, str) else f'{n:g}'}" for name, n in given.items() if n is not None
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an account, or one model of it, allows. None: not limited."""

    max_concurrent: int | None = None
    """None: it is found."""
    ceiling: int | None = None
    """Of what is found, as files and connections allow."""
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    burst: int | None = None
    """Requests that may go at once after a pause; None: a sixtieth of requests_per_minute, at least 1."""
    windows: tuple[WindowLimit, ...] = ()
    adaptive: bool | None = None
    """Learn from headers and 429s, never above what is written; None: yes."""
    tokens_charged: str | None = None
    """request: as reserved; usage: as used; None: as the server's headers show, else as reserved."""
    prefix_cache: str | None = None
    """on, off: whether requests wait for one whose prompt begins the same; auto or None: where the server is seen to keep
    beginnings."""
    models: Mapping[str, Limits] = field(default_factory=dict)
    """Further limits of single models."""
    give_up_after: float | None = None
    """Seconds without one success after which runs are paused; None: DEFAULT_PATIENCE."""
    stop_at_error_rate: float | None = None
    """Share of failed nodes at which a run ends, 0 to 1."""


DEFAULT_PATIENCE = 900.0


class Trait(StrEnum):
    """What is learned of one model of an account, and remembered from run to run: each is a number."""

    REQUESTS_PER_SECOND = "requests_per_second"  # that it allows
    MAX_CONCURRENT = "max_concurrent"  # requests in flight at which it does most
    CACHES_PREFIXES = "caches_prefixes"  # 1: usage has shown that it does; 0: it does not


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a run with all its resumes may spend. None: any amount."""

    usd: float | None = None
    tokens: int | None = None
    on_exceed: str = "pause"
    """pause: the run can be resumed with a larger budget; fail: it fails."""


def estimate_tokens(text: str) -> int:
    """About how many tokens a text has: UTF-8 bytes / 3, on the safe side for most languages and code."""
    return -(-len(text.encode(errors="surrogatepass")) // 3)


ROW = StepId("row")
"""The step that `--over` makes of the whole graph: its items are the rows. Reserved, so no step has this id."""


def item_id(foreach: NodeId, index: int) -> NodeId:
    """The name of an item: `posts[17]`."""
    return NodeId(f"{foreach}[{index}]")


def item_index(item: NodeId | str) -> int:
    """The number in an item's name."""
    return int(item[item.rindex("[") + 1 : -1])


def child_id(parent: NodeId | str, step: StepId) -> NodeId:
    """The name of a step within a node, or at the top where `parent` is empty: `post.headline`."""
    return NodeId(f"{parent}.{step}" if parent else step)


def step_path(node: NodeId | str) -> str:
    """The name without the numbers of items: `posts[17].headline` is one of `posts.headline`."""
    return _ITEM_NUMBER.sub("", node) if "[" in node else str(node)


def is_within(node: NodeId | str, steps: Collection[str]) -> bool:
    """Whether the node belongs to one of these steps, named by their paths, or to a step within one of them. A step of
    a graph that runs for each row of `--over` is named without the row."""
    if not steps:
        return False
    names = step_path(node).split(".")
    if names[0] == ROW:
        names = names[1:]
    return any(".".join(names[:end]) in steps for end in range(1, len(names) + 1))


_ITEM_NUMBER = re.compile(r"\[\d+\]")

IN_MEMORY: Final = "<workflow>"
"""The name of a workflow's file that is none: a program has given its text."""
