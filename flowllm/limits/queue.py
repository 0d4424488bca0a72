"""Who goes next: by priority, and first come first served inside each."""

from __future__ import annotations

import heapq
from typing import Generic, TypeVar

from flowllm.types import Priority

_RANK = {Priority.HIGH: 0, Priority.NORMAL: 1, Priority.LOW: 2}
T = TypeVar("T")


class AdmissionQueue(Generic[T]):
    """A heap with O(log n) arrival and departure; entries that left early are dropped when they surface."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, T]] = []
        self._arrivals = 0
        self._waiting: set[int] = set()

    def __len__(self) -> int:
        return len(self._waiting)

    def push(self, item: T, priority: Priority) -> int:
        """Join the queue; gives a ticket with which to leave it."""
        self._arrivals += 1
        self._waiting.add(self._arrivals)
        heapq.heappush(self._heap, (_RANK[priority], self._arrivals, item))
        return self._arrivals

    def peek(self) -> T | None:
        """The one that goes next, or None."""
        while self._heap and self._heap[0][1] not in self._waiting:
            heapq.heappop(self._heap)
        return self._heap[0][2] if self._heap else None

    def pop(self) -> T:
        """Take out the one that `peek` shows. Raises IndexError on an empty queue."""
        self.peek()
        _, ticket, item = heapq.heappop(self._heap)
        self._waiting.discard(ticket)
        return item

    def leave(self, ticket: int) -> None:
        """Give up waiting; nothing happens if it went already."""
        self._waiting.discard(ticket)
