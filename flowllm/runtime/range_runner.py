"""What a worker does with the items of a foreach that it has leased: as the foreach itself would, but for all that concerns
the foreach as a whole."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence

from flowllm.core.records import replace
from flowllm.core.tasks import start_task
from flowllm.core.types import NODE_TERMINAL, Json, NodeId, NodeStatus, OnError, StepKind, item_id
from flowllm.datasets.base import Row
from flowllm.runtime.foreach_state import Ended
from flowllm.runtime.invocation import Earlier, GraphScope, NodeInvocation, UsageTotals
from flowllm.runtime.item_pump import ItemPump
from flowllm.runtime.item_reader import Item
from flowllm.runtime.run_context import RunContext
from flowllm.storage.base import NodeRecord
from flowllm.storage.ranges import ItemEnd, LeasedRange, RangeItem


class RangeItems:
    """Items of one foreach that were leased and have not begun: an `ItemSource`."""

    def __init__(self, hungry: Callable[[], None]) -> None:
        """`hungry` is called when more are wanted."""
        self._hungry = hungry
        self._items: deque[Item] = deque()
        self._wake: Callable[[], None] = hungry
        self._closed = False
        self.wants = True
        """There is room for more."""

    def put(self, items: Sequence[Item]) -> None:
        """They are to be executed."""
        self._items += items
        self.wants = False
        self._wake()

    def drop(self) -> list[Item]:
        """Take back what has not begun."""
        dropped = [*self._items]
        self._items.clear()
        return dropped

    def close(self) -> None:
        """No more will come."""
        self._closed = True
        self._wake()

    def more(self, wake: Callable[[], None]) -> bool | None:
        """See `ItemSource`."""
        if self._items:
            return True
        if self._closed:
            return False
        self._wake = wake
        if not self.wants:
            self.wants = True
            self._hungry()
        return None

    def next(self) -> Item:
        """See `ItemSource`."""
        return self._items.popleft()


class RangeRunner(ItemPump):
    """The items of one foreach that one worker executes."""

    def __init__(
        self,
        context: RunContext,
        invocation: NodeInvocation,
        terms: Mapping[str, Json],
        *,
        hungry: Callable[[], None],
        ended: Callable[[NodeId, int, ItemEnd], None],
    ) -> None:
        """`ended` is told of each item, once what it came to is on record."""
        foreach = invocation.step.foreach
        step = replace(invocation.step, foreach=None, save=None, on_error=OnError(terms["on_error"]))
        accepting = foreach is not None and foreach.accept is not None
        token, whole = invocation.scope.token, invocation.scope
        scope = GraphScope(
            token=token.child(),
            totals=UsageTotals(invocation.totals),
            fail_fast=whole.fail_fast and step.on_error is OnError.FAIL and not accepting,
            graph=whole.graph,
        )
        super().__init__(context, invocation, step, scope, any_order=True)
        self._around = token
        self._withdrawn = False
        self._told = ended
        self._totals: dict[int, UsageTotals] = {}
        self._since = int(terms["since"])
        self.items = RangeItems(hungry)
        self.task = start_task(self._run())

    async def _run(self) -> None:
        try:
            await self._pump(self.items)
        except Exception as error:  # noqa: BLE001 - a bug of flowllm must not leave the coordinator waiting
            self._context.broke(error)
        finally:
            self._around.forget(self._scope.token)

    @property
    def withdrawn(self) -> bool:
        """Its items are not wanted any more."""
        return self._withdrawn

    def withdraw(self) -> None:
        """Nothing more is to be sent for its items."""
        if not self._withdrawn:
            self._withdrawn = True
            self._scope.token.stop()
            for item in self.items.drop():
                self._told(self._node, item.row.index, ItemEnd.UNSENT)
            self.items.close()

    async def take(self, leased: LeasedRange) -> None:
        """Execute the items of a range, but for those that another worker has brought to an end. Raises StoreError."""
        before: Mapping[int, Earlier] = {}
        if leased.leases > 1 or self._context.resumed:
            before = await self._before(leased.items)
        items = []
        for one in leased.items:
            earlier = before.get(one.place)
            if earlier is not None and self._is_over(earlier.record):
                self._told(self._node, one.place, ItemEnd.ENDED)
                continue
            row = Row(index=one.place, value=one.value)
            items.append(Item(row=row, content=one.content, number=one.number, before=earlier))
        self.items.put(items)

    def _is_over(self, record: NodeRecord) -> bool:
        """It has ended in this attempt at the run."""
        return record.status in NODE_TERMINAL and record.seq > self._since

    async def _before(self, items: Sequence[RangeItem]) -> dict[int, Earlier]:
        """What is on record of items, by their places."""
        context, run_id = self._context, self._context.run.run_id
        first, last = items[0].place, items[-1].place
        rows = await context.store.items(run_id, self._node, after=first - 1, limit=last - first + 1)
        names = {item_id(self._node, one.number) for one in items}
        found = {row.place: row for row in rows if row.place is not None and row.node_id in names}
        begun: list[NodeId] = []
        if self._item_step.kind is StepKind.WORKFLOW:
            succeeded = NodeStatus.SUCCEEDED
            begun = [row.node_id for row in found.values() if row.status is not succeeded or context.retry_failed]
        within = await context.store.nodes_within(run_id, begun) if begun else {}
        of_graph = dict.fromkeys(begun, ()) | dict(within)
        return {place: Earlier(record=row, within=of_graph.get(row.node_id)) for place, row in found.items()}

    # items

    def _totals_of(self, item: Item) -> UsageTotals:
        totals = self._totals[item.row.index] = UsageTotals(self._scope.totals)
        return totals

    def _ended(self, item: Item, record: NodeRecord | None) -> None:
        place, totals = item.row.index, self._totals.pop(item.row.index, None)
        self._context.open_items.closed()
        if record is None:
            self._state.withdrawn(place)
            end = ItemEnd.LEFT if totals is not None and totals.sent else ItemEnd.UNSENT
        else:
            self._cached.note(record)
            self._state.ended(Ended(index=place, number=item.number, status=record.status))
            waits = record.status is NodeStatus.WAITING
            end = ItemEnd.WAITING if waits else ItemEnd.REUSED if record.reused else ItemEnd.ENDED
        self._told(self._node, place, end)
        self._wake.set()
