"""How far the items of a foreach have come, and when that is worth a line."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Final

from flowllm.core.events import FanOutStarted, NodeEnded
from flowllm.core.types import ROW, NodeId, NodeStatus, WaitReason
from flowllm.reporting.text import rate, reason_word

ROWS: Final = NodeId(ROW)
"""The node whose items are the rows of `--over`."""
OFTEN: Final = 1.0
SELDOM: Final = 30.0
"""Seconds between two lines about a foreach: the longer it takes, the fewer."""
_FEW = 10
"""A foreach of so many items has a line for each item."""
_STRETCH = 20
_MARKS = 10


class ForeachProgress:
    """How far the items of one foreach have come, in a few numbers. Times are wall clock seconds."""

    __slots__ = (
        "_due",
        "_marks",
        "_since",
        "ended",
        "failed",
        "hedged",
        "node",
        "retried",
        "reused",
        "skipped",
        "total",
    )

    def __init__(self, event: FanOutStarted) -> None:
        self.node = event.node_id
        self.total = event.total
        self.ended = self.failed = self.skipped = self.retried = self.hedged = self.reused = 0
        self._since = event.at
        self._due = event.at + OFTEN
        self._marks: deque[tuple[float, int]] = deque([(event.at, 0)], maxlen=_MARKS)

    @property
    def few(self) -> bool:
        """So few items that each may have a line."""
        return self.total is not None and self.total <= _FEW and self.node != ROWS

    def count(self, event: NodeEnded) -> None:
        """An item ended."""
        self.ended += 1
        self.reused += event.reused
        self.failed += event.status is NodeStatus.FAILED
        self.skipped += event.status is NodeStatus.SKIPPED

    def due(self, now: float, *, live: bool) -> bool:
        """Whether it is time for another line; if so, it counts as written. `live`: it replaces the line before."""
        if self._marks[-1][0] <= now < self._due:
            return False
        if now < self._marks[-1][0]:  # the clock was set back
            self._since = now
            self._marks.clear()
        self._marks.append((now, self.ended - self.reused))
        self._due = now + (OFTEN if live else min(max(OFTEN, (now - self._since) / _STRETCH), SELDOM))
        return True

    def text(self, waiting: Mapping[WaitReason, int]) -> str:
        """`posts: 1,234 of 50,000, 3 failed, 12.3/s, 12 wait: rate`."""
        name = "rows" if self.node == ROWS else self.node
        found = [f"{self.ended:,}" if self.total is None else f"{self.ended:,} of {self.total:,}"]
        numbers = (
            (self.failed, "failed"),
            (self.skipped, "skipped"),
            (self.retried, "retried"),
            (self.hedged, "sent twice"),
        )
        found += [f"{number:,} {word}" for number, word in numbers if number]
        first, last = self._marks[0], self._marks[-1]
        if last[0] > first[0] and last[1] > first[1]:
            found.append(rate((last[1] - first[1]) / (last[0] - first[0])))
        if waiting:
            counts = sorted(waiting.items(), key=lambda one: -one[1])
            words = [reason_word(reason) + (f" {count:,}" if len(counts) > 1 else "") for reason, count in counts]
            found.append(f"{sum(waiting.values()):,} wait: {', '.join(words)}")
        return f"{name}: {', '.join(found)}"
