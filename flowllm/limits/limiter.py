"""The one limiter: every request of every run in the process is admitted here, or waits here.

Each account has one queue. Its head goes when a slot, a request and the tokens it reserves are there;
nobody behind the head overtakes it, so a large request is not starved by small ones. Nothing polls: a
release wakes the queue, and one timer an account stands for the next moment at which the head can go.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from flowllm.errors import RequestRejected
from flowllm.limits.bucket import Bucket
from flowllm.limits.queue import AdmissionQueue
from flowllm.types import Limits, Priority

if TYPE_CHECKING:
    from collections.abc import Hashable

    from flowllm.clock import Clock

LONGEST_PAUSE = 3600.0
"""Seconds: no server can make an account wait longer than this at a time."""


class Permit:
    """One admitted request. It holds a slot until `release`."""

    __slots__ = ("_account", "_held", "queue_s", "tokens")

    def __init__(self, account: _Account, tokens: float, queue_s: float) -> None:
        self._account = account
        self._held = True
        self.tokens = tokens
        self.queue_s = queue_s

    async def clear(self) -> None:
        """Wait out a pause that began after the permit was given: nothing is sent during one."""
        await self._account.clear()

    def release(self, *, used: float | None = None) -> None:
        """Give the slot back, once; `used` tokens (None: as many as were reserved) stay charged."""
        if self._held:
            self._held = False
            self._account.give_back(self.tokens, self.tokens if used is None else used)


class _Waiting:
    __slots__ = ("future", "since", "tokens")

    def __init__(self, future: asyncio.Future[Permit], tokens: float, since: float) -> None:
        self.future = future
        self.tokens = tokens
        self.since = since


class _Account:
    """The limits of one account, and who waits for them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.limits = Limits()
        self.in_flight = 0
        self.queue: AdmissionQueue[_Waiting] = AdmissionQueue()
        self.requests: Bucket | None = None
        self.tokens: Bucket | None = None
        self.paused_until = 0.0
        self._timer: asyncio.Task[None] | None = None
        self._due = 0.0

    def set_limits(self, limits: Limits) -> None:
        now = self._clock.monotonic()
        self.limits = limits
        if limits.requests_per_minute is not None:
            rate = limits.requests_per_minute / 60
            burst = float(limits.burst) if limits.burst is not None else max(1.0, rate)
            self.requests = _resized(self.requests, rate, burst, now)
        if limits.tokens_per_minute is not None:
            rate = limits.tokens_per_minute / 60
            self.tokens = _resized(self.tokens, rate, limits.tokens_per_minute, now)
        self.admit()

    async def acquire(self, priority: Priority, tokens: float) -> Permit:
        if self.tokens is not None and tokens > self.tokens.capacity:
            raise RequestRejected(
                f"one request needs about {tokens:.0f} tokens, more than the limit of "
                f"{self.tokens.capacity:.0f} tokens per minute",
                hint="shorten the prompt, lower max_tokens, or raise limits.tokens_per_minute",
            )
        waiting = _Waiting(asyncio.get_running_loop().create_future(), tokens, self._clock.monotonic())
        ticket = self.queue.push(waiting, priority)
        self.admit()
        try:
            return await waiting.future
        except asyncio.CancelledError:
            if waiting.future.done() and not waiting.future.cancelled():
                waiting.future.result().release(used=0)
            else:
                self.queue.leave(ticket)
                self.admit()
            raise

    def admit(self) -> None:
        """Let everyone go who can go now, and set the timer for the next."""
        now = self._clock.monotonic()
        while (head := self.queue.peek()) is not None:
            if head.future.done():  # cancelled, and its task has not run yet
                self.queue.pop()
                continue
            if self.in_flight >= self.limits.max_concurrent:
                return
            wait = self._wait(head, now)
            if wait > 0:
                self._wake_in(wait)
                return
            self.queue.pop()
            self._take(head, now)

    def _take(self, head: _Waiting, now: float) -> None:
        self.in_flight += 1
        if self.requests is not None:
            self.requests.take(1, now)
        if self.tokens is not None:
            self.tokens.take(head.tokens, now)
        head.future.set_result(Permit(self, head.tokens, now - head.since))

    def _wait(self, head: _Waiting, now: float) -> float:
        wait = max(0.0, self.paused_until - now)
        if self.requests is not None:
            wait = max(wait, self.requests.wait(1, now))
        if self.tokens is not None:
            wait = max(wait, self.tokens.wait(head.tokens, now))
        return wait

    def _wake_in(self, seconds: float) -> None:
        due = self._clock.monotonic() + seconds
        if self._timer is not None:
            if self._due <= due:
                return
            self._timer.cancel()
        self._due = due
        self._timer = asyncio.get_running_loop().create_task(self._wake(seconds))

    async def _wake(self, seconds: float) -> None:
        await self._clock.sleep(seconds)
        self._timer = None
        self.admit()

    def give_back(self, reserved: float, used: float) -> None:
        self.in_flight -= 1
        if self.tokens is not None:
            self.tokens.give(reserved - used, self._clock.monotonic())
        self.admit()

    def pause(self, seconds: float) -> None:
        until = self._clock.monotonic() + min(max(0.0, seconds), LONGEST_PAUSE)
        self.paused_until = max(self.paused_until, until)

    async def clear(self) -> None:
        while (left := self.paused_until - self._clock.monotonic()) > 0:
            await self._clock.sleep(left)

    def stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _resized(bucket: Bucket | None, rate: float, capacity: float, now: float) -> Bucket:
    if bucket is None:
        return Bucket(rate=rate, capacity=capacity, now=now)
    if (bucket.rate, bucket.capacity) == (rate, capacity):
        return bucket
    fresh = Bucket(rate=rate, capacity=capacity, now=now)
    fresh.take(max(0.0, capacity - min(capacity, bucket.level(now))), now)
    return fresh


