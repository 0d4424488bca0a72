"""How far the items of a foreach have come, and when that is worth a line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from flowllm.core.events import FanOutStarted, NodeEnded, RequestEnded
from flowllm.core.money import dollars
from flowllm.core.types import ROW, NodeId, NodeStatus, WaitReason
from flowllm.reporting.followed import ItemsRead, StepRead
from flowllm.reporting.rates import SlidingRate
from flowllm.reporting.text import rate, reason_word, time_left

ROWS: Final = NodeId(ROW)
"""The node whose items are the rows of `--over`."""
OFTEN: Final = 5.0
SELDOM: Final = 30.0
"""Seconds between two lines about a foreach: the longer it takes, the fewer."""
_FEW = 10
"""A foreach of so many items has a line for each item."""
_STRETCH = 20


class Tally:
    """How far many nodes of a kind have come, in a few numbers. Times are wall clock seconds."""

    __slots__ = ("_asks", "ended", "failed", "rate", "retried", "skipped", "total", "usd")

    def __init__(self, at: float, total: int | None = None) -> None:
        self.total = total
        self.ended = self.failed = self.skipped = self.retried = 0
        self.usd = 0.0
        """What their requests cost, as far as that is known."""
        self.rate = SlidingRate(at)
        """Of those that were carried out; those of the cache and of earlier attempts are none."""
        self._asks = False

    def asked(self, at: float) -> None:
        """A request of theirs goes out: with the first one begins what goes on at that rate, unless any was carried out before."""
        if not self._asks and self.rate.count <= self.failed:
            self.rate = SlidingRate(at)
        self._asks = True

    def count(self, event: NodeEnded) -> None:
        """One of them ended."""
        self.ended += 1
        self.failed += event.status is NodeStatus.FAILED
        self.skipped += event.status in {NodeStatus.SKIPPED, NodeStatus.BLOCKED}
        if not (event.reused or event.cached):
            self.rate.add(event.at)

    def until(self, total: int, ended: int, now: float) -> float | None:
        """Seconds until so many have ended; None where that cannot be told: by those that failed at once it cannot."""
        if ended >= total:
            return 0.0
        speed = self.rate.per_second(now)
        return (total - ended) / speed if speed and self.ended > self.failed else None

    def read(self, event: ItemsRead | StepRead) -> None:
        """So far they have come, as the record of the run says."""
        if not self.ended:  # all before the watching counts for nothing
            self.rate = SlidingRate(event.at)
        self.ended, self.failed, self.skipped = event.ended, event.failed, event.skipped
        self.rate.add(event.at, event.worked)


class ForeachProgress(Tally):
    """The items of one foreach."""

    __slots__ = ("_due", "_looked", "_since", "hedged", "node", "shown", "told")

    def __init__(self, event: FanOutStarted) -> None:
        super().__init__(event.at, event.total)
        self.node = event.node_id
        self.hedged = 0
        self.shown = 0
        """Errors of its items that had lines."""
        self.told = -1
        """How many had ended when it had one."""
        self._since = self._looked = event.at
        self._due = event.at + OFTEN

    @property
    def few(self) -> bool:
        """So few items that each may have a line."""
        return self.total is not None and self.total <= _FEW and self.node != ROWS

    def paid(self, event: RequestEnded) -> None:
        """A request of one of them ended."""
        self.usd += event.cost_usd or 0.0

    def due(self, now: float) -> bool:
        """Whether it is time for another line; if so, it counts as written."""
        if self._looked <= now < self._due:
            return False
        if now < self._looked:  # the clock was set back
            self._since = now
        self._looked = now
        self._due = now + min(max(OFTEN, (now - self._since) / _STRETCH), SELDOM)
        return True

    def left_s(self, now: float) -> float | None:
        """Seconds until it is over if it goes on as in the last half minute; None where that cannot be told."""
        return None if self.total is None else self.until(self.total, self.ended, now)

    def text(self, now: float, waiting: Mapping[WaitReason, int]) -> str:
        """`posts: 1,234 of 50,000 (2%), 3 failed, 12.3/s, ETA 1h 06m, $0.42, 12 wait: rate`."""
        name = "rows" if self.node == ROWS else self.node
        found = [
            f"{self.ended:,}{'' if self.total is None else f' of {self.total:,} ({percent(self.ended, self.total)})'}"
        ]
        numbers = (
            (self.failed, "failed"),
            (self.skipped, "skipped"),
            (self.retried, "retried"),
            (self.hedged, "sent twice"),
        )
        found += [f"{number:,} {word}" for number, word in numbers if number]
        if speed := self.rate.per_second(now):
            found.append(rate(speed))
        if left := self.left_s(now):
            found.append(f"ETA {time_left(left)}")
        if self.usd:
            found.append(dollars(self.usd))
        if waiting:
            found.append(waiting_text(waiting))
        return f"{name}: {', '.join(found)}"


def percent(part: int, whole: int) -> str:
    """`2%`, never 100% before the end."""
    return f"{100 * part // whole if whole else 100}%"


def waiting_text(waiting: Mapping[WaitReason, int]) -> str:
    """`12 wait: rate 10, slot 2`."""
    counts = sorted(waiting.items(), key=lambda one: -one[1])
    words = [reason_word(reason) + (f" {count:,}" if len(counts) > 1 else "") for reason, count in counts]
    return f"{sum(waiting.values()):,} wait: {', '.join(words)}"
