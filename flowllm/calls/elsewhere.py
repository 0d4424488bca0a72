"""Requests that other processes have on their way: whoever wants the same waits here, for one look at all of them together."""

from __future__ import annotations

import asyncio
import math
from typing import Final

from flowllm.core.clock import Clock
from flowllm.core.errors import StoreError
from flowllm.core.tasks import start_task
from flowllm.storage.base import Store

SOONEST: Final = 0.05
SLOWEST: Final = 0.5
"""Seconds between looks: when somebody has just begun to wait, and later."""
SLOWER: Final = 1.3
"""By so much each pause is longer than the one before."""


class SentElsewhere(Exception):
    """A request was not begun: another process has an equal one on its way, or was answered."""


class _Waiter:
    """One call that waits."""

    __slots__ = ("attempt", "future", "patience", "until")

    def __init__(self, patience: float) -> None:
        self.future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.patience = patience
        """Seconds that it waits for one request."""
        self.attempt = ""
        """The request that it waits for,"""
        self.until = math.inf
        """and up to when, monotonic seconds."""


class OtherProcesses:
    """All that wait for requests of other processes."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self.store = store
        self._clock = clock
        self._waiting: dict[str, list[_Waiter]] = {}
        self._pause = SOONEST
        self._task: asyncio.Task[None] | None = None

    async def ended(self, key: str, *, patience: float) -> bool:
        """Wait until no other living process has a request of that key on its way; False if one is for longer than that many
        seconds. Raises StoreError."""
        waiter = _Waiter(patience)
        self._waiting.setdefault(key, []).append(waiter)
        self._pause = SOONEST
        if self._task is None:
            self._task = start_task(self._look())
        try:
            return await waiter.future
        finally:
            self._leave(key, waiter)

    def _leave(self, key: str, waiter: _Waiter) -> None:
        waiters = self._waiting.get(key, [])
        if waiter in waiters:
            waiters.remove(waiter)
        if not waiters:
            self._waiting.pop(key, None)
        if not self._waiting and self._task is not None:
            self._task.cancel()
            self._task = None

    async def _look(self) -> None:
        while self._waiting:
            await self._clock.sleep(self._pause)
            self._pause = min(SLOWEST, self._pause * SLOWER)
            keys = list(self._waiting)
            try:
                sent = await self.store.sent_elsewhere(keys)
            except StoreError as error:
                self._fail(error)
                return
            for key in keys:
                for waiter in self._waiting.get(key, ()):
                    self._tell(waiter, sent.get(key))

    def _tell(self, waiter: _Waiter, attempt: str | None) -> None:
        now = self._clock.monotonic()
        if attempt is not None and attempt != waiter.attempt:
            waiter.attempt, waiter.until = attempt, now + waiter.patience
        if not waiter.future.done() and (attempt is None or now >= waiter.until):
            waiter.future.set_result(attempt is None)

    def _fail(self, error: StoreError) -> None:
        self._task = None
        for waiter in [waiter for waiters in self._waiting.values() for waiter in waiters]:
            if not waiter.future.done():
                waiter.future.set_exception(type(error)(error.message, hint=error.hint))