def tightest(one: Limits, other: Limits) -> Limits:
    """Of two workflows that disagree on an account, the smaller number holds, one by one."""

    def smaller(a: float | None, b: float | None) -> float | None:
        return min((x for x in (a, b) if x is not None), default=None)

    burst = smaller(one.burst, other.burst)
    return Limits(
        max_concurrent=min(one.max_concurrent, other.max_concurrent),
        requests_per_minute=smaller(one.requests_per_minute, other.requests_per_minute),
        tokens_per_minute=smaller(one.tokens_per_minute, other.tokens_per_minute),
        burst=None if burst is None else int(burst),
    )


class Limiter:
    """Admission for all accounts of the process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._accounts: dict[Hashable, _Account] = {}
        self._claims: dict[Hashable, dict[object, Limits]] = {}

    def configure(self, account: Hashable, limits: Limits, *, holder: object) -> None:
        """Say what `holder` (a run) allows on that account; it holds until `withdraw`."""
        self._claims.setdefault(account, {})[holder] = limits
        self._apply(account)

    def withdraw(self, holder: object) -> None:
        """That run is over: its limits no longer count."""
        for account, claims in self._claims.items():
            if claims.pop(holder, None) is not None and claims:
                self._apply(account)

    def _apply(self, account: Hashable) -> None:
        claims = iter(self._claims[account].values())
        limits = next(claims)
        for other in claims:
            limits = tightest(limits, other)
        self._account(account).set_limits(limits)

    async def acquire(
        self, account: Hashable, *, priority: Priority = Priority.NORMAL, tokens: float = 0
    ) -> Permit:
        """Wait until a request that reserves that many tokens may be sent; the permit must be released.

        Raises RequestRejected for one that is larger than a whole minute's limit: it could never go.
        """
        return await self._account(account).acquire(priority, tokens)

    def pause(self, account: Hashable, seconds: float) -> None:
        """The server said to wait: nothing of that account is admitted for so long (clamped to an hour)."""
        self._account(account).pause(seconds)

    def _account(self, account: Hashable) -> _Account:
        if account not in self._accounts:
            self._accounts[account] = _Account(self._clock)
        return self._accounts[account]

    def close(self) -> None:
        """Stop the timers."""
        for account in self._accounts.values():
            account.stop_timer()
