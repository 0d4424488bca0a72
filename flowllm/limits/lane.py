"""Who waits for admission to an account, for what, and how long it has been for which reason.

All in a lane wait for what its head waits for. So a lane keeps the seconds of each reason, and a request that waits only
notes where they stood when it came: a change of reason costs the same with one and with ten thousand waiting.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from flowllm.core.types import Priority, WaitReason
from flowllm.limits.queue import AdmissionQueue
from flowllm.limits.scope import Hold


class WaitListener(Protocol):
    """Hears why a request waits, and how long it did."""

    def waiting(self, reason: WaitReason, until: float | None) -> None:
        """It waits for that reason from now on, until about then (wall clock), if that is known."""
        ...

    def waited(self, reason: WaitReason, seconds: float) -> None:
        """It has waited so many seconds for that reason."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """What a request asks for."""

    priority: Priority = Priority.NORMAL
    tokens: float = 0.0
    """To reserve: the prompt's estimate, and what the answer may take."""
    model: str = ""
    tenant: str = ""
    weight: float = 1.0
    """Of the tenant."""
    listener: WaitListener | None = None


class Lane(AdmissionQueue["Waiter"]):
    """A queue in which all wait for what its head waits for, with the seconds that it was held by each reason."""

    def __init__(self, arrivals: Iterator[int]) -> None:
        super().__init__(arrivals)
        self.hold: Hold | None = None
        self._since = 0.0
        self._held: dict[WaitReason, float] = {}

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


class Waiter:
    """A request in a lane."""

    __slots__ = ("_before", "admission", "future", "lane", "told")

    def __init__(self, admission: Admission, lane: Lane, now: float) -> None:
        self.admission = admission
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.told: WaitReason | None = None
        self.enter(lane, now)

    def enter(self, lane: Lane, now: float) -> None:
        """Wait in that lane from now on."""
        self.lane = lane
        self._before = dict(lane.held(now))

    def tell(self, hold: Hold, wall: float) -> None:
        """What it waits for, where that has changed."""
        listener = self.admission.listener
        if listener is not None and hold.reason is not self.told:
            self.told = hold.reason
            listener.waiting(hold.reason, wall + hold.seconds if hold.seconds < math.inf else None)

    def count(self, now: float) -> None:
        """Tell the seconds that it waited in its lane."""
        if self.admission.listener is not None:
            for reason, total in self.lane.held(now).items():
                seconds = total - self._before.get(reason, 0.0)
                if seconds > 0:
                    self.admission.listener.waited(reason, seconds)
