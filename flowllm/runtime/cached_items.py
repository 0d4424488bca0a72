"""Items of a foreach that the response cache answers: those that are pulled together are looked up in one read and written
in one commit, and have no tasks of their own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from flowllm.core.errors import StoreError
from flowllm.core.records import dataclass, replace
from flowllm.core.types import NodeId, NodeStatus, WaitReason, is_within
from flowllm.language.sandbox_limits import rendered
from flowllm.language.workflow import Step
from flowllm.runtime.invocation import NodeInvocation
from flowllm.runtime.item_reader import Item
from flowllm.runtime.node_runner import bind_step
from flowllm.runtime.run_context import RunContext
from flowllm.steps.base import Bound, Recalling
from flowllm.storage.base import MemoRecord, NodeRecord, NodeWrite

TOGETHER = 128
"""Items that are looked up at a time, at most: while some are written, the next are bound."""
AHEAD = 512
"""Items that may be under way while the cache answers: they hold no slots."""

Taken: TypeAlias = tuple[Item, NodeInvocation]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lookup:
    """An item that is looked up."""

    item: Item
    invocation: NodeInvocation
    bound: Bound
    key: str
    started_at: float
    """Wall clock."""


class CachedItems:
    """Those of one foreach. An item that the cache does not answer is executed as any other."""

    def __init__(
        self,
        context: RunContext,
        foreach: tuple[NodeId, Step],
        execute: Callable[[Item, NodeInvocation], None],
        ended: Callable[[Item, NodeRecord | None], None],
    ) -> None:
        """`execute` has an item executed; `ended` is told of one that is over, None: that it is no longer wanted."""
        (node, step), options = foreach, context.options
        kind = context.kinds.get(step.kind)
        looks = step.cache.enabled and step.save is None and not options.no_cache
        self._kind = kind if looks and isinstance(kind, Recalling) and not is_within(node, options.refresh) else None
        self._context = context
        self._execute = execute
        self._ended = ended
        self._taken: dict[int, Taken] = {}
        self._likely: bool | None = None
        """The last item that ended was answered; None: none has ended."""

    @property
    def window(self) -> int:
        """Items that may be under way, however few the limits allow."""
        return AHEAD if self._likely else 0

    def take(self, item: Item, invocation: NodeInvocation) -> bool:
        """Take an item that the cache may answer, to be looked up with others; false: it is to be executed. A look for what
        is not there costs a little: after an item that had to be executed no more are taken, until one was answered."""
        if self._kind is None or self._likely is False or item.before is not None:
            return False
        self._taken[item.row.index] = (item, invocation)
        if len(self._taken) >= TOGETHER:
            self.look()
        return True

    def note(self, record: NodeRecord) -> None:
        """An item ended."""
        self._likely = record.cached

    def look(self) -> None:
        """Look up those that were taken: no more can be pulled now."""
        if self._taken and self._kind is not None:
            taken, self._taken = self._taken, {}
            self._context.tasks.spawn(self._answer(self._kind, taken), partial(self._drop, taken))

    def _drop(self, left: dict[int, Taken]) -> None:
        """End what is left, once: a task that is cancelled as its commit fails comes here twice."""
        while left:
            self._ended(left.pop(next(iter(left)))[0], None)

    async def _answer(self, kind: Recalling, left: dict[int, Taken]) -> None:
        """End those that the cache answers, have the others executed; what is in `left` has had neither yet."""
        lookups = [found for item, invocation in left.values() if (found := await self._lookup(kind, item, invocation))]
        try:
            answered = await self._answered(kind, lookups)
            if answered:
                writes = [NodeWrite(lease=self._context.lease, node=record) for _, record in answered]
                await self._context.store.commit(nodes=writes)
        except ValueError:  # one of them cannot be stored: which, is told where it is executed
            answered = []
        except StoreError as error:
            self._context.broke(error)
            return self._drop(left)
        for lookup, record in answered:
            del left[lookup.item.row.index]
            self._tell(lookup, record)
        for lookup in lookups:
            if lookup.item.row.index in left:
                left[lookup.item.row.index] = (lookup.item, replace(lookup.invocation, bound=lookup.bound))
        while left:
            self._execute(*left.pop(next(iter(left))))
        return None

    async def _answered(self, kind: Recalling, lookups: list[_Lookup]) -> list[tuple[_Lookup, NodeRecord]]:
        """Those that are answered, in their order, with their rows."""
        context, began = self._context, self._context.clock.monotonic()
        found = await context.store.memos(list({lookup.key: None for lookup in lookups})) if lookups else {}
        took = context.clock.monotonic() - began
        answered = []
        for lookup in lookups:
            stored = None if lookup.invocation.scope.token.stopped else found.get(lookup.key)
            record = None if stored is None else self._recalled(kind, lookup, stored, took)
            if record is not None:
                answered.append((lookup, record))
        return answered

    async def _lookup(self, kind: Recalling, item: Item, invocation: NodeInvocation) -> _Lookup | None:
        started_at = self._context.clock.now()
        try:
            bound = await rendered(lambda: bind_step(self._context, invocation))
        except Exception:  # noqa: BLE001 - told where the item is executed
            return None
        key = "" if bound is None else kind.answer_key(bound)
        if bound is None or not key:
            return None
        return _Lookup(item=item, invocation=invocation, bound=bound, key=key, started_at=started_at)

    def _recalled(self, kind: Recalling, lookup: _Lookup, stored: MemoRecord, took: float) -> NodeRecord | None:
        found = kind.recalled(lookup.bound, stored, now=self._context.clock.now())
        if found is None:
            return None
        waits = dict(lookup.invocation.waits or {})
        if took > 0:
            waits[WaitReason.CACHE_LOOKUP] = took
        return self._context.record(
            lookup.invocation,
            NodeStatus.SUCCEEDED,
            parts=lookup.bound.parts,
            key=lookup.key,
            started_at=lookup.started_at,
            waits=waits,
            **found,
        )

    def _tell(self, lookup: _Lookup, record: NodeRecord) -> None:
        self._context.tell_started(lookup.invocation, lookup.started_at)
        lookup.invocation.totals.add(record)
        self._context.ended(record, lookup.invocation)
        self._ended(lookup.item, record)
