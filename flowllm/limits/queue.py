"""Who goes next: by priority; inside a priority, fairly between tenants; inside a tenant, first come first served.

Fairness is start-time fair queueing: P. Goyal, H. M. Vin, H. Cheng, "Start-time Fair Queueing: A Scheduling
Algorithm for Integrated Services Packet Switching Networks", SIGCOMM 1996. A tenant's next request has a start
tag; serving it moves the tenant's tag on by cost / weight, and virtual time to that start tag. Where tokens are limited a
request costs its tokens, else one as any other does (Y. Sheng et al., "Fairness in Serving Large Language Models", OSDI
2024): ten long prompts then weigh as much as a thousand short ones. A tenant that comes
back after a pause starts at the virtual time of that moment: it is owed nothing for having been away, and a long
queue of another tenant cannot hold it back. Tags are given when a request becomes its tenant's next, so that
requests that left the queue cost their tenant nothing.

All in a queue wait for what its head waits for. So the queue keeps the seconds of each reason, and a request that waits
only notes where they stood when it came: a change of reason costs the same with one and with ten thousand waiting.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Generic, TypeVar

from flowllm.core.types import Priority, WaitReason
from flowllm.limits.rates import Hold

_RANK = {Priority.HIGH: 0, Priority.NORMAL: 1, Priority.LOW: 2}
T = TypeVar("T")


class _Tenant(Generic[T]):
    __slots__ = ("finish", "queue", "weight")

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.queue: list[tuple[bool, int, T, float]] = []
        """A heap: (whether it came in its turn, arrival, request, cost); those that go first come before."""
        self.finish = 0.0
        """The virtual time at which the request that it was served last is paid for."""


class _Class(Generic[T]):
    """The tenants that wait at one priority."""

    __slots__ = ("heap", "now", "tenants")

    def __init__(self) -> None:
        self.tenants: dict[str, _Tenant[T]] = {}
        self.heap: list[tuple[float, int, str]] = []
        """(start tag, arrival, name) of each tenant's next request."""
        self.now = 0.0
        """Virtual time: the start tag of the request that was served last."""


class AdmissionQueue(Generic[T]):
    """Arrival and departure cost O(log tenants); a request that leaves early is dropped when it surfaces."""

    def __init__(self, arrivals: Iterator[int] | None = None) -> None:
        """`arrivals` numbers those who come; queues that share it can be compared by who came first."""
        self._classes: list[_Class[T]] = [_Class() for _ in _RANK]
        self._arrivals = itertools.count(1) if arrivals is None else arrivals
        self._waiting: dict[int, Priority] = {}
        """At which priority, by ticket."""
        self.hold: Hold | None = None
        """What all wait for, as the head does; None: nobody waits, or nobody has looked."""
        self._since = 0.0
        self._held: dict[WaitReason, float] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[tuple[int, T]]:
        """Those who wait with their tickets, in the order in which they came."""
        queues = (owner.queue for one in self._classes for owner in one.tenants.values())
        waiting = ((ticket, item) for queue in queues for _, ticket, item, _ in queue if ticket in self._waiting)
        return iter(sorted(waiting, key=lambda one: one[0]))

    def priorities(self) -> Counter[Priority]:
        """How many wait at each priority."""
        return Counter(self._waiting.values())

    def push(
        self,
        item: T,
        priority: Priority,
        *,
        tenant: str = "",
        weight: float = 1.0,
        cost: float = 1.0,
        ticket: int | None = None,
        first: bool = False,
    ) -> int:
        """Join the queue; gives a ticket with which to leave it. `weight` is the tenant's from now on, `cost` what being
        served counts against it. `ticket` is that of another queue, for one who comes from there. `first`: before all of
        its tenant's at that priority that did not come so."""
        ticket = next(self._arrivals) if ticket is None else ticket
        self._waiting[ticket] = priority
        lane = self._classes[_RANK[priority]]
        owner = lane.tenants.get(tenant)
        if owner is None:
            owner = lane.tenants[tenant] = _Tenant(weight)
        owner.weight = weight
        heapq.heappush(owner.queue, (not first, ticket, item, cost))
        if len(owner.queue) == 1:
            heapq.heappush(lane.heap, (max(lane.now, owner.finish), ticket, tenant))
        return ticket

    def head(self) -> tuple[tuple[int, int], T] | None:
        """The one that goes next, with its rank and arrival; None if nobody waits."""
        for rank, lane in enumerate(self._classes):
            while lane.heap:
                _, _, name = lane.heap[0]
                _, ticket, item, _ = lane.tenants[name].queue[0]
                if ticket in self._waiting:
                    return (rank, ticket), item
                self._drop(lane, name)
        return None

    def peek(self) -> T | None:
        """The one that goes next, or None."""
        found = self.head()
        return None if found is None else found[1]

    def pop(self) -> T:
        """Take out the one that goes next. Raises IndexError on an empty queue."""
        found = self.head()
        if found is None:
            raise IndexError("nobody waits")
        (rank, ticket), item = found
        lane = self._classes[rank]
        start, _, name = heapq.heappop(lane.heap)
        owner = lane.tenants[name]
        _, _, _, cost = heapq.heappop(owner.queue)
        self._waiting.pop(ticket, None)
        lane.now = start
        owner.finish = start + cost / owner.weight
        self._next(lane, name, owner)
        return item

    def pass_over(self) -> None:
        """Take out the one that would go next, at no cost to its tenant: it does not. Nothing happens on an empty queue."""
        found = self.head()
        if found is not None:
            self._waiting.pop(found[0][1], None)

    def leave(self, ticket: int) -> None:
        """Give up waiting; nothing happens if it went already."""
        self._waiting.pop(ticket, None)

    def held(self, now: float) -> dict[WaitReason, float]:
        """Seconds up to now, by reason."""
        if self.hold is not None:
            self._held[self.hold.reason] = self._held.get(self.hold.reason, 0.0) + now - self._since
        self._since = now
        return self._held

    def hold_back(self, hold: Hold | None, now: float) -> None:
        """Its head waits for that from now on; None: nobody waits."""
        if hold is None or self.hold is None or hold.reason is not self.hold.reason:
            self.held(now)
        self.hold = hold

    def _drop(self, lane: _Class[T], name: str) -> None:
        """The tenant's next request has left: what is behind it takes its place and its tag."""
        start, _, _ = heapq.heappop(lane.heap)
        owner = lane.tenants[name]
        while owner.queue and owner.queue[0][1] not in self._waiting:
            heapq.heappop(owner.queue)
        if owner.queue:
            heapq.heappush(lane.heap, (start, owner.queue[0][1], name))
        else:
            self._forget(lane, name, owner)

    def _next(self, lane: _Class[T], name: str, owner: _Tenant[T]) -> None:
        while owner.queue and owner.queue[0][1] not in self._waiting:
            heapq.heappop(owner.queue)
        if owner.queue:
            heapq.heappush(lane.heap, (max(lane.now, owner.finish), owner.queue[0][1], name))
        else:
            self._forget(lane, name, owner)

    def _forget(self, lane: _Class[T], name: str, owner: _Tenant[T]) -> None:
        """A tenant that owes nothing more is as one that never came; when nobody waits, nobody owes anything."""
        if not lane.heap:
            lane.tenants.clear()
        elif owner.finish <= lane.now:
            del lane.tenants[name]
