"""A request that waits until another, whose prompt begins the same, has been answered: it holds nothing meanwhile."""

from __future__ import annotations

import asyncio

from flowllm.core.clock import Clock
from flowllm.core.tasks import start_task
from flowllm.core.types import WaitReason
from flowllm.limits.account_limiter import AccountLimiter
from flowllm.limits.prefix_cache import Lineup
from flowllm.limits.waiter import Admission


class Follower:
    """Was passed over in the queue; once released it asks for admission anew, before those that came in their turn."""

    def __init__(self, account: AccountLimiter, admission: Admission, lineup: Lineup, *, queue_s: float) -> None:
        self._account = account
        self._admission = admission
        self._lineup = lineup
        self.queue_s = queue_s
        """Seconds that it has waited for admission so far."""

    async def released(self, clock: Clock) -> None:
        """Wait until the leader is over, or for as long as that may take. Raises ProviderDown
        when the provider is given up meanwhile."""
        began = clock.monotonic()
        lineup, leader, listener = self._lineup, self._lineup.follows, self._admission.listener
        if leader is None:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def wake() -> None:
            if not future.done():
                future.set_result(None)

        async def lose_patience() -> None:
            await clock.sleep(seconds)
            wake()

        seconds = lineup.until - began
        if leader.woken > lineup.woken or seconds <= 0:  # since it was passed over
            wake()
        elif listener is not None:
            listener.waiting(WaitReason.PREFIX, clock.now() + seconds)
        leader.wakes[wake] = None
        self._account.followers[future] = self._admission.priority
        timer = start_task(lose_patience())
        try:
            await future
        finally:
            timer.cancel()
            leader.wakes.pop(wake, None)
            self._account.followers.pop(future, None)
            lineup.follows = None
            waited = clock.monotonic() - began
            self.queue_s += waited
            if listener is not None:
                listener.waited(WaitReason.PREFIX, waited)
