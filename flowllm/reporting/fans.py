"""How far the items of each foreach have come, in a few numbers whatever their count."""

from __future__ import annotations

from collections import deque

from flowllm.core.events import FanOutStarted, NodeEnded
from flowllm.core.types import ROW, NodeId, NodeStatus
from flowllm.reporting.text import rate

ROWS = NodeId(ROW)
"""The node whose items are the rows of `--over`."""
FEW = 10
"""A foreach of so many items is told item by item."""
MOST_ERRORS = 5
"""Errors of items that are told one by one, for each foreach; the rest is counted."""
OFTEN = 1.0
SELDOM = 30.0
"""Seconds between two lines about a foreach: the longer it takes, the fewer."""
_STRETCH = 20
_MARKS = 10


class Fan:
    """One foreach while its items are gone through. Times are wall clock seconds."""

    __slots__ = ("_due", "_marks", "_since", "ended", "failed", "node", "retried", "reused", "skipped", "total")

    def __init__(self, event: FanOutStarted) -> None:
        self.node = event.node_id
        self.total = event.total
        self.ended = self.failed = self.skipped = self.retried = self.reused = 0
        self._since = event.at
        self._due = event.at + OFTEN
        self._marks: deque[tuple[float, int]] = deque([(event.at, 0)], maxlen=_MARKS)

    @property
    def few(self) -> bool:
        """So few items that each may have a line."""
        return self.total is not None and self.total <= FEW and self.node != ROWS

    def count(self, event: NodeEnded) -> None:
        """An item ended."""
        self.ended += 1
        self.reused += event.reused
        if event.status is NodeStatus.FAILED:
            self.failed += 1
        elif event.status is NodeStatus.SKIPPED:
            self.skipped += 1

    def due(self, now: float, *, live: bool) -> bool:
        """Whether it is time for another line; if so, it counts as told. `live`: the line replaces the one before."""
        if self._marks[-1][0] <= now < self._due:
            return False
        if now < self._marks[-1][0]:  # the clock was set back
            self._since = now
            self._marks.clear()
        self._marks.append((now, self.ended - self.reused))
        wait = OFTEN if live else min(max(OFTEN, (now - self._since) / _STRETCH), SELDOM)
        self._due = now + wait
        return True

    def text(self) -> str:
        """`posts: 1,234 of 50,000, 3 failed, 12.3/s`."""
        name = "rows" if self.node == ROWS else self.node
        found = [f"{self.ended:,}" if self.total is None else f"{self.ended:,} of {self.total:,}"]
        numbers = ((self.failed, "failed"), (self.skipped, "skipped"), (self.retried, "retried"))
        found += [f"{number:,} {word}" for number, word in numbers if number]
        first, last = self._marks[0], self._marks[-1]
        if last[0] > first[0]:
            found.append(rate((last[1] - first[1]) / (last[0] - first[0])))
        return f"{name}: {', '.join(found)}"
