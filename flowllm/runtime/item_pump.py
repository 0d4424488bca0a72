"""Items on their way from where they come from through their execution, as many at once as suit."""

from __future__ import annotations

import math
from asyncio import Event
from collections.abc import Callable
from functools import partial
from typing import Protocol

from flowllm.core.types import REQUEST_KINDS, Json, StepKind, WaitReason, item_id
from flowllm.language.workflow import Step
from flowllm.runtime.cached_items import CachedItems
from flowllm.runtime.foreach_state import ForeachState
from flowllm.runtime.graph_state import texts_together
from flowllm.runtime.invocation import GraphScope, NodeInvocation, UsageTotals
from flowllm.runtime.item_reader import Item
from flowllm.runtime.node_runner import compute
from flowllm.runtime.run_context import RunContext
from flowllm.steps.base import ItemPosition
from flowllm.storage.base import NodeRecord

LOCAL_WINDOW = 64
"""Items in flight of steps that ask no model, where `max_concurrent` does not say."""
LOOK_EVERY = 0.25
"""Seconds after which it is seen anew how many items may be in flight."""
MIN_BATCHES = 8
"""Requests' worth of texts to embed that a foreach has in flight at least."""


class ItemSource(Protocol):
    """Where items come from, in their order."""

    def more(self, wake: Callable[[], None]) -> bool | None:
        """Whether there is a next item. None: that is being found out; `wake` is called when it is time to ask again. Raises
        StoreError."""
        ...

    def next(self) -> Item:
        """It; only after `more` has said that there is one."""
        ...


class ItemPump:
    """Starts the items of a foreach while its window lets it. A subclass says what is done as one ends."""

    def __init__(
        self, context: RunContext, invocation: NodeInvocation, item_step: Step, scope: GraphScope, *, any_order: bool
    ) -> None:
        """`any_order`: items may be sent in another order than their own."""
        self._context = context
        self._invocation = invocation
        self._foreach = invocation.step.foreach
        self._item_step = item_step
        self._node = invocation.node_id
        self._scope = scope
        self._any_order = any_order
        self._wake = Event()
        self._waits_for_open_item = False
        self._looked = -math.inf
        """When it last saw how many items may be in flight (monotonic seconds)."""
        self._most = 1
        self._full_s = 0.0
        """Seconds in which no more items could be opened."""
        step = invocation.step
        self._inline = step.kind is StepKind.VALUE and step.save is None
        self._asks = step.kind in REQUEST_KINDS or step.kind is StepKind.WORKFLOW
        self._asks |= getattr(step.body, "asks", None) is not None  # a function of the user's that asks models
        self._least = MIN_BATCHES * texts_together(step)
        self._own_window = None if self._foreach is None else self._foreach.max_concurrent
        self._state = ForeachState(window=1)
        self._cached = CachedItems(context, (self._node, self._item_step), self._spawn, self._ended)

    def _ended(self, item: Item, record: NodeRecord | None) -> None:
        """An item is over; None: it was no longer wanted, or the run is stopping."""
        raise NotImplementedError

    def _window(self) -> int:
        """Items in flight at most: as it is written, or as the limits stand now."""
        if self._own_window is not None:
            return self._own_window
        window = self._context.open_items.window(self._any_order) if self._asks else LOCAL_WINDOW
        return max(window, self._least)

    # pulling

    async def _pump(self, source: ItemSource) -> None:
        """Start items while the window lets it, wait while it does not; once the run stops only wait for those that
        have started."""
        token = self._scope.token
        token.listen(self, self._wake.set)
        try:
            while not self._state.over:
                self._wake.clear()
                if token.status is None:
                    self._pull(source)
                elif not self._state.in_flight:
                    return
                if self._state.paused:
                    await self._context.suspended.look()
                    if self._state.paused:
                        return
                if not self._state.over and (token.status is None or self._state.in_flight):
                    full = self._state.may_pull() <= 0 or self._waits_for_open_item
                    before = self._context.clock.monotonic()
                    await self._wake.wait()
                    self._full_s += self._context.clock.monotonic() - before if full else 0.0
        finally:
            token.forget(self)

    def _look(self) -> None:
        """How many items may be in flight now."""
        if self._any_order:
            if (now := self._context.clock.monotonic()) >= self._looked + LOOK_EVERY:
                self._looked, self._most = now, self._window()
            self._state.window = self._most if self._own_window is not None else max(self._most, self._cached.window)

    def _pull(self, source: ItemSource) -> None:
        self._look()
        while self._scope.token.status is None and self._state.may_pull() > 0:
            if not self._may_open_one():
                break
            more = source.more(self._wake.set)
            if more is None:
                break
            if not more:
                self._state.drained()
                break
            self._begin_item(source.next())
        self._cached.look()

    def _may_open_one(self) -> bool:
        """Whether one more item may be open here; if not, it is called back."""
        if self._context.open_items.may_open(self._state.in_flight):
            return True
        if not self._waits_for_open_item:
            self._waits_for_open_item = True
            self._context.open_items.wait(self._may_open)
        return False

    def _may_open(self) -> bool:
        self._waits_for_open_item = False
        self._wake.set()
        return self._scope.token.status is None and self._state.may_pull() > 0

    # items

    def _begin_item(self, item: Item) -> None:
        self._state.pulled(item.row.index)
        self._start(item)

    def _start(self, item: Item) -> None:
        self._context.open_items.opened()
        invocation = self._invocation_of(item)
        if self._inline and (record := compute(self._context, invocation)) is not None:
            self._ended(item, record)
        elif not self._looked_up(item, invocation):
            self._spawn(item, invocation)

    def _looked_up(self, item: Item, invocation: NodeInvocation) -> bool:
        """The cache may answer it, which is found out with others."""
        return self._cached.take(item, invocation)

    def _spawn(self, item: Item, invocation: NodeInvocation) -> None:
        self._context.tasks.spawn(self._execute_item(item, invocation), partial(self._ended, item, None))

    async def _execute_item(self, item: Item, invocation: NodeInvocation) -> None:
        await self._deliver(item, await self._context.execute(self._context, invocation))

    async def _deliver(self, item: Item, record: NodeRecord | None) -> None:
        self._ended(item, record)

    def _totals_of(self, item: Item) -> UsageTotals:  # noqa: ARG002 - of a subclass they may be its own
        return self._scope.totals

    def _invocation_of(self, item: Item) -> NodeInvocation:
        row = item.row
        name = "item" if self._foreach is None else self._foreach.name
        waits: dict[str, float] | None = {WaitReason.OPEN_ITEMS: self._full_s} if self._full_s else None
        values: dict[str, Json] = {**self._invocation.values, name: row.value, "index": row.index}
        return NodeInvocation(
            node_id=item_id(self._node, item.number),
            step=self._item_step,
            values=values,
            position=ItemPosition(parent=self._node, index=row.index, item=row.value, content=item.content),
            scope=self._scope,
            totals=self._totals_of(item),
            before=item.before,
            waits=waits,
        )
