"""A request that waits for admission, what it asks for, and who hears why it waits."""

from __future__ import annotations

import asyncio
import math
from typing import Protocol

from flowllm.core.records import dataclass
from flowllm.core.types import Priority, WaitReason
from flowllm.limits.prefix_cache import Lineup
from flowllm.limits.queue import AdmissionQueue
from flowllm.limits.rates import Hold


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
    lineup: Lineup | None = None
    """None: its prompt has no beginning that a server would keep."""
    ahead: bool = False
    """It goes before all others of its tenant."""


class Waiter:
    """A request in a queue."""

    __slots__ = ("_before", "admission", "future", "queue", "told")

    def __init__(self, admission: Admission, queue: AdmissionQueue[Waiter], now: float) -> None:
        self.admission = admission
        self.future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.told: WaitReason | None = None
        self.enter(queue, now)

    def enter(self, queue: AdmissionQueue[Waiter], now: float) -> None:
        """Wait in that queue from now on."""
        self.queue = queue
        self._before = dict(queue.held(now))

    @property
    def admitted(self) -> bool:
        """It has a slot."""
        future = self.future
        return future.done() and not future.cancelled() and not future.exception() and future.result()

    def tell(self, hold: Hold, wall: float) -> None:
        """What it waits for, where that has changed."""
        listener = self.admission.listener
        if listener is not None and hold.reason is not self.told:
            self.told = hold.reason
            listener.waiting(hold.reason, wall + hold.seconds if hold.seconds < math.inf else None)

    def count(self, now: float) -> None:
        """Tell the seconds that it waited in its queue."""
        if self.admission.listener is not None:
            for reason, total in self.queue.held(now).items():
                seconds = total - self._before.get(reason, 0.0)
                if seconds > 0:
                    self.admission.listener.waited(reason, seconds)
