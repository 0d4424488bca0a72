"""What the live model counts of one step."""

from __future__ import annotations

from typing import Final

from flowllm.core.events import NodeEnded
from flowllm.core.types import NODE_TERMINAL, NodeStatus
from flowllm.reporting.foreach_progress import Tally
from flowllm.reporting.live_snapshot import CACHED, REUSED
from flowllm.reporting.rates import SlidingRate
from flowllm.reporting.text import error_text

DIFFER: Final = -1
"""In place of a size: they are not all of one."""


class LiveStep(Tally):
    """What is counted of one step; of one that is no foreach, and not within one, as if it were its only item."""

    __slots__ = (
        *("name", "depth", "needs", "status", "source", "note", "many", "opened", "items", "size"),
        *("in_flight", "tokens", "began", "finished"),
    )

    def __init__(self, name: str, depth: int, needs: tuple[str, ...], *, many: bool, at: float) -> None:
        super().__init__(at)
        self.name, self.depth, self.needs, self.many = name, depth, needs, many
        self.status, self.source, self.note = NodeStatus.PENDING, "", ""
        self.opened = self.items = 0
        """Of a foreach within items: in how many of them it began, and how many items it has there,"""
        self.size: int | None = None
        """in each of them; DIFFER: not as many."""
        self.in_flight = self.tokens = 0
        self.began: float | None = None
        self.finished: float | None = None

    def begin(self, at: float) -> None:
        """It, or the first node that it becomes, has its inputs."""
        if self.began is None:
            self.began, self.rate = at, SlidingRate(at)
        if self.status not in NODE_TERMINAL:
            self.status = NodeStatus.RUNNING

    def sized(self, items: int) -> None:
        """It has so many items within one more."""
        self.items += items
        self.size = items if self.size in {None, items} else DIFFER

    def end(self, event: NodeEnded) -> None:
        """It is over as a whole."""
        self.status, self.finished = event.status, event.at
        self.source = REUSED if event.reused else CACHED if event.cached else ""
        self.note = error_text(event.error) if event.error else event.reason
        self.tokens = max(self.tokens, event.usage.at_least)
        self.usd = max(self.usd, event.cost_usd or 0.0)
        counts = event.counts
        if counts is not None:
            self.many = True
            self.total = self.ended = counts["total"]
            self.failed, self.skipped = counts.get("failed", 0), counts.get("skipped", 0)
