"""What a kind of step is: it binds a step to values, purely, and carries the bound step out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol, cast, runtime_checkable

from flowllm.calls.base import Caller
from flowllm.core.clock import Clock
from flowllm.core.prefix import PromptPrefix
from flowllm.core.records import dataclass, field
from flowllm.core.redact import Redactor
from flowllm.core.types import Json, NodeStatus, StepKind, Usage
from flowllm.language.template import Template, ValueTemplate
from flowllm.language.workflow import Step
from flowllm.storage.base import MemoRecord, NodeRecord, NodeWrite, Store
from flowllm.storage.monitoring import SuspensionRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A step with its templates rendered: exactly what would be sent or computed."""

    step: Step
    key: str
    """The fingerprint of `parts`."""
    parts: Mapping[str, Json]
    """Everything that is in the key, secrets masked; for `show` and `why`."""
    work: object
    """What the kind itself needs to carry it out."""


def _free(usage: Usage) -> float:  # noqa: ARG001 - what others take
    return 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkEstimate:
    """What carrying out a bound step would take, at most, if every answer will do at once."""

    memo_keys: tuple[str, ...] = ()
    """If all of these are in the cache nothing is sent; empty: it is never answered from there."""
    requests: int | None = 0
    """None: nobody knows before."""
    shared_requests: float | None = None
    """As many, if others share them; None: nobody does."""
    model: str = ""
    provider: str = ""
    input_tokens: int = 0
    """About, on the safe side."""
    output_tokens: int | None = 0
    """None: nothing bounds them."""
    price: Callable[[Usage], float | None] = _free
    """US dollars for so many tokens; None: the price is unknown."""
    tier: str = ""
    """The service tier whose price that is."""
    repairs: int = 0
    """How often an answer that is not what was asked for may be asked for again,"""
    attempts: int = 1
    """and each time so often as none is seen, or none that counts."""
    fallbacks: tuple[WorkEstimate, ...] = ()
    """What the models would take that may be asked instead, each as if it alone were asked."""
    prefix: PromptPrefix | None = None
    """The beginning of its prompt, which all its requests share."""
    output: Json = None
    """What it computes, where that is known without doing anything."""
    known: bool = False
    """`output` is what it will give."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspend:
    """What a runner returns for a step that waits for the world: its node costs a row and no task until somebody gives a
    value under the token (`Store.wake`), or its time has come. Then the step is run again, with `NodeContext.woken`."""

    kind: str
    """What whoever wakes it has to know: `approval`, `batch`, …"""
    token: str
    """Unique in the database."""
    due_at: float | None = None
    """When it is to be run again with no value, wall clock seconds; None: never by itself."""
    payload: Json = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemPosition:
    """Where a node stands in its run: within which other node, and as which item."""

    parent: str = ""
    """Empty at the top."""
    index: int | None = None
    """Of the item in its data, from 0; None for a node that is no item."""
    item: Json = None
    content: str = ""
    """As in NodeRecord."""


def _nothing() -> None:
    pass


class Within(Protocol):
    """Carries out a step within a node, as a node of its own."""

    async def __call__(self, *, name: str, step: Step, values: Mapping[str, Json]) -> NodeRecord | None:
        """The record, durable and told, of the node that is called so within the other one; also where it failed. None if
        the run stopped before, or the caller was cancelled. Does not raise."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeContext:
    """What a bound step may use while it is carried out."""

    caller: Caller
    clock: Clock
    store: Store
    started_at: float
    next_seq: Callable[[], int]
    """The order of completion."""
    ride: Callable[[NodeRecord], None]
    """Write a row with the next commit, without waiting for it."""
    redactor: Redactor
    read_memo: bool = True
    write_memo: bool = True
    refresh: bool = False
    """The answer in the cache is not wanted; a new one replaces it."""
    position: ItemPosition = field(default_factory=ItemPosition)
    missed: Callable[[], None] = _nothing
    """To be called once it is known that something must really be done: no stored answer will do."""
    within: Within | None = None
    """Carries out a step that stands within the node, and nothing else holds."""
    woken: SuspensionRecord | None = None
    """What the node waited for when it was suspended, now with its `value`; `woken` is false, and the value None, where
    only its time has come."""
    begun: Callable[[], None] = _nothing
    """To be called when the work begins, by kinds that send no requests through the pipeline of calls."""

    def record(self, bound: Bound, status: NodeStatus, **values: Json) -> NodeRecord:
        """The node's row as of now, secrets masked."""
        parts, item = bound.parts, self.position.item
        if not self.redactor.is_empty:
            mask = self.redactor.value
            parts, item = self.redactor.parts(parts), mask(item)
            values = {name: mask(value) for name, value in values.items()}
        return NodeRecord(
            run_id=self.caller.lease.run_id,
            node_id=self.caller.node_id,
            kind=bound.step.kind,
            status=status,
            key=bound.key,
            parts=parts,
            started_at=self.started_at,
            finished_at=self.clock.now(),
            seq=self.next_seq(),
            parent=self.position.parent,
            place=self.position.index,
            item=item,
            content=self.position.content,
            epoch=self.caller.lease.epoch,
            waits=dict(self.caller.waits),
            **values,
        )

    def write(self, node: NodeRecord) -> NodeWrite:
        """The row with the right to write it."""
        return NodeWrite(lease=self.caller.lease, node=node)


