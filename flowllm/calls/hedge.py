"""Second attempts: a request that takes unusually long is sent once more, and the first answer counts.

The other attempt is abandoned: cancelled on the wire, and on record as such. A second attempt goes through budget and
limiter as any other and is durable before it is sent; in the queue it goes before all others of its tenant, since its first
attempt holds a slot until it is answered, and behind them would often wait for longer than the first. Requests are watched
by one timer for all of them; what is late is decided by `hedge_policy.py`.
"""

from __future__ import annotations

import asyncio
import math

from flowllm.calls.attempt import Attempt, Outcome
from flowllm.calls.base import AnyRequest, Caller
from flowllm.calls.budget import BudgetReservation
from flowllm.calls.call_state import CallState
from flowllm.calls.conversation import GiveUp, Send
from flowllm.calls.hedge_policy import HedgePolicy, Kind, Line
from flowllm.core.cancel import CallStopped
from flowllm.core.clock import Clock
from flowllm.core.errors import StepError, StoreError
from flowllm.core.money import Spend
from flowllm.core.request import Answer, Reply
from flowllm.core.tasks import start_task, to_the_end
from flowllm.core.types import Usage, step_path
from flowllm.limits.give_up import FailureReport
from flowllm.limits.limiter import Limiter, Permit
from flowllm.storage.base import Store

LAG = 0.1
"""Seconds by which the timer may be late. Where something held the event loop for longer, requests look late that are not:
their answers have not been read yet."""


class Hedges:
    """Watches the requests of the process that may be sent once more."""

    def __init__(self, limiter: Limiter, store: Store, clock: Clock) -> None:
        self.limiter = limiter
        self._store = store
        self._clock = clock
        self._policy: HedgePolicy[HedgedRequest] = HedgePolicy()
        self._timer: asyncio.Task[None] | None = None
        self._due = math.inf
        self._recalling: set[asyncio.Task[None]] = set()

    def departed(self, request: HedgedRequest) -> None:
        """Its first attempt is on the wire."""
        now = self._clock.monotonic()
        request.line = self._policy.departed(request, request.kind, request.fixed, now)
        due = now + request.line.due
        if due < self._due:
            self._wake_at(due)

    def landed(self, request: HedgedRequest, took: float | None) -> None:
        """One of its attempts was answered after so many seconds, or abandoned; None: it failed."""
        now = self._clock.monotonic()
        if request.line is not None and request.line.landed(request, now, took):
            self._look(now)

    def _look(self, now: float) -> None:
        for request in self._policy.unknown(now):
            task = start_task(self._recall(request))
            self._recalling.add(task)
            task.add_done_callback(self._recalling.discard)
        late, wait = self._policy.late(now)
        for request in late:
            request.send_again()
        if now + wait < self._due:
            self._wake_at(now + wait)

    async def _recall(self, request: HedgedRequest) -> None:
        """Learn from what is on record how long its like take."""
        try:
            seconds = await self._store.latencies(request.like)
        except StoreError:  # it is told where something is to be kept
            return
        now = self._clock.monotonic()
        if request.line is not None:
            request.line.of_model.remember(seconds, now)
            self._look(now)

    def _wake_at(self, due: float) -> None:
        self._stop_timer()
        self._due = due
        self._timer = start_task(self._wake(due - self._clock.monotonic()))

    async def _wake(self, seconds: float) -> None:
        await self._clock.sleep(seconds)
        now, due = self._clock.monotonic(), self._due
        self._timer, self._due = None, math.inf
        if now > due + LAG:
            self._wake_at(now + LAG)
        else:
            self._look(now)

    def close(self) -> None:
        """Send nothing more a second time."""
        self._stop_timer()
        for task in self._recalling:
            task.cancel()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._due = None, math.inf


