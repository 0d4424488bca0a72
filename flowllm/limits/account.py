"""One account of one provider: its limits, what was learned of it, and who waits for it.

The head of the queue goes when everything it needs is there; nobody behind it overtakes it for want of tokens or
rate, so a large request is not starved by small ones. Only a model whose own limits are used up is passed over.
What changes wakes the queue, and one timer stands for the next moment at which something can go; only a rate that
was learned, which grows by itself, is looked at again every REVIEW seconds.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from flowllm.errors import RequestRejected
from flowllm.limits.adaptive import AdaptiveRate, lower
from flowllm.limits.breaker import Breaker
from flowllm.limits.gates import MINUTE, Gates
from flowllm.limits.headers import read_quota
from flowllm.limits.queue import AdmissionQueue
from flowllm.tasks import start_task
from flowllm.types import DEFAULT_CONCURRENT, Limits, Priority

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowllm.clock import Clock

LONGEST_PAUSE = 3600.0
"""Seconds: no server can make an account wait longer than this at a time."""

REVIEW = 0.5
"""Seconds."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Departure:
    """A request on its way: when it went, and how many requests and tokens had gone by then, its own included."""

    at: float = 0.0
    number: int = 0
    tokens: float = 0.0


class Waiting:
    """One who waits."""

    __slots__ = ("admission", "future", "since")

    def __init__(self, admission: Admission, future: asyncio.Future[None], since: float) -> None:
        self.admission = admission
        self.future = future
        self.since = since


