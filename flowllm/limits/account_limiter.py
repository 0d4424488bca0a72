"""One account of one provider: its limits, what was learned of it, and who waits for it.

The head of the queue goes when everything it needs is there; nobody behind it overtakes it for want of tokens or
rate, so a large request is not starved by small ones. Only a model whose own limits are used up is passed over, and
what is learned is a model's own (`adaptive.py`). What changes wakes the queue, and one timer stands for the next moment at which something can go; only a rate that
was learned, which grows by itself, is looked at again every REVIEW seconds.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

from flowllm.core.clock import Clock
from flowllm.core.errors import RequestRejected
from flowllm.core.retry_after import LONGEST_PAUSE
from flowllm.core.tasks import start_task
from flowllm.core.types import Limits, Priority, WaitReason
from flowllm.limits.adaptive import Departure, ModelLimits, per_second
from flowllm.limits.breaker import Breaker
from flowllm.limits.concurrency import FIRST, UNHEARD
from flowllm.limits.prefix_cache import Lineup
from flowllm.limits.queue import AdmissionQueue
from flowllm.limits.quota_headers import read_quotas
from flowllm.limits.rates import Hold, LastMinute, longer
from flowllm.limits.scope import LimitScope
from flowllm.limits.waiter import Admission, Waiter

REVIEW = 0.5  # seconds
TOKENS_OF_ONE = 1000
"""So many weigh as much as a request does where tokens are not limited."""


class AccountLimiter:
    """Admission to one account."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.scope = LimitScope()
        self.models: dict[str, ModelLimits] = {}
        """Those that were asked, or have limits of their own."""
        self.breaker = Breaker()
        self.answered_once = False
        self.refused_in_a_row = 0
        """How often it did not let us in since the last answer."""
        self.troubled_since: float | None = None
        """Since when nothing succeeded although something was tried."""
        self.began: float | None = None
        self.sent, self.used, self.refused = LastMinute(), LastMinute(), LastMinute()
        """Requests that went out, tokens of answers, and 429s."""
        self._arrivals = itertools.count(1)
        self.queues: dict[str, AdmissionQueue[Waiter]] = {"": AdmissionQueue(self._arrivals)}
        self.departing: Counter[tuple[WaitReason, Priority]] = Counter()
        """Admitted requests that wait for the moment at which they may go out."""
        self.followers: dict[asyncio.Future[None], Priority] = {}
        """Requests that wait for those that lead (`follower.py`)."""
        self.found: Callable[[ModelLimits], None] | None = None
        """Hears of a model that was not asked before; of an account that other processes use too (`sharing.py`)."""
        self.released: Callable[[str], None] | None = None
        """Hears of the model of which a slot was given back."""
        self._timer: asyncio.Task[None] | None = None
        self._due = 0.0

    # limits

    def set_limits(self, limits: Limits) -> None:
        """Take these limits from now on."""
        now = self._clock.monotonic()
        self.scope.tune(limits, per_second(limits), now)
        for name in dict.fromkeys([*self.models, *limits.models]):
            model = self.model(name)
            model.tune(limits.models.get(name, Limits()), limits, now)
            self._give_own_queue(model)
        self.admit()

    def model(self, name: str) -> ModelLimits:
        """What is known of that model."""
        found = self.models.get(name)
        if found is None:
            now = self._clock.monotonic()
            found = self.models[name] = ModelLimits(name)
            found.tune(Limits(), self.scope.limits, now)
            if self.found is not None:
                self.found(found)
            for model in self.models.values():
                self._give_own_queue(model)
        return found

    def _give_own_queue(self, model: ModelLimits) -> None:
        """Give it a queue of its own once it may have to wait by itself, so that nobody waits behind it."""
        name = model.departed.model
        apart = model.particular or (len(self.models) > 1 and self.scope.limits.max_concurrent is None)
        if name in self.queues or not apart:
            return
        now = self._clock.monotonic()
        shared, own = self.queues[""], AdmissionQueue[Waiter](self._arrivals)
        self.queues[name] = own
        own.hold_back(shared.hold, now)
        for ticket, waiter in shared:
            asked = waiter.admission
            if asked.model == name:
                shared.leave(ticket)
                waiter.count(now)
                waiter.enter(own, now)
                self._join(own, waiter, ticket)

    @property
    def learns(self) -> bool:
        """Headers and 429s change the rate."""
        return self.scope.limits.adaptive is not False

    @property
    def most(self) -> int:
        """Slots, when all is well: as they are written, or of all models together."""
        limits, now = self.scope.limits, self._clock.monotonic()
        if limits.max_concurrent is not None:
            return limits.max_concurrent
        slots = sum(model.slots(now) or 0 for model in self.models.values()) or FIRST
        return min(slots, limits.ceiling or slots)

    @property
    def soon(self) -> int:
        """Slots that there may be before anything more is answered."""
        heard = self.models and all(model.heard for model in self.models.values())
        return self.most if heard or self.scope.limits.max_concurrent is not None else max(self.most, UNHEARD)

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(len(queue) for queue in self.queues.values()) + len(self.followers)

    def waits(self) -> Counter[tuple[WaitReason, Priority]]:
        """How many wait for which reason at which priority, those too that were admitted and may not go out yet."""
        found = Counter(self.departing)
        found.update((WaitReason.PREFIX, priority) for priority in self.followers.values())
        for queue in self.queues.values():
            if queue.hold is not None:
                found.update({(queue.hold.reason, priority): count for priority, count in queue.priorities().items()})
        return +found

    def at_rest(self, now: float, *, idle_s: float) -> bool:
        """Nothing goes on that a new one would not know, after so many seconds of no use by any run."""
        busy = self.scope.in_flight or self.waiting or any(model.paused(now) for model in self.models.values())
        scopes = (self.scope, *(model.scope for model in self.models.values()))
        return not busy and all(window.per <= idle_s for scope in scopes for window in scope.limits.windows)

    # admission

    async def acquire(self, admission: Admission) -> float:
        """Wait for admission, or until it is to follow another request (`Lineup.follows`); gives the seconds waited. Raises
        RequestRejected for what could never go."""
        if (error := self._too_large(admission)) is not None:
            raise error
        now = self._clock.monotonic()
        self.began = now if self.began is None else self.began
        self.model(admission.model)
        if not self.waiting and self._hold(admission, now) is None and not self._follows(admission, now):
            self._take(admission, now)
            return 0.0
        queue = self.queues.get(admission.model, self.queues[""])
        waiter = Waiter(admission, queue, now)
        ticket = self._join(queue, waiter)
        self.admit()
        if queue.hold is not None and not waiter.future.done():
            waiter.tell(queue.hold, self._clock.now())
        model = self.model(admission.model)
        model.wait(admission.tokens)
        try:
            await waiter.future
        except asyncio.CancelledError:
            if waiter.admitted:
                self.give_back(admission, used=0.0, sent=False)
            else:
                waiter.queue.leave(ticket)
                self.admit()
            raise
        finally:
            model.waiting -= 1
            waiter.count(self._clock.monotonic())
        return self._clock.monotonic() - now

    def _join(self, queue: AdmissionQueue[Waiter], waiter: Waiter, ticket: int | None = None) -> int:
        """Tenants share tokens where these are limited, else requests."""
        asked = waiter.admission
        limited = any(scope.tokens is not None for scope in self._scopes(asked))
        cost = asked.tokens / TOKENS_OF_ONE if limited else 1.0
        first = asked.ahead or (asked.lineup is not None and asked.lineup.deadline is not None)
        return queue.push(
            waiter, asked.priority, tenant=asked.tenant, weight=asked.weight, cost=cost, ticket=ticket, first=first
        )

    def _too_large(self, admission: Admission) -> RequestRejected | None:
        for scope in self._scopes(admission):
            if scope.too_large(admission.tokens):
                return RequestRejected(
                    f"one request needs about {admission.tokens:,.0f} tokens, more than the limit of "
                    f"{scope.limits.tokens_per_minute:,.0f} tokens per minute",
                    hint="shorten the prompt, lower max_tokens, or raise limits.tokens_per_minute",
                )
        return None

    def _scopes(self, admission: Admission) -> tuple[LimitScope, LimitScope]:
        return self.scope, self.model(admission.model).scope

    def admit(self) -> None:
        """Let everyone go who can go now, and set the timer for the next."""
        now = self._clock.monotonic()
        self._retune(now)
        while (found := self._next(now)) is not None:
            queue, head = found
            follows = self._follows(head.admission, now)
            if follows:
                queue.pass_over()
            else:
                queue.pop()
                self._take(head.admission, now)
            head.future.set_result(not follows)

    def _next(self, now: float) -> tuple[AdmissionQueue[Waiter], Waiter] | None:
        """The queue whose head may go now, and that head. None: each queue knows what holds it back, and the timer is set."""
        soonest, by_account = math.inf, None
        for _, queue in sorted(self._heads(), key=lambda found: found[0]):
            head = queue.peek()
            if head is None:
                continue
            hold = by_account or self._hold(head.admission, now)
            if hold is None:
                return queue, head
            queue.hold_back(hold, now)
            if hold.reason is not head.told:
                head.tell(hold, self._clock.now())
            soonest = min(soonest, hold.seconds)
            if self.model(head.admission.model).hold(head.admission.tokens, now) is None:
                by_account = hold  # nobody may overtake
        if soonest < math.inf:
            self._wake_in(soonest)
        return None

    def _heads(self) -> list[tuple[tuple[int, int], AdmissionQueue[Waiter]]]:
        found = []
        for queue in self.queues.values():
            head = queue.head()
            while head is not None and self._is_out(head[1]):
                queue.pop()
                head = queue.head()
            if head is not None:
                found.append((head[0], queue))
            elif queue.hold is not None:
                queue.hold_back(None, self._clock.monotonic())
        return found

    def _is_out(self, waiter: Waiter) -> bool:
        """Cancelled, though its task has not run yet; or too large for limits that were lowered meanwhile."""
        if not waiter.future.done() and (error := self._too_large(waiter.admission)) is not None:
            waiter.future.set_exception(error)
        return waiter.future.done()

    def _hold(self, admission: Admission, now: float) -> Hold | None:
        """What keeps this one from being admitted now."""
        limits = self.scope.limits
        if self.breaker.narrows:
            most = self.most
            width = self.breaker.width(most, now)
            if width < most and self.scope.full(width, now):
                return Hold(WaitReason.BREAKER, self.breaker.wait(now) or math.inf)
        if self.scope.full(limits.max_concurrent or limits.ceiling, now):
            return Hold(WaitReason.SLOT, math.inf)
        return longer(self.scope.hold(admission.tokens, now), self.model(admission.model).hold(admission.tokens, now))

    def _take(self, admission: Admission, now: float) -> None:
        for scope in self._scopes(admission):
            scope.take(admission.tokens, now)
        if admission.lineup is not None:
            self.model(admission.model).prefixes.begin(admission.lineup, now)

    def give_back(self, admission: Admission, *, used: float, sent: bool) -> None:
        """A slot returns, and the tokens that were not used."""
        now = self._clock.monotonic()
        for scope in self._scopes(admission):
            scope.give_back(admission.tokens, used, now, sent=sent)
        if admission.lineup is not None:
            self.model(admission.model).prefixes.over(admission.lineup)
        if self.released is not None:
            self.released(admission.model)
        self.admit()

    def _follows(self, admission: Admission, now: float) -> bool:
        """Whether it rather waits for one whose prompt begins the same (`follower.py`) than to go now."""
        if admission.lineup is None:
            return False
        prefixes = self.model(admission.model).prefixes
        crowded = prefixes.undecided and 2 * self.waiting >= self.most
        return prefixes.follow(admission.lineup, now, crowded=crowded)

    @property
    def _adapts(self) -> bool:
        """A rate that was learned grows by itself."""
        return self.learns and any(model.adaptive.learned for model in self.models.values())

    def _retune(self, now: float) -> None:
        if self.learns:
            for model in self.models.values():
                if model.adaptive.learned:
                    model.retune(self.scope.limits, now)

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

    def _wire_hold(self, model: ModelLimits, now: float) -> Hold | None:
        return longer(model.paused(now), longer(self.scope.wire_hold(now), model.scope.wire_hold(now)))

    async def depart(self, admission: Admission) -> Departure:
        """Wait for the moment at which the request may really go out."""
        model = self.model(admission.model)
        scopes, listener, told = (self.scope, model.scope), admission.listener, None
        now = self._clock.monotonic()
        self._retune(now)
        while (hold := self._wire_hold(model, now)) is not None:
            if listener is not None and hold.reason is not told:
                listener.waiting(hold.reason, self._clock.now() + hold.seconds)
                told = hold.reason
            self.departing[hold.reason, admission.priority] += 1
            model.wait(admission.tokens)
            try:
                await self._clock.sleep(min(hold.seconds, REVIEW) if self._adapts else hold.seconds)
            finally:
                self.departing[hold.reason, admission.priority] -= 1
                model.waiting -= 1
                before, now = now, self._clock.monotonic()
                if listener is not None:
                    listener.waited(hold.reason, now - before)
            self._retune(now)
        for scope in scopes:
            scope.wire.take(now)
        self.sent.add(1, now)
        return model.depart(admission.tokens, now)

    # what was learned

    def remember(self, name: str, traits: Mapping[str, float]) -> None:
        """What earlier runs learned of a model."""
        model = self.model(name)
        model.remember(traits, self.scope.limits, self._clock.monotonic())
        self._give_own_queue(model)

    def answered(
        self, headers: Mapping[str, str], departure: Departure, *, tokens: int | None = None, used: float = 0.0
    ) -> None:
        """The server is alive and did its work, with so many output tokens and so many in all, or said why it would not."""
        now = self._clock.monotonic()
        self.used.add(int(used), now)
        self.answered_once = True
        self.refused_in_a_row = 0
        self.troubled_since = None
        self.breaker.succeeded(now)
        self.model(departure.model).answered(departure, now, tokens)
        if headers and self.learns:
            self._read(headers, departure, now)

    def cached(self, lineup: Lineup, departure: Departure, tokens: int | None) -> None:
        """So many tokens of an answer's prompt were read from the server's cache; None: it does not say."""
        now = self._clock.monotonic()
        self.model(departure.model).prefixes.answered(lineup, tokens, now - departure.at, now)

    def limited(self, retry_after: float | None, departure: Departure) -> None:
        """A 429: the model waits as long as it says, and its rate is cut; half of its slots go where it had no rate."""
        now = self._clock.monotonic()
        model = self.model(departure.model)
        self.refused.add(1, now)
        self._in_trouble(now)
        if retry_after and retry_after > 0:
            model.paused_until = max(model.paused_until, now + min(retry_after, LONGEST_PAUSE))
        if self.learns:
            model.refused(departure, self.scope.limits, now)
        self._give_own_queue(model)

    def failed(self, departure: Departure, *, timed_out: bool = False) -> None:
        """The provider is in trouble; one that does not answer in time may have too much to do."""
        now, model = self._clock.monotonic(), self.model(departure.model)
        if timed_out:
            model.dropped(departure, now)
        model.concurrency.hear(now)
        self._in_trouble(now)
        self.breaker.failed(now)

    def troubled_for(self) -> float:
        """Seconds since the first failure or 429 that no success has followed."""
        return 0.0 if self.troubled_since is None else self._clock.monotonic() - self.troubled_since

    def _in_trouble(self, now: float) -> None:
        self.troubled_since = now if self.troubled_since is None else self.troubled_since

    def until(self, wait: float) -> str:
        """When `wait` seconds are over, for people."""
        moment = datetime.fromtimestamp(self._clock.now() + wait, UTC)
        return f"until {moment:%Y-%m-%d %H:%M:%S} UTC ({timedelta(seconds=math.ceil(wait))})"

    def give_up(self, error: Exception) -> None:
        """Everyone who waits hears that it is in vain. Those who come later may try again."""
        self.troubled_since = None
        self.refused_in_a_row = 0
        self.breaker = Breaker()
        for model in self.models.values():
            model.paused_until = -math.inf
        for follower in self.followers:
            if not follower.done():
                follower.set_exception(error)
        for _, queue in self._heads():
            while (head := queue.peek()) is not None:
                queue.pop()
                if not head.future.done():
                    head.future.set_exception(error)

    def _read(self, headers: Mapping[str, str], departure: Departure, now: float) -> None:
        """Correct rate and levels by what the server says; it spoke of the time when the request arrived."""
        model, wall = self.model(departure.model), self._clock.now()
        model.told(read_quotas(headers, "requests", now=wall), departure, self.scope.limits, now)
        self._give_own_queue(model)
        if self.scope.limits.tokens_charged is None:
            quotas = read_quotas(headers, "tokens", now=wall)
            later, since = model.departed.tokens - departure.tokens, now - departure.at
            for scope in (self.scope, model.scope):
                scope.told_tokens(quotas, later=later, since=since, only=len(self.models) == 1, now=now)