@runtime_checkable
class Closable(Protocol):
    """A kind that holds something open."""

    async def close(self) -> None:
        """The run is over."""
        ...


@runtime_checkable
class Recalling(Protocol):
    """A kind whose steps mostly want one answer, which may be in the response cache: nothing else is waited for then."""

    def answer_key(self, bound: Bound) -> str:
        """The key of the answer that completes the step; empty where there is no such one."""
        ...

    def recalled(self, bound: Bound, stored: MemoRecord, *, now: float) -> Mapping[str, Json] | None:
        """What the step's row, still to be written, has of that answer; None where it will not do."""
        ...


class StepRunner(Protocol):
    """One kind of step."""

    def bind(self, step: Step, values: Mapping[str, Json]) -> Bound:
        """Render the step's templates with these values and compute its key. No I/O, no waiting.

        Raises TemplateFailed.
        """
        ...

    def work(self, bound: Bound) -> WorkEstimate:
        """What carrying it out would take. Sends nothing."""
        ...

    async def run(self, bound: Bound, context: NodeContext) -> NodeRecord | Suspend:
        """Carry it out and give the node's record, which is durable (but for `value` steps, whose record rides
        with the next commit); or suspend the node. Raises StepError, StoreError, CallStopped."""
        ...


async def close_runners(kinds: Mapping[StepKind, StepRunner]) -> None:
    """Closes what kinds hold open."""
    for kind in kinds.values():
        if isinstance(kind, Closable):
            await kind.close()


LAZY: Final = "_lazy"
"""Where such outputs are among the values of a graph; no template can name it."""


@dataclass(frozen=True, slots=True)
class Lazy:
    """A sequence that reads its items when they are looked at, and a digest of all of them for keys."""

    sequence: Sequence[Json]
    digest: str


def lazy_arguments(
    arguments: ValueTemplate | None, values: Mapping[str, Json]
) -> tuple[dict[str, Json], dict[str, Sequence[Json]]]:
    """Arguments with templates rendered; those that are exactly one whole output of a foreach stand there with their
    digest, and apart as the sequence. Raises TemplateFailed."""
    if arguments is None:
        return {}, {}
    known = values.get(LAZY) or {}
    if not known or not isinstance(arguments.tree, dict):
        return cast("dict[str, Json]", arguments.render(values)), {}
    shown: dict[str, Json] = {}
    sequences: dict[str, Sequence[Json]] = {}
    for name, tree in arguments.tree.items():
        bare = tree.bare if isinstance(tree, Template) else None
        lazy = None if bare is None else known.get(bare)
        if lazy is None:
            shown[name] = ValueTemplate(tree=tree, references=()).render(values)
        else:
            shown[name] = {"foreach": bare, "digest": lazy.digest}
            sequences[name] = lazy.sequence
    return shown, sequences