class Account:
    """Admission to one account."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.gates = Gates()
        self.models: dict[str, Gates] = {}
        self.breaker = Breaker()
        self.adaptive = AdaptiveRate()
        self.paused_until = -math.inf
        self.answered_once = False
        self.refused_in_a_row = 0
        """How often it did not let us in since the last answer."""
        self.troubled_since: float | None = None
        """Since when nothing succeeded although something was tried."""
        self.began: float | None = None
        self._told_rate: float | None = None
        """Requests a second, as the server's headers say."""
        self._arrivals = itertools.count(1)
        self._lanes: dict[str, AdmissionQueue[Waiting]] = {"": AdmissionQueue(self._arrivals)}
        self._timer: asyncio.Task[None] | None = None
        self._due = 0.0
        self._departed = Departure()

    # limits

    def set_limits(self, limits: Limits) -> None:
        """Take these limits from now on."""
        now = self._clock.monotonic()
        self.gates.limits = limits
        for model, own in limits.models.items():
            self.models.setdefault(model, Gates()).tune(own, _per_second(own), now)
            self._lanes.setdefault(model, AdmissionQueue(self._arrivals))
        self._retune(now)
        self.admit()

    def _retune(self, now: float) -> None:
        limits = self.gates.limits
        learned = self.adaptive.rate(now) if self.learns else None
        self.gates.tune(limits, lower(self._believed, learned), now)

    @property
    def _believed(self) -> float | None:
        """Requests a second that are written down, or told by the server's headers."""
        written = _per_second(self.gates.limits)
        return lower(written, self._told_rate) if self.learns else written

    @property
    def learns(self) -> bool:
        """Headers and 429s change the rate."""
        return self.gates.limits.adaptive is not False

    @property
    def most(self) -> int:
        """Slots, when all is well."""
        return self.gates.limits.max_concurrent or DEFAULT_CONCURRENT

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(len(lane) for lane in self._lanes.values())

    # admission

    async def acquire(self, admission: Admission) -> float:
        """Wait for admission; gives the seconds waited. Raises RequestRejected for what could never go."""
        if (error := self._too_large(admission)) is not None:
            raise error
        now = self._clock.monotonic()
        self.began = now if self.began is None else self.began
        lane = self._lanes[admission.model if admission.model in self.models else ""]
        if not self.waiting and self._wait(admission, now) == 0:
            self._take(admission, now)
            return 0.0
        waiting = Waiting(admission, asyncio.get_running_loop().create_future(), now)
        ticket = lane.push(waiting, admission.priority, tenant=admission.tenant, weight=admission.weight)
        self.admit()
        try:
            await waiting.future
        except asyncio.CancelledError:
            if waiting.future.done() and not waiting.future.cancelled() and not waiting.future.exception():
                self.give_back(admission, used=0.0, sent=False)
            else:
                lane.leave(ticket)
                self.admit()
            raise
        return self._clock.monotonic() - now

    def _too_large(self, admission: Admission) -> RequestRejected | None:
        for gates in self._scopes(admission):
            if gates.too_large(admission.tokens):
                return RequestRejected(
                    f"one request needs about {admission.tokens:.0f} tokens, more than the limit of "
                    f"{gates.limits.tokens_per_minute:.0f} tokens per minute",
                    hint="shorten the prompt, lower max_tokens, or raise limits.tokens_per_minute",
                )
        return None

    def _scopes(self, admission: Admission) -> list[Gates]:
        own = self.models.get(admission.model)
        return [self.gates] if own is None else [self.gates, own]

    def admit(self) -> None:
        """Let everyone go who can go now, and set the timer for the next."""
        now = self._clock.monotonic()
        if self._adapts:
            self._retune(now)
        while True:
            soonest, goes = math.inf, None
            for _, lane in sorted(self._heads(), key=lambda found: found[0]):
                head = lane.peek()
                if head is None:
                    continue
                wait = self._wait(head.admission, now)
                if wait == 0:
                    goes = lane
                    break
                soonest = min(soonest, wait)
                if self._model_wait(head.admission, now) == 0:
                    break  # held back by the account itself: nobody may overtake
            if goes is None:
                if soonest < math.inf:
                    self._wake_in(soonest)
                return
            head = goes.pop()
            self._take(head.admission, now)
            head.future.set_result(None)

    def _heads(self) -> list[tuple[tuple[int, int], AdmissionQueue[Waiting]]]:
        found = []
        for lane in self._lanes.values():
            head = lane.head()
            while head is not None and self._is_out(head[1]):
                lane.pop()
                head = lane.head()
            if head is not None:
                found.append((head[0], lane))
        return found

    def _is_out(self, waiting: Waiting) -> bool:
        """Cancelled, though its task has not run yet; or too large for limits that were lowered meanwhile."""
        if not waiting.future.done() and (error := self._too_large(waiting.admission)) is not None:
            waiting.future.set_exception(error)
        return waiting.future.done()

    def _wait(self, admission: Admission, now: float) -> float:
        """Seconds until this one may go; infinite while only a release can help."""
        if self.gates.full(self.breaker.width(self.most, now)):
            return self.breaker.wait(now) or math.inf
        wait = max(0.0, self.paused_until - now, self.gates.wait(admission.tokens, now))
        return max(wait, self._model_wait(admission, now))

    def _model_wait(self, admission: Admission, now: float) -> float:
        own = self.models.get(admission.model)
        if own is None:
            return 0.0
        return math.inf if own.full(own.limits.max_concurrent) else own.wait(admission.tokens, now)

    def _take(self, admission: Admission, now: float) -> None:
        for gates in self._scopes(admission):
            gates.take(admission.tokens, now)

    def give_back(self, admission: Admission, *, used: float, sent: bool) -> None:
        """A slot returns, and the tokens that were not used."""
        now = self._clock.monotonic()
        for gates in self._scopes(admission):
            gates.give_back(admission.tokens, used, now, sent=sent)
        self.admit()

    @property
    def _adapts(self) -> bool:
        return self.adaptive.learned and self.learns

    def _wake_in(self, seconds: float) -> None:
        seconds = min(seconds, REVIEW) if self._adapts else seconds
        due = self._clock.monotonic() + seconds
        if self._timer is not None:
            if self._due <= due:
                return
            self._timer.cancel()
        self._due = due
        self._timer = start_task(self._wake(seconds))

    async def _wake(self, seconds: float) -> None:
        await self._clock.sleep(seconds)
        self._timer = None
        self.admit()

    def stop_timer(self) -> None:
        """Nobody waits any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # the wire

    async def depart(self, admission: Admission) -> Departure:
        """Wait for the moment at which the request may really go out."""
        scopes = self._scopes(admission)
        while True:
            now = self._clock.monotonic()
            if self._adapts:
                self._retune(now)
            wait = max(self.paused_until - now, *(gates.wire.wait(now) for gates in scopes))
            if wait <= 0:
                break
            await self._clock.sleep(min(wait, REVIEW) if self._adapts else wait)
        for gates in scopes:
            gates.wire.take(now)
        self._departed = Departure(
            at=now, number=self._departed.number + 1, tokens=self._departed.tokens + admission.tokens
        )
        return self._departed

    # what was learned

    def answered(self, headers: Mapping[str, str], departure: Departure) -> None:
        """The server is alive and did its work, or said why it would not."""
        now = self._clock.monotonic()
        self.answered_once = True
        self.refused_in_a_row = 0
        self.troubled_since = None
        self.breaker.succeeded(now)
        self.adaptive.accepted(now)
        if headers and self.learns:
            self._read(headers, departure, now)

    def limited(self, retry_after: float | None, departure: Departure) -> None:
        """A 429: the account waits as long as it says, and the rate is cut."""
        now = self._clock.monotonic()
        self._in_trouble(now)
        if retry_after:
            self.pause(retry_after)
        if not self.learns:
            return
        if self.adaptive.refused(now, sent_at=departure.at, believed=self._believed):
            self._retune(now)

    def failed(self) -> None:
        """The provider is in trouble."""
        now = self._clock.monotonic()
        self._in_trouble(now)
        self.breaker.failed(now)

    def troubled_for(self) -> float:
        """Seconds since the first failure or 429 that no success has followed."""
        return 0.0 if self.troubled_since is None else self._clock.monotonic() - self.troubled_since

    def _in_trouble(self, now: float) -> None:
        self.troubled_since = now if self.troubled_since is None else self.troubled_since

    def pause(self, seconds: float) -> None:
        """Admit nothing for so long; clamped."""
        if seconds > 0:
            until = self._clock.monotonic() + min(seconds, LONGEST_PAUSE)
            self.paused_until = max(self.paused_until, until)

    def until(self, wait: float) -> str:
        """When `wait` seconds are over, for people."""
        moment = datetime.fromtimestamp(self._clock.now() + wait, UTC)
        return f"until {moment:%Y-%m-%d %H:%M:%S} UTC ({timedelta(seconds=math.ceil(wait))})"

    def give_up(self, error: Exception) -> None:
        """Everyone who waits hears that it is in vain. Those who come later may try again."""
        self.troubled_since = None
        self.refused_in_a_row = 0
        self.paused_until = -math.inf
        self.breaker = Breaker()
        for _, lane in self._heads():
            while (head := lane.peek()) is not None:
                lane.pop()
                if not head.future.done():
                    head.future.set_exception(error)

    def _read(self, headers: Mapping[str, str], departure: Departure, now: float) -> None:
        """Correct rate and levels by what the server says; it spoke of the time when the request arrived."""
        requests, tokens = read_quota(headers, "requests"), read_quota(headers, "tokens")
        if requests.rate is not None and requests.rate != self._told_rate:
            self._told_rate = requests.rate
            self._retune(now)
        elapsed = now - departure.at
        if requests.remaining is not None:
            refilled = elapsed * (self.gates.rate or 0.0)
            later = self._departed.number - departure.number
            self.gates.lower_requests(requests.remaining - later + refilled, now)
        bucket = self.gates.tokens
        if tokens.remaining is not None and bucket is not None and self.gates.limits.tokens_charged is None:
            later_tokens = self._departed.tokens - departure.tokens
            bucket.set(tokens.remaining - later_tokens + elapsed * bucket.rate, now)


def _per_second(limits: Limits) -> float | None:
    return None if limits.requests_per_minute is None else limits.requests_per_minute / MINUTE
