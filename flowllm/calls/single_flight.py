"""Equal requests at the same time are sent once: the first to ask leads, the others wait with it.

The call belongs to all its waiters. It ends when the last one leaves; its answer or its terminal error goes to
all, and each waiter's rows are in the one commit that makes the answer durable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from flowllm.calls.base import AnyRequest, Call, Caller, Layer, PendingCall
from flowllm.core.cancel import CallStopped
from flowllm.core.clock import Clock
from flowllm.core.events import RequestJoined
from flowllm.core.request import Answer
from flowllm.core.tasks import start_task
from flowllm.core.types import Json, WaitReason
from flowllm.storage.base import NodeWrite


class _Waiter:
    """One caller's place in a call."""

    __slots__ = ("call", "future", "joined_at")

    def __init__(self, call: Call, joined_at: float | None) -> None:
        self.call = call
        self.joined_at = joined_at
        """Monotonic seconds; None for the caller that leads."""
        self.future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()


class InFlightCall:
    """One call in flight and who waits for it. This is the `PendingCall` that the inner layers see."""

    def __init__(self, call: Call, clock: Clock) -> None:
        self.call = call
        self._clock = clock
        self.looked = clock.monotonic()
        self.on_wire = False
        self.sealed = False
        """Too late to join: its rows have been made (the response cache will have the answer), or it is being ended."""
        self.ended = asyncio.Event()
        self._waiters: list[_Waiter] = []
        self._paying: _Waiter | None = None
        self._task: asyncio.Task[Answer] | None = None

    def start(self, inner: Layer, landed: Callable[[InFlightCall], None]) -> None:
        """Set off; `landed` is called when it is over, however it ends."""
        self._task = start_task(inner.answer(self))
        self._task.add_done_callback(lambda task: self._land(task, landed))

    async def wait(self, call: Call, *, joined_at: float | None = None) -> Answer:
        """Wait for the answer with the others."""
        waiter = _Waiter(call, joined_at)
        self._waiters.append(waiter)
        token = call.caller.token
        token.listen(waiter, lambda: self._stop(waiter))
        try:
            return await waiter.future
        finally:
            token.forget(waiter)
            if self._leave(waiter) and call.local:  # a command is killed before its step has ended
                await self.ended.wait()

    def suits(self, call: Call) -> bool:
        """Its answer, whatever it is, is one that this call would have got by itself."""
        mine = self.call
        fresh_enough = call.ttl is None or (mine.ttl is not None and mine.ttl <= call.ttl)
        return not self.sealed and fresh_enough and call.keep_truncated == mine.keep_truncated

    def payer(self) -> Caller:
        """The first waiter whose run is not stopping; those whose run is, are sent away."""
        for waiter in list(self._waiters):
            if not waiter.call.caller.token.stopped:
                self._count_wait(waiter)
                waiter.joined_at = None
                self._paying = waiter
                return waiter.call.caller
            self._refuse(waiter)
        raise CallStopped

    def callers(self) -> Sequence[Caller]:
        """The node that pays, or will."""
        leader = self._paying if self._paying in self._waiters else next(iter(self._waiters), None)
        return () if leader is None else (leader.call.caller,)

    def holds_secret(self, value: Json) -> bool:
        """Of the run that pays, though it may have left, or of any waiter's."""
        waiters = self._waiters if self._paying is None else [self._paying, *self._waiters]
        redactors = {id(waiter.call.caller.redactor): waiter.call.caller.redactor for waiter in waiters}
        return any(redactor.value(value) != value for redactor in redactors.values())

    async def recalled(self, recall: Callable[[PendingCall], Awaitable[Answer | None]]) -> Answer | None:
        """What the response cache has of it by now."""
        return await recall(self)

    def departing(self, request: AnyRequest) -> AnyRequest:
        """The request as it is: all waiters want the same."""
        return request

    def shares(self, answer: Answer) -> Sequence[tuple[PendingCall, Answer]]:
        """The whole answer is this call's."""
        return ((self, answer),)

    def rows_for(self, answer: Answer) -> Sequence[NodeWrite]:
        """The rows of all waiters."""
        self.sealed = True
        for waiter in self._waiters:
            self._count_wait(waiter)
        return [row for waiter in self._waiters for row in waiter.call.rows_for(self._share(answer, waiter))]

    def _land(self, task: asyncio.Task[Answer], landed: Callable[[InFlightCall], None]) -> None:
        landed(self)
        self.ended.set()
        error = None if task.cancelled() else task.exception()
        for waiter in self._waiters:
            if waiter.future.done():
                continue
            self._count_wait(waiter)
            if task.cancelled():
                waiter.future.cancel()
            elif error is not None:
                waiter.future.set_exception(error)
            else:
                waiter.future.set_result(self._share(task.result(), waiter))

    def _count_wait(self, waiter: _Waiter) -> None:
        """Add what it has waited for the caller that leads, up to now."""
        if waiter.joined_at is not None:
            now = self._clock.monotonic()
            waiter.call.caller.waited(WaitReason.EQUAL_CALL, now - waiter.joined_at)
            waiter.joined_at = now

    def _stop(self, waiter: _Waiter) -> None:
        """The run of this waiter is stopping: what is on the wire may finish, the rest is not sent."""
        known = self._task is not None and self._task.done()
        if not self.on_wire and not self.sealed and not known:
            self._refuse(waiter)

    def _refuse(self, waiter: _Waiter) -> None:
        if not waiter.future.done():
            waiter.future.set_exception(CallStopped())
        self._leave(waiter)

    def _leave(self, waiter: _Waiter) -> bool:
        """Whether the call is broken off, as nobody waits for it any more."""
        if waiter in self._waiters:
            self._waiters.remove(waiter)
        if self._waiters or self.sealed or self._task is None or self._task.done():
            return False
        self.sealed = True
        return self._task.cancel()

    def _share(self, answer: Answer, waiter: _Waiter) -> Answer:
        """One of them pays, in whose run and under whose node the requests are on record."""
        paying = self._paying or self._waiters[0]
        return answer if answer.cached or waiter is paying else replace(answer, joined=True, cost_usd=0.0)