class HedgedRequest:
    """One request of a call with its first attempt, and the second, if there is one."""

    def __init__(self, hedges: Hedges, state: CallState, first: Attempt, reservation: BudgetReservation) -> None:
        call = state.call
        self.kind: Kind = (
            call.provider.account,
            step_path(call.caller.node_id) if call.local else call.request.model,
            state.lineup is not None and state.lineup.cold,
            state.length.bit_length(),
        )
        """Its like are those of the same model with answers of about the same length, or of the same step; a prompt that the
        provider reads from its cache is not like one that it has to read."""
        self.like = first.record
        """On record, as its like are."""
        self.fixed = call.retry.hedge
        """Seconds after which it is late; None: as its like show."""
        self.line: Line[HedgedRequest] | None = None
        """Where it is watched, once it goes out."""
        self._hedges = hedges
        self._state = state
        self._first = first
        self._reservation = reservation
        self._request: AnyRequest = call.request
        """As it went out."""
        self._wire: asyncio.Task[object] | None = None
        """The task in which the first attempt is on the wire."""
        self._cut = False
        """The first attempt is broken off, as the second was answered."""
        self._task: asyncio.Task[None] | None = None
        """Of the second attempt."""
        self._aside: Caller | None = None
        """Whose budget has set something aside for a second attempt that is not there yet."""
        self._second: Attempt | None = None
        self._outcome: Outcome | None = None
        """Of the second attempt."""

    async def execute(self, request: AnyRequest) -> Send | Answer | GiveUp:
        """Send it; the outcome is durable when this returns. Raises StoreError, ProviderDown, CallStopped."""
        try:
            return await self._settle(await self._first.exchange(request, self._send))
        finally:
            try:
                await self._end_second()
            finally:
                for attempt in (self._first, self._second):
                    if attempt is not None:
                        attempt.close()

    async def _send(self, request: AnyRequest) -> Outcome | None:
        """The first attempt over the wire; None where the second was answered before it."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - this is a coroutine
        self._request, self._wire, cancelled = request, task, task.cancelling()
        self._hedges.departed(self)
        took = None
        try:
            outcome = await self._first.send(request)
            took = None if isinstance(outcome, StepError) else self._first.age
        except asyncio.CancelledError:  # by whom is told as `asyncio.timeout` does
            if not self._cut or task.cancelling() > cancelled + 1:
                raise
            self._first.abandoned = True
            took, outcome = self._first.age, None
        finally:
            self._wire = None
            if self._cut:
                task.uncancel()
            self._hedges.landed(self, took)
        return outcome

    async def _settle(self, outcome: Outcome | None) -> Send | Answer | GiveUp:
        report = None
        if isinstance(outcome, StepError):
            report = await self._first.fail(outcome)
            if self._second is not None and self._second.on_wire and self._task is not None:
                self._first.close()
                await asyncio.wait([self._task])
        if self._task is None:
            return await self._of_first(outcome, report)
        self._call_off(self._task)
        # What was answered is kept, though the call is cancelled while the other attempt is being broken off.
        return await to_the_end(self._of_both(outcome, report))

    async def _of_both(self, outcome: Outcome | None, report: FailureReport | None) -> Send | Answer | GiveUp:
        """What follows where a second attempt was begun."""
        if outcome is None:
            await self._first.abandon()
        if (report or outcome is None) and self._second is not None and isinstance(self._outcome, Reply):
            if isinstance(outcome, StepError):
                self._state.conversation.spent(outcome.usage or Usage())
            reply, self._outcome = self._outcome, None
            return await self._second.settle(reply)
        await self._end_second()
        return await self._of_first(outcome, report)

    async def _of_first(self, outcome: Outcome | None, report: FailureReport | None) -> Send | Answer | GiveUp:
        if isinstance(outcome, StepError) and report is not None:
            return self._first.follows(outcome, report)
        assert outcome is not None  # noqa: S101 - it is abandoned for a reply alone
        return await self._first.settle(outcome)

    # the second attempt

    def send_again(self) -> None:
        """It is late: send it once more, unless its run is stopping, or its budget has no room for that now."""
        caller = next(iter(self._state.pending.callers()), None)
        free = self._wire is not None and caller is not None and not caller.token.stopped
        if caller is None or not free or (caller.budget and not caller.budget.reserve_at_once(self._reservation)):
            self._not_sent()
            return
        self._aside, self._task = caller, start_task(self._send_second(caller))
        self._task.add_done_callback(lambda _: self._put_back())

    async def _send_second(self, caller: Caller) -> None:
        call = self._state.call
        try:
            permit = await self._hedges.limiter.acquire(
                call.provider.account,
                priority=call.priority,
                tokens=self._reservation.tokens,
                model=call.request.model,
                tenant=caller.tenant,
                ahead=True,
            )
        except StepError:  # what it means for the call, its first attempt will hear
            return
        assert isinstance(permit, Permit)  # noqa: S101 - it waits for no leader
        permit.lineup = self._state.lineup
        second = Attempt(self._state, caller, permit, self._reservation, first_sent_at=self._first.sent_at)
        self._second, self._aside = second, None
        try:
            self._outcome = await second.exchange(self._request, second.send)
            if isinstance(self._outcome, StepError):
                await second.fail(self._outcome)
        finally:
            if not second.on_wire:
                self._not_sent()
            if not isinstance(self._outcome, Reply):
                second.close()
                self._second = None
        if isinstance(self._outcome, Reply):
            self._hedges.landed(self, second.took)
            if self._wire is not None:
                self._cut = True
                self._wire.cancel()

    def _put_back(self) -> None:
        """Its task is over. It may have been cancelled in the queue, or before it began."""
        caller, self._aside = self._aside, None
        if caller is None:
            return
        if caller.budget is not None:
            caller.budget.reconcile(self._reservation, Spend())
        self._not_sent()

    def _not_sent(self) -> None:
        """There is no second attempt after all."""
        if self.line is not None:
            self.line.budget.give_back()

    def _call_off(self, task: asyncio.Task[None]) -> None:
        """Have the second attempt broken off, once, unless it was answered."""
        if self._outcome is None and not task.cancelling():
            if self._second is not None:
                self._second.abandoned = True
            task.cancel()

    async def _end_second(self) -> None:
        """The second attempt is not needed any more, whatever has come of it."""
        task, self._task = self._task, None
        if task is None:
            return
        self._call_off(task)
        await asyncio.wait([task])
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, StoreError | CallStopped):
            raise error
        if isinstance(self._outcome, StepError):
            self._state.conversation.spent(self._outcome.usage or Usage())
        elif self._outcome is not None and self._second is not None:
            await self._second.discard(self._outcome)