class InFlightCalls:
    """All calls in flight in the process: the way into this package."""

    def __init__(self, inner: Layer, clock: Clock) -> None:
        self._inner = inner
        self._clock = clock
        self._joinable: dict[tuple[str, str], InFlightCall] = {}
        self._running: set[InFlightCall] = set()

    async def answer(self, call: Call) -> Answer:
        """The answer to this call, durable, with its rows.

        Raises StepError when there is none, CallStopped when the run is stopping, StoreError when the answer
        could not be kept. What does not suit an equal call in flight waits for its end, and finds the answer in
        the response cache or asks itself: equal requests are never out at the same time.
        """
        caller = call.caller
        while not caller.token.stopped:
            in_flight = self._joinable.get((call.scope, call.key)) if call.join else None
            if in_flight is None:
                return await self._lead(call)
            now, began = self._clock.now(), self._clock.monotonic()
            joins = in_flight.suits(call)
            if joins:
                call.missed()
                if not call.local:
                    caller.emit(RequestJoined(run_id=caller.lease.run_id, node_id=caller.node_id, at=now))
            leader = next(iter(in_flight.callers()), None)
            caller.tell_waiting(WaitReason.EQUAL_CALL, at=now, leader=leader)
            if joins:
                return await in_flight.wait(call, joined_at=began)
            await caller.token.until_stopped(in_flight.ended.wait())
            caller.waited(WaitReason.EQUAL_CALL, self._clock.monotonic() - began)
        raise CallStopped

    async def _lead(self, call: Call) -> Answer:
        in_flight = InFlightCall(call, self._clock)
        self._running.add(in_flight)
        if call.join:
            self._joinable[call.scope, call.key] = in_flight
        in_flight.start(self._inner, self._landed)
        return await in_flight.wait(call)

    def _landed(self, in_flight: InFlightCall) -> None:
        self._running.discard(in_flight)
        place = (in_flight.call.scope, in_flight.call.key)
        if self._joinable.get(place) is in_flight:
            del self._joinable[place]

    async def drain(self) -> None:
        """Wait until no call is under way any more."""
        for in_flight in list(self._running):
            await in_flight.ended.wait()
